r"""The probe set: targeted adversarial variants of the forget set, standing in for retained images (section 3.2).

For an image x with label y the probe number j has a target class t drawn uniformly among the other classes
and solves, by projected gradient descent with normalised steps,

    minimise CE(f(x + δ), t)   subject to   ‖δ‖₂ ≤ ε,   x + δ ∈ [0, 1]ⁿ .

Everything here is a pure function of tensors and callables; `stakes.probe_store` keeps the results on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.runtime import generator


@dataclass(frozen=True)
class ProbeDraw:
    """The random part of one probe: its target class and its start inside the ball of radius ε.

    Attributes:
        target: class number, never the label of the image.
        start: δ₀, shape (C, H, W), ‖δ₀‖₂ ≤ ε.
    """

    target: int
    start: Tensor


def draw_probe(
    image_hash: str,
    label: int,
    probe: int,
    *,
    num_classes: int,
    shape: Sequence[int],
    epsilon: float,
    seed: int,
) -> ProbeDraw:
    """Draw target and start of one probe from a generator of its own.

    The draw depends on the image's content, the probe's number and the seed alone, so it is the same whatever
    the batch size, the order of the forget set, or the number of probes and images beside it.
    The start has a uniform direction and a radius uniform in [0, ε].

    Example:
        >>> draw = draw_probe("ab", 3, 0, num_classes=10, shape=(3, 4, 4), epsilon=1.0, seed=0)
        >>> draw.target != 3 and bool(draw.start.norm() <= 1.0)
        True
    """
    source = generator("probe", seed, image_hash, label, probe)
    other = int(torch.randint(num_classes - 1, (1,), generator=source))
    direction = torch.randn(tuple(shape), generator=source)
    radius = epsilon * torch.rand(1, generator=source)
    return ProbeDraw(other + (other >= label), direction / direction.norm().clamp_min(1e-12) * radius)


def targeted_pgd(
    logits: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    starts: Tensor,
    *,
    epsilon: float | Tensor,
    step_size: float,
    iterations: int,
) -> Tensor:
    """Push images towards target classes inside an L2 ball (Madry et al. 2018, with L2 steps).

    Args:
        logits: maps pixels (n, C, H, W) in [0, 1] to logits (n, b).
        images: the originals, (n, C, H, W) in [0, 1].
        targets: (n,) class numbers to move towards.
        starts: δ₀, (n, C, H, W).
        epsilon: radius ε of the ball, one number or (n,).
        step_size: L2 length of each step.
        iterations: number of steps.

    Returns:
        Probes (n, C, H, W) in [0, 1], within ε of the originals. Not guaranteed to be classified as the target.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> x = torch.full((1, 1, 2, 2), 0.5)
        >>> probe = targeted_pgd(net, x, torch.tensor([1]), torch.zeros_like(x),
        ...                      epsilon=0.2, step_size=0.1, iterations=5)
        >>> bool((probe - x).norm() <= 0.2 + 1e-6)
        True
    """
    radius = torch.as_tensor(epsilon, dtype=images.dtype, device=images.device).expand(len(images))
    probes = _project(images + starts, images, radius)
    for _ in range(iterations):
        probes.requires_grad_(True)
        with torch.enable_grad():
            loss = F.cross_entropy(logits(probes).float(), targets, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, probes)
        length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
        probes = _project(probes.detach() - step_size * gradient / _column(length), images, radius)
    return probes


def _project(probes: Tensor, images: Tensor, radius: Tensor) -> Tensor:
    """Back into the ball, then into the box: the box holds the centre, so this cannot leave the ball."""
    delta = probes - images
    length = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
    return (images + delta * _column((radius / length).clamp(max=1.0))).clamp(0.0, 1.0)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
