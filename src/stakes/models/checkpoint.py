"""Classifiers on disk: ``model.safetensors`` with ``config.json`` beside it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from torch import nn

from stakes.anchors.safefile import stable_bytes
from stakes.errors import CheckpointError, NetworkError
from stakes.files import digest_tensors, write_bytes, write_json, writing
from stakes.models import zoo
from stakes.models.classifier import Classifier
from stakes.models.projector import Projector
from stakes.models.registry import build_described
from stakes.models.weights import PICKLES, SEAL, fill, locate, read_json, read_weights
from stakes.retry import patiently

_WANTED = ["*.safetensors", "*.json", "*.bin"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class _ProjectorShape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    width: PositiveInt
    hidden: PositiveInt


class _Settings(BaseModel):
    """The part of config.json that every kind of checkpoint has."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    class_names: tuple[str, ...]
    input_size: tuple[PositiveInt, PositiveInt, PositiveInt]
    num_classes: PositiveInt | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    head: str | None = None
    projector: _ProjectorShape | None = None


def load_checkpoint(
    path: str | Path, *, allow_pickle: bool = False, factory: Callable[[], nn.Module] | None = None
) -> Classifier:
    """Load a classifier from a safetensors file with its ``config.json`` beside it.

    ``config.json`` is one of

    * ours: ``architecture`` (a name of ``available()``, ``timm:NAME`` or ``torchvision:NAME``), ``stem``,
      ``num_classes``, ``class_names``, ``mean``, ``std``, ``input_size`` (C, H, W);
    * that of ``transformers`` (``model_type``): class names come from ``id2label``, normalisation and size
      from ``preprocessor_config.json``.

    Weights stored in half precision are loaded as float32.

    Args:
        path: the file, its folder, or a hub id such as ``microsoft/resnet-18`` (needs a network, or its
            cache).
        allow_pickle: take ``.pt``, ``.pth`` and ``.bin`` files too, by ``torch.load(weights_only=True)``.
        factory: builds the empty network, for an architecture that the library does not know. Code is never
            looked up by a name in a file.

    Returns:
        The classifier on the CPU, in eval mode.

    Raises:
        CheckpointError: missing, damaged, unsafe or unfitting files; NaN or infinity in weights; a number of
            class names other than the number of outputs.
        NetworkError: a hub id that cannot be fetched.
        MissingExtraError: timm or torchvision is needed and not installed.

    Example:
        >>> model = load_checkpoint("checkpoints/cifar10-resnet18")  # doctest: +SKIP
        >>> model.class_names[:2]  # doctest: +SKIP
        ('airplane', 'automobile')
    """
    where = _resolve(path)
    files = locate(where, allow_pickle=allow_pickle)
    folder = files[0].parent
    config = read_json(folder / "config.json")
    state = read_weights(files)
    settings = _settings(config, folder)
    projector = _take_projector(settings, state)
    network = factory() if factory is not None else _network(config, settings)
    if "model_type" in config and factory is None:
        state = zoo.translate_transformers(network, state)
    fill(network, state)
    classifier = Classifier.from_network(
        network,
        class_names=settings.class_names,
        input_size=settings.input_size,
        mean=settings.mean,
        std=settings.std,
        head=settings.head,
        config={k: v for k, v in config.items() if k == "model_type" or k not in _ours(config)},
    )
    if "model_type" not in config and not isinstance(config.get("architecture"), str):
        classifier.architecture = None  # only the user's factory knows
    classifier.projector = projector
    return classifier


def save_checkpoint(classifier: Classifier, folder: Path) -> None:
    """Write ``model.safetensors`` (float32) and ``config.json``: a reload gives bit-equal logits.

    A new folder appears whole or not at all; in an existing one each file is replaced whole and others are
    left. The bits agree on the same machine, device and memory format; elsewhere, kernels may round
    differently. The weights carry their SHA-256, so a damaged file is refused when it is loaded.

    Args:
        classifier: any classifier in float32, on any device.
        folder: where to write; parents are made.

    Raises:
        CheckpointError: weights that are not float32, or a projector of another class than ``Projector``.
        OutputError: the folder cannot be written.
    """
    if classifier.projector is not None and not isinstance(classifier.projector, Projector):
        raise CheckpointError(
            "the projector cannot be saved",
            expected="a stakes.models.Projector",
            got=type(classifier.projector).__name__,
        )
    state = {
        name: value.to("cpu").contiguous().clone() for name, value in classifier.exported_state().items()
    }
    wrong = [f"{k} {v.dtype}" for k, v in state.items() if v.is_floating_point() and v.dtype != torch.float32]
    if wrong:
        raise CheckpointError(
            "precision of the weights",
            expected="float32, so that what is saved is what was measured",
            got=wrong[0],
            fix="Convert with classifier.float() and measure again.",
        )
    data = stable_bytes(state, {"format": "pt", SEAL: digest_tensors(state)})
    folder = Path(folder)
    if folder.exists():
        write_json(folder / "config.json", classifier.config)
        write_bytes(folder / "model.safetensors", data)
        return
    with writing(folder) as temporary:
        write_json(temporary / "config.json", classifier.config)
        write_bytes(temporary / "model.safetensors", data)


def _ours(config: Mapping[str, Any]) -> set[str]:
    """Keys that the classifier writes itself, and so must not be kept a second time."""
    return {"stakes"} if "model_type" in config else set(_Settings.model_fields)


def _resolve(path: str | Path) -> Path:
    local = Path(path).expanduser()
    text = str(path)
    if local.exists() or local.suffix in (".safetensors", *PICKLES) or not _HUB_ID.fullmatch(text):
        return local
    return _download(text)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(patiently(f"model {hub_id}", lambda: snapshot_download(hub_id, allow_patterns=_WANTED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise NetworkError(
            f"{hub_id} is neither a file or folder here nor a model that the hub could give",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            fix="Check the path, or the network, or download it elsewhere and give its folder.",
        ) from error


def _settings(config: Mapping[str, Any], folder: Path) -> _Settings:
    values = dict(config)
    if "model_type" in config:
        values = config.get("stakes") or _transformers_settings(config, folder)
    try:
        settings = _Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"config.json in {folder}",
            expected="class_names, input_size [C, H, W], and where they apply num_classes, mean, std",
            got=f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}",
        ) from error
    if settings.num_classes not in (None, len(settings.class_names)):
        raise CheckpointError(
            f"class names in {folder / 'config.json'}",
            expected=f"{settings.num_classes}, which num_classes says",
            got=str(len(settings.class_names)),
        )
    return settings


def _transformers_settings(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    labels = config.get("id2label") or {
        "0": "LABEL_0",
        "1": "LABEL_1",
    }  # transformers leaves out its own default
    names = [labels[key] for key in sorted(labels, key=int)]
    channels = int(config.get("num_channels", 3))
    side: Any = config.get("image_size", 224)
    mean = std = None
    if (file := folder / "preprocessor_config.json").is_file():
        pre = read_json(file)
        side = (pre.get("do_center_crop") and pre.get("crop_size")) or pre.get("size") or side
        if pre.get("do_normalize", True):
            mean, std = pre.get("image_mean"), pre.get("image_std")
    else:
        warnings.warn(
            f"no preprocessor_config.json in {folder}: taking {side} pixels in [0, 1] without normalisation",
            stacklevel=3,
        )
    if isinstance(side, dict):
        edge = side.get("shortest_edge")
        side = (side.get("height", edge), side.get("width", edge))
    height, width = (side, side) if isinstance(side, int) else tuple(side)
    return {"class_names": names, "input_size": (channels, height, width), "mean": mean, "std": std}


def _take_projector(settings: _Settings, state: dict[str, torch.Tensor]) -> Projector | None:
    """Build the projector and take its weights out of ``state``."""
    if settings.projector is None:
        return None
    projector = Projector(settings.projector.width, settings.projector.hidden)
    names = [name for name in state if name.startswith("projector.")]
    fill(projector, {name.removeprefix("projector."): state.pop(name) for name in names})
    return projector.eval()


def _network(config: Mapping[str, Any], settings: _Settings) -> nn.Module:
    architecture = config.get("architecture")
    if "model_type" not in config and not isinstance(architecture, str):
        raise CheckpointError(
            "config.json does not say how to build the network",
            expected="architecture",
            got=repr(architecture),
            fix="Pass factory=, a function that builds the empty network.",
        )
    return build_described(config, num_classes=len(settings.class_names), in_channels=settings.input_size[0])
