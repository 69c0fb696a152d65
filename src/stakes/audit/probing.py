"""Reading a label from the layers of a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stakes.audit.outputs import Array
from stakes.data.images import ImageSet
from stakes.models.classifier import Classifier
from stakes.runtime import evaluating

FEATURES = "features"
_ENOUGH = 3  # blocks, before looking inside the largest


def blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The top-level blocks of any network, by dotted name, in the order of their definition.

    Lists of modules are opened; while fewer than three blocks are found, the largest is opened. Modules without
    weights (activations, pooling) and normalisations are left out.

    Example:
        >>> list(blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2))))
        ['0', '2', '3']
    """
    found = _opened(network, "")
    while len(found) < _ENOUGH:
        inside = {name: _opened(module, f"{name}.") for name, module in found.items()}
        openable = [name for name in found if len(inside[name]) > 0]
        if not openable:
            break
        largest = max(openable, key=lambda name: _size(found[name]))
        rows = [inside[name] if name == largest else {name: found[name]} for name in found]
        found = {name: module for row in rows for name, module in row.items()}
    return found


def _opened(module: nn.Module, prefix: str) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            found |= _opened(child, f"{prefix}{name}.")
        elif any(parameter.dim() >= 2 for parameter in child.parameters()):
            found[f"{prefix}{name}"] = child
    return found


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def layer_features(
    classifier: Classifier, images: ImageSet, *, most: int, width: int, batch: int, device: torch.device
) -> dict[str, Array]:
    """Outputs of the blocks, pooled, and the features: (N, d) by layer, in the order in which they are computed.

    Maps (n, C, H, W) are averaged over a 2 × 2 grid where that gives at most ``width`` values, else over all places;
    tokens (n, T, d) over all tokens; anything wider is averaged down to ``width``.

    Args:
        most: at most that many layers, evenly spread over the depth; the features, which are the input of the head,
            come on top.
    """
    wanted = blocks(classifier.body)
    caught: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {}
    with ExitStack() as hooks, evaluating(classifier):
        for name, module in wanted.items():
            hooks.callback(module.register_forward_hook(_catcher(name, caught, width)).remove)
        for start in range(0, len(images), batch):
            caught.clear()
            pixels = images.batch(slice(start, min(start + batch, len(images)))).to(device)
            features = classifier.features(pixels)
            if classifier.projector is not None:
                caught["projector"] = _pooled(classifier.projector(features), width)
            caught[FEATURES] = _pooled(features, width)
            for name, value in caught.items():
                parts.setdefault(name, []).append(value.cpu())
    found = {name: torch.cat(values).double().numpy() for name, values in parts.items()}
    last = {name: found.pop(name) for name in (FEATURES, "projector") if name in found}
    names = list(found)
    if len(names) > most:
        names = [names[at] for at in np.linspace(0, len(names) - 1, most).round().astype(int)]
    return {name: found[name] for name in names} | last


def _catcher(
    name: str, caught: dict[str, Tensor], width: int
) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        tensor = _first_tensor(output)
        if tensor is not None and tensor.dim() >= 2:
            caught[name] = _pooled(tensor, width)  # at once: a later in-place activation would change it

    return hook


def _first_tensor(output: Any) -> Tensor | None:
    """Networks of transformers give tuples, or objects that act like dictionaries."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(values, tuple) or isinstance(output, Mapping):
        return next((value for value in values if isinstance(value, Tensor)), None)
    return None


def _pooled(tensor: Tensor, width: int) -> Tensor:
    if tensor.dim() == 4:
        grid = 2 if 4 * tensor.shape[1] <= width else 1
        tensor = functional.adaptive_avg_pool2d(tensor.float(), grid)
    elif tensor.dim() == 3:
        tensor = tensor.float().mean(1)
    flat = tensor.float().flatten(1)
    if flat.shape[1] > width:
        flat = functional.adaptive_avg_pool1d(flat[:, None], width).squeeze(1)
    return flat.detach().clone()


def readable(
    train: Array, labels: Tensor, tests: Mapping[str, tuple[Array, Tensor]], *, inverse_penalty: float
) -> dict[str, float]:
    """Fit a logistic regression on one set, and give its accuracy in percent on others.

    Args:
        train: (N, d) features; labels: (N,), of at least two classes.
        tests: features and labels by name.

    Source:
        scikit-learn's LogisticRegression on standardised features. A linear probe that fails does not show that the
        label is absent: a nonlinear one may find it.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=500))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an unfinished probe is only a weaker one
        model.fit(train, labels.numpy())
    return {
        name: float(100 * (model.predict(features) == truth.numpy()).mean())
        for name, (features, truth) in tests.items()
    }
