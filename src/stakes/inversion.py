r"""Probes made by inverting the model: images of every class that match the statistics its BatchNorm layers keep.

For a target class t a probe minimises over pixels x in [0, 1]

    CE(f(τ(x)), t) + λ_s · 1/L Σ_l (‖μ_l(x) − μ̂_l‖₂ + ‖σ²_l(x) − σ̂²_l‖₂) + λ_v · TV(x) ,

where μ_l, σ²_l are channel means and variances over the batch at the input of BatchNorm layer l, μ̂_l, σ̂²_l its running
ones, and τ moves the image by up to two pixels and mirrors two batches in five. A network without BatchNorm has the
first and last term only. The start is a mixture of two turned forget images, so few iterations are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.config import InversionSettings
from stakes.models.classifier import Classifier

FIRST_LAYER = 10.0  # its statistics are those of the pixels themselves and hold the picture together


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
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Move images towards target classes and towards the statistics of the training data, by Adam.

    Args:
        classifier: in evaluation mode; its weights are not changed.
        starts: (n, C, H, W) in [0, 1].
        targets: (n,) class numbers.
        draws: a CPU generator for moves and mirrors.
        forward: takes the place of the classifier's own call, for counting and precision.

    Returns:
        (n, C, H, W) in [0, 1]. Not guaranteed to be classified as the target, nor to resemble training images: they
        share class scores and channel statistics with them, that is all.

    Source:
        Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020, sections 3.2
        and 3.3, with fewer iterations and another start.

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
    gaps = _Gaps(classifier)
    with gaps, torch.enable_grad():
        for iteration in range(settings.iterations):
            optimizer.param_groups[0]["lr"] = settings.lr * (1 - 0.9 * iteration / settings.iterations)
            logits = call(_moved(pixels, draws))
            loss = F.cross_entropy(logits.float(), targets)
            loss = loss + settings.statistics_weight * gaps.mean() + settings.smoothness * _roughness(pixels)
            (pixels.grad,) = torch.autograd.grad(loss, [pixels])
            optimizer.step()
            pixels.data.clamp_(0, 1)
    return pixels.detach()


class _Gaps:
    """How far the batch is from the running statistics, layer by layer, while entered."""

    def __init__(self, classifier: Classifier) -> None:
        self._layers = [
            module
            for module in classifier.modules()
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
        ]
        self._found: list[Tensor] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        self._hooks = [layer.register_forward_hook(self._look) for layer in self._layers]

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _look(self, layer: Any, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        mean, variance = _Moments.apply(inputs[0].float())
        self._found.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())

    def mean(self) -> Tensor | float:
        found, self._found = self._found, []
        if not found:
            return 0.0
        return (FIRST_LAYER * found[0] + sum(found[1:])) / len(found)


class _Moments(torch.autograd.Function):
    """Mean and variance (uncorrected) of each channel of (n, C, H, W), in two passes over it and one back.

    Left to autograd they are many more, and cost two fifths of what the network itself does.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        """Both (C,)."""
        over = (0, 2, 3)
        mean = values.mean(dim=over)
        squares = torch.linalg.vector_norm(values, dim=over).square() / (values.numel() / values.shape[1])
        ctx.save_for_backward(values, mean)
        return mean, squares - mean.square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Of a mean m and a variance v, for each of N values x of a channel: (∂m + 2 (x − m) ∂v) / N."""
        values, mean = ctx.saved_tensors
        of_mean, of_variance = gradients
        share = values.shape[1] / values.numel()
        slope = 2 * share * of_variance
        level = share * of_mean - slope * mean
        return torch.addcmul(level.view(1, -1, 1, 1), values, slope.view(1, -1, 1, 1))


def _moved(pixels: Tensor, draws: torch.Generator) -> Tensor:
    down, right, mirror = torch.randint(-2, 3, (3,), generator=draws).tolist()
    moved = torch.roll(pixels, (down, right), (-2, -1))
    return moved.flip(-1) if mirror % 2 else moved


def _roughness(pixels: Tensor) -> Tensor:
    down = (pixels[..., 1:, :] - pixels[..., :-1, :]).pow(2).sum()
    right = (pixels[..., :, 1:] - pixels[..., :, :-1]).pow(2).sum()
    return (down + right) / len(pixels)
