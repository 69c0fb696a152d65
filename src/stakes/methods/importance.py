"""Weight importance from the forget set alone (MAS), as L2UL uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]


def mas_importance(
    forward: Forward, parameters: Mapping[str, nn.Parameter], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Memory aware synapses: I_i = Σ_B |B|/N · |∂/∂θ_i (1/|B| Σ_{x∈B} ‖f(x)‖₂)|.

    Args:
        forward: pixels (n, C, H, W) to logits (n, b), through live ``parameters``.
        parameters: named θ, requiring gradients; their ``.grad`` is not touched.
        batches: pixels, a batch at a time.

    Returns:
        A tensor of θ's shape for each name, at least 0; zeros for what the logits do not depend on.

    Source:
        Aljundi et al., "Memory Aware Synapses", ECCV 2018, with the plain norm of the logits where they square it,
        and the absolute value taken of a batch's mean: both as in L2UL. Gradients of opposite sign inside a batch
        cancel.
    """
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    images = 0
    for pixels in batches:
        norm = torch.linalg.vector_norm(forward(pixels), dim=1).mean()
        gradients = torch.autograd.grad(norm, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.abs() * len(pixels)
        images += len(pixels)
    return {name: value / max(images, 1) for name, value in total.items()}


def protection(importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """1 − min-max(I) in each tensor: 0 where the forget set hangs on a weight most, 1 where least.

    A tensor whose entries are all equal says nothing about which of them matters: it is protected whole, with 1.

    Example:
        >>> protection({"w": torch.tensor([0.0, 1.0, 4.0])})["w"]
        tensor([1.0000, 0.7500, 0.0000])
    """
    scaled = {}
    for name, value in importance.items():
        low, width = value.min(), value.max() - value.min()
        scaled[name] = 1 - (value - low) / torch.where(width > 0, width, torch.ones_like(width))
    return scaled
