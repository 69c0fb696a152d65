r"""Ways over a decision boundary: which wrong class lies nearest to an image, and the nearest image that has it.

Pure functions of tensors and callables. ``logits`` maps pixels (n, C, H, W) in [0, 1] to logits (n, b).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Logits = Callable[[Tensor], Tensor]


def runner_up(logits: Tensor, labels: Tensor) -> Tensor:
    """The likeliest class (n,) other than the label: argmax of logits (n, b) over j ≠ y.

    Example:
        >>> runner_up(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).tolist()
        [2]
    """
    return logits.scatter(1, labels.unsqueeze(1), -torch.inf).argmax(1)


def ascend_linf(
    logits: Logits, images: Tensor, labels: Tensor, *, bound: float, step_size: float, iterations: int = 1
) -> Tensor:
    """Away from the label inside an L∞ ball: x ← clip(x + s · sign ∇ CE(f(x), y)), |x − x₀| ≤ bound.

    One iteration with ``step_size = bound`` is FGSM (Goodfellow et al. 2015); more are PGD (Madry et al. 2018).

    Args:
        images: (n, C, H, W) in [0, 1].
        labels: (n,) to move away from.
        bound, step_size: in units of pixels in [0, 1].

    Returns:
        Pixels (n, C, H, W) in [0, 1].
    """
    moved = images
    for _ in range(iterations):
        gradient = _gradient(logits, moved, labels)[1]
        moved = (moved + step_size * gradient.sign() - images).clamp(-bound, bound)
        moved = (images + moved).clamp(0.0, 1.0)
    return moved


@dataclass(frozen=True)
class Crossing:
    """Images just across the boundary.

    Attributes:
        images: (n, C, H, W) in [0, 1].
        labels: (n,) the wrong class of each.
        distance: (n,) L2 distance to the original, in pixel units.
        crossed: (n,) bool; False where the whole pixel cube was searched in vain and the label is the runner-up.
    """

    images: Tensor
    labels: Tensor
    distance: Tensor
    crossed: Tensor


def closest_crossing(
    logits: Logits,
    images: Tensor,
    labels: Tensor,
    *,
    radius: float = 0.04,
    steps: int = 50,
    share: float = 0.1,
) -> Crossing:
    """Find a close adversarial example of each image by L2-PGD in a ball that doubles until the class is wrong.

    In a ball of radius ε up to ``steps`` steps of length ``share`` · ε go along the normalised gradient of the cross
    entropy; an image leaves as soon as it is misclassified, at once if it is from the start (distance 0). The
    others go on from where they are with 2ε, up to a ball that holds the whole pixel cube.

    Args:
        images: (n, C, H, W) in [0, 1].
        labels: (n,) right classes.
        radius: the first ε, in pixel units.

    Returns:
        A `Crossing`. Near a straight boundary at distance d > ``radius`` the result lies between d and about
        d · (1 + 2 · ``share``); in general no minimality is guaranteed.

    Source:
        Ebrahimpour-Boroojeny et al. 2025 (AMUN), with the settings of their public code.
    """
    moved, wrong = images.clone(), labels.clone()
    todo = torch.arange(len(images), device=images.device)
    end = math.sqrt(images[0].numel())
    while True:
        for _ in range(steps):
            values, gradient = _gradient(logits, moved[todo], labels[todo])
            todo, gradient = _leave(values, gradient, todo, labels, wrong)
            if not len(todo):
                break
            length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            delta = moved[todo] + share * radius * gradient / length - images[todo]
            scale = (radius / delta.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp(max=1.0)
            moved[todo] = (images[todo] + delta * scale.view(-1, 1, 1, 1)).clamp(0.0, 1.0)
        if not len(todo) or radius >= end:
            break
        radius *= 2
    crossed = torch.ones_like(labels, dtype=torch.bool)
    if len(todo):
        with torch.no_grad():
            values = logits(moved[todo]).float()
        wrong[todo] = runner_up(values, labels[todo])
        crossed[todo] = values.argmax(1) != labels[todo]
    return Crossing(moved, wrong, (moved - images).flatten(1).norm(dim=1), crossed)


def _leave(
    values: Tensor, gradient: Tensor, todo: Tensor, labels: Tensor, wrong: Tensor
) -> tuple[Tensor, Tensor]:
    """Note the class of images that are across; who is still on the way, and their gradients."""
    predicted = values.argmax(1)
    across = predicted != labels[todo]
    wrong[todo[across]] = predicted[across]
    return todo[~across], gradient[~across]


def _gradient(logits: Logits, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and a positive multiple of the gradient of each image's cross entropy by its pixels.

    CE = softplus(m) with m = logsumexp_{j≠y} z_j − z_y has the direction of ∇m, which does not vanish in floating
    point where the model is all but certain, as it is of images that it was trained on.
    """
    pixels = pixels.detach().requires_grad_(True)
    with torch.enable_grad():
        values = logits(pixels).float()
        others = values.scatter(1, labels.unsqueeze(1), -torch.inf)
        margin = others.logsumexp(1) - values.gather(1, labels.unsqueeze(1)).squeeze(1)
        (gradient,) = torch.autograd.grad(margin.sum(), pixels)
    return values.detach(), gradient
