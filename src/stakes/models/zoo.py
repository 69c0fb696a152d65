"""Networks from timm, torchvision and transformers, each imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from stakes.errors import CheckpointError, ConfigError, MissingExtraError


def _extra(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        installed = not isinstance(error, ModuleNotFoundError)
        raise MissingExtraError(
            f"{name} {f'does not load ({error})' if installed else 'is not installed'}",
            fix="Install it, in the version that fits torch, with: pip install 'stakes[zoo]'.",
        ) from error


def build_timm(name: str, *, num_classes: int, in_channels: int = 3, **options: Any) -> nn.Module:
    """An untrained timm network, e.g. ``resnet18``; ``options`` go to ``timm.create_model``.

    Raises:
        MissingExtraError: timm is not installed.
        ConfigError: timm does not know the name or an option.
    """
    if ":" in name:  # hf-hub: and local-dir: open what they name
        raise ConfigError("name of a timm network", expected="one such as resnet18", got=repr(name))
    timm = _extra("timm")
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **options
        )
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"timm cannot build {name!r} ({error})") from error
    return _described(network, f"timm:{name}", in_channels, options)


def build_torchvision(name: str, *, num_classes: int, in_channels: int = 3, **options: Any) -> nn.Module:
    """An untrained torchvision classifier, e.g. ``mobilenet_v3_small``; ``options`` go to its constructor.

    Raises:
        MissingExtraError: torchvision is not installed.
        ConfigError: torchvision does not know the name or an option, or the images are not in colour.
    """
    models = _extra("torchvision.models")
    if in_channels != 3:
        raise ConfigError("channels for a torchvision network", expected="3", got=str(in_channels))
    try:
        network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"torchvision cannot build {name!r} ({error})") from error
    return _described(network, f"torchvision:{name}", in_channels, options)


def _described(
    network: nn.Module, architecture: str, in_channels: int, options: Mapping[str, Any]
) -> nn.Module:
    network.description = {  # type: ignore[assignment]
        "architecture": architecture,
        "in_channels": in_channels,
        "options": dict(options),
    }
    return network


BUILDERS: dict[str, Callable[..., nn.Module]] = {"timm": build_timm, "torchvision": build_torchvision}


def describe_transformers(network: nn.Module) -> dict[str, Any] | None:
    """The ``transformers`` config of a network as JSON-able values, or None for other networks."""
    config = getattr(network, "config", None)
    if config is None or not (hasattr(config, "model_type") and hasattr(config, "to_json_string")):
        return None
    import json

    described: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    described["architectures"] = [type(network).__name__]
    described["attn_implementation"] = getattr(config, "_attn_implementation", None)  # rounds in its own way
    return described


# Ours; spelled by the call; or able to run code or change the precision.
_NOT_FOR_TRANSFORMERS = frozenset(
    {
        "stakes",
        "model_type",
        "auto_map",
        "dtype",
        "torch_dtype",
        "attn_implementation",
        "_attn_implementation",
    }
)


def build_transformers(config: Mapping[str, Any], *, seed: int = 0) -> nn.Module:
    """A ``transformers`` image classifier with seeded random weights from what its ``config.json`` says.

    Nothing is downloaded, and code named in the config (``auto_map``, attention kernels) is never run.

    Raises:
        CheckpointError: transformers has no image classifier of that type, or the config is malformed.
    """
    from transformers import AutoConfig, AutoModelForImageClassification

    values = {k: v for k, v in config.items() if k not in _NOT_FOR_TRANSFORMERS}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            settings = AutoConfig.for_model(config["model_type"], **values)
            attention = config.get("attn_implementation")
            network: nn.Module = AutoModelForImageClassification.from_config(
                settings,
                trust_remote_code=False,
                attn_implementation=attention if attention in ("eager", "sdpa") else None,
            )
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"transformers cannot build an image classifier from this config.json ({error})",
            fix="Check model_type, or load it yourself and use Classifier.from_network.",
        ) from error
    return network


def translate_transformers(network: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights under the names of the installed ``transformers``, which renames layers between versions.

    Names that cannot be translated are left as they are, so that the caller can report them.
    """
    if state.keys() == network.state_dict().keys():
        return dict(state)
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            loaded, report = type(network).from_pretrained(  # type: ignore[attr-defined]
                None, config=network.config, state_dict=dict(state), output_loading_info=True
            )
    except (RuntimeError, ValueError, KeyError):
        return dict(state)
    finally:
        if bars:
            logging.enable_progress_bar()
    translated = {k: v for k, v in loaded.state_dict().items() if k not in report["missing_keys"]}
    return translated | {k: state[k] for k in report["unexpected_keys"] if k in state}
