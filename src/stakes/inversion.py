r"""Probes made by inverting the model: images of every class that match the statistics of its training data.

For a target class t a probe minimises over pixels x in [0, 1]

    CE(f(τ(x)), t) + λ_s · 1/L Σ_l (‖μ_l(x) − μ̂_l‖₂ + ‖σ²_l(x) − σ̂²_l‖₂) + λ_v · TV(x) ,

where μ_l, σ²_l are channel means and variances over the batch at the input of BatchNorm layer l, μ̂_l, σ̂²_l its running
ones, and τ moves the image by up to two pixels and mirrors two batches in five. A network without BatchNorm keeps no
statistics; there those of forget images count (`stakes.layer_statistics`).
The start is a mixture of two turned forget images, so few iterations are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.config import InversionSettings
from stakes.layer_statistics import Gaps, kept, measured
from stakes.models.classifier import Classifier


def mixed_starts(images: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Start images: each a mixture of two images, one mirrored, turned by a multiple of 90° where square.

    Args:
        images: (k, C, H, W) in [0, 1].
        count: starts wanted, n.

    Returns:
        (n, C, H, W) in [0, 1].

    Example:
        >>> mixed_starts(torch.rand(2, 3, 4, 4), 5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3, 4, 4])
    """
    first = images[torch.randint(len(images), (count,), generator=draws)]
    second = images[torch.randint(len(images), (count,), generator=draws)].flip(-1)
    share = torch.rand((count, 1, 1, 1), generator=draws).to(images)
    turns = torch.randint(4, (count,), generator=draws)
    mixed = share * first + (1 - share) * second
    square = images.shape[-1] == images.shape[-2]
    if not square:
        turns = 2 * (turns // 2)
    for turn in (1, 2, 3) if square else (2,):
        mixed[turns == turn] = mixed[turns == turn].rot90(turn, (-2, -1))
    return mixed


def invert(
    classifier: Classifier,
    starts: Tensor,
    targets: Tensor,
    settings: InversionSettings,
    draws: torch.Generator,
    *,
    like: Tensor | None = None,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Move images towards target classes and towards the statistics of the training data, by Adam.

    Args:
        classifier: in evaluation mode; its weights are not changed.
        starts: (n, C, H, W) in [0, 1].
        targets: (n,) class numbers.
        draws: a CPU generator for moves and mirrors.
        like: (m, C, H, W) in [0, 1]: images whose statistics are wanted, measured in one more pass, where the network
            has no BatchNorm; left out, there are none to come near to.
        forward: takes the place of the classifier's own call, for counting and precision.

    Returns:
        (n, C, H, W) in [0, 1]. Not guaranteed to be classified as the target, nor to resemble training images: they
        share class scores and channel statistics with them, that is all.

    Source:
        Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020, sections 3.2
        and 3.3, with fewer iterations and another start. Without BatchNorm the statistics are ours: those of a few
        images stand for those of all.

    Example:
        >>> from stakes.models import build_network
        >>> network = build_network("resnet10", num_classes=2, width=4)
        >>> model = Classifier.from_network(network, class_names=["cat", "dog"], input_size=(3, 8, 8)).eval()
        >>> few = InversionSettings(iterations=1)
        >>> invert(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), few, torch.Generator()).shape
        torch.Size([2, 3, 8, 8])
    """
    call = forward or classifier
    pixels = starts.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([pixels], lr=settings.lr, betas=(0.5, 0.9))
    wanted = kept(classifier)
    if not wanted and like is not None and settings.statistics_weight:
        wanted = measured(classifier, partial(call, like))
    with Gaps(wanted) as gaps, torch.enable_grad():
        for iteration in range(settings.iterations):
            optimizer.param_groups[0]["lr"] = settings.lr * (1 - 0.9 * iteration / settings.iterations)
            logits = call(_moved(pixels, draws))
            loss = F.cross_entropy(logits.float(), targets)
            loss = loss + settings.statistics_weight * gaps.mean() + settings.smoothness * _roughness(pixels)
            (pixels.grad,) = torch.autograd.grad(loss, [pixels])
            optimizer.step()
            pixels.data.clamp_(0, 1)
    return pixels.detach()


def _moved(pixels: Tensor, draws: torch.Generator) -> Tensor:
    down, right, mirror = torch.randint(-2, 3, (3,), generator=draws).tolist()
    moved = torch.roll(pixels, (down, right), (-2, -1))
    return moved.flip(-1) if mirror % 2 else moved


def _roughness(pixels: Tensor) -> Tensor:
    down = (pixels[..., 1:, :] - pixels[..., :-1, :]).pow(2).sum()
    right = (pixels[..., :, 1:] - pixels[..., :, :-1]).pow(2).sum()
    return (down + right) / len(pixels)
