"""Networks by name, and the description from which a network can be built again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from stakes.errors import CheckpointError, ConfigError, StakesError
from stakes.models import zoo
from stakes.models.resnet import resnet10, resnet18, resnet50
from stakes.models.wiring import wiring

_OWN: dict[str, Callable[..., nn.Module]] = {"resnet10": resnet10, "resnet18": resnet18, "resnet50": resnet50}


def available() -> tuple[str, ...]:
    """Names that ``build_network`` knows; ``timm:NAME`` and ``torchvision:NAME`` come on top."""
    return tuple(_OWN)


def build_network(
    architecture: str, *, num_classes: int, in_channels: int = 3, seed: int = 0, **options: Any
) -> nn.Module:
    """Build an untrained network by name; the same seed gives the same weights.

    Args:
        architecture: one of ``available()``, ``timm:NAME`` or ``torchvision:NAME``.
        num_classes: number of outputs.
        in_channels: channels of the image.
        seed: of the initial weights. The global generator is left as it was.
        options: for the library's own networks ``stem`` and ``width``; for others what their constructor
            takes.

    Raises:
        ConfigError: an unknown name or option.
        MissingExtraError: timm or torchvision is not installed.

    Example:
        >>> build_network("resnet18", num_classes=10, stem="cifar")(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if architecture in _OWN:
            try:
                return _OWN[architecture](num_classes=num_classes, in_channels=in_channels, **options)
            except TypeError as error:
                raise ConfigError(
                    f"options of {architecture}", expected="stem, width", got=", ".join(options)
                ) from error
        source, separator, name = architecture.partition(":")
        if separator and source in zoo.BUILDERS:
            return zoo.BUILDERS[source](name, num_classes=num_classes, in_channels=in_channels, **options)
    raise ConfigError(
        "unknown architecture",
        expected=", ".join(available()) + ", timm:NAME or torchvision:NAME",
        got=repr(architecture),
    )


def options_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``build_network`` in a description, as in ``config.json``; what else stands there are notes.

    Example:
        >>> options_of({"architecture": "resnet18", "stem": "cifar", "trained": "by us", "options": {"width": 32}})
        {'stem': 'cifar', 'width': 32}

    Raises:
        CheckpointError: an option that would open a file or run code.
    """
    own = {key: description[key] for key in ("stem", "width") if key in description}
    more = description.get("options")
    options = own | (dict(more) if isinstance(more, Mapping) else {})
    _refuse_reaching_out(options)
    return options


_CODE = ("checkpoint_path", "cache_dir", "scriptable", "exportable")
_SCALARS = (str, int, float, bool, type(None))


def _refuse_reaching_out(options: Mapping[str, Any]) -> None:
    """Options of a file say how to build a network, never what to open: that may run code."""
    for name, value in options.items():
        plain = value if isinstance(value, list) else [value]
        reaches = name in _CODE or name.startswith(("pretrained", "weights"))
        if reaches or not all(isinstance(one, _SCALARS) for one in plain):
            raise CheckpointError(
                f"option {name!r} of the network in config.json",
                expected="numbers, names and flags that shape the layers",
                got=repr(value)[:80],
                fix="Take it out; weights are read from the checkpoint itself.",
            )


def build_described(
    description: Mapping[str, Any], *, num_classes: int, in_channels: int, seed: int = 0
) -> nn.Module:
    """The untrained network that a description stands for, as in ``config.json``.

    Raises:
        CheckpointError: an option that would open a file or run code, or a malformed description.
        ConfigError: an unknown name or option.
        MissingExtraError: timm or torchvision is not installed.
    """
    if "model_type" in description:
        return zoo.build_transformers(description, seed=seed)
    return build_network(
        str(description["architecture"]),
        num_classes=num_classes,
        in_channels=in_channels,
        seed=seed,
        **options_of(description),
    )


def rebuildable(network: nn.Module, *, num_classes: int, in_channels: int) -> dict[str, Any] | None:
    """``describe``, where what is built from it is this network; None where its layers were changed since."""
    found = describe(network)
    if found is None:
        return None
    try:
        built = build_described(found, num_classes=num_classes, in_channels=in_channels)
    except StakesError:
        return None
    return found if wiring(built) == wiring(network) else None


def describe(network: nn.Module) -> dict[str, Any] | None:
    """How to build ``network`` again, as in ``config.json``; None for a network the library does not know."""
    description = getattr(network, "description", None)
    if isinstance(description, dict) and "architecture" in description:
        return dict(description)
    return zoo.describe_transformers(network)
