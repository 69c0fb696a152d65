r"""How far images are from those a network was trained on, told by its BatchNorm layers alone.

A BatchNorm layer keeps the mean μ_c and the variance σ²_c of each channel's inputs over the training images. For
images x_1 … x_n let z_ic be the mean of channel c of x_i over places, z̄_c the mean of these, s²_c their variance. Then

    shift = 1/L Σ_l √( max(0, 1/C Σ_c ((z̄_c − μ_c)² − s²_c / n) / σ²_c) ) ,

L layers with C channels each: the distance of the means in standard deviations of a channel. s²_c / n is what the means
of n images drawn like the training images differ by on average, so it is taken off, and few images do not look strange.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stakes.data.images import ImageSet
from stakes.metrics.accuracy import predict
from stakes.processes import Processes, spreading


def statistics_shift(
    classifier: nn.Module,
    images: ImageSet,
    *,
    batch: int = 256,
    device: torch.device | None = None,
    on_batch: Callable[[int], None] = lambda n: None,
) -> tuple[Tensor, float | None]:
    """The classes that the classifier gives images, and their shift, from the same passes.

    Args:
        classifier: maps pixels (n, C, H, W) in [0, 1] to logits (n, b). Its mode is restored afterwards.
        batch: images a pass; fewer where that many do not fit into memory.
        on_batch: told the number of images done after each pass.

    Returns:
        (N,) int64 as `stakes.metrics.predict` gives them, and the shift, 0 or more; None for a network without
        BatchNorm that keeps statistics, and for a single image.

    Raises:
        NumericalError, OutOfMemoryError: see `stakes.metrics.predict`.

    Source:
        ours. Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS
        2020, foretell from distances between such statistics how much a shift costs. Assumes that the running
        statistics are those of the training images. Not guaranteed: that images with a shift of 0 are of the same kind;
        they agree in the means of channels, and that is all that is looked at. Images of a few classes only have a
        shift as well.

    Example:
        >>> network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 2)).eval()
        >>> images = ImageSet.from_tensors(torch.ones(5, 1, 1, 1), [0] * 5, ["cat", "dog"])
        >>> round(statistics_shift(network, images)[1], 3)  # all 1, where mean 0 and variance 1 are kept
        1.0
    """
    layers = [one for one in classifier.modules() if isinstance(one, _BatchNorm)]
    kept = [
        (one, one.running_mean, one.running_var + one.eps)
        for one in layers
        if one.running_mean is not None and one.running_var is not None
    ]
    sums = [torch.zeros(3, len(mean), dtype=torch.float64) for _, mean, _ in kept]
    hooks = [
        one.register_forward_pre_hook(_adding(total)) for (one, _, _), total in zip(kept, sums, strict=True)
    ]
    processes = spreading() or Processes()
    try:
        classes = predict(classifier, images, batch=batch, device=device, on_batch=on_batch)
    finally:
        for hook in hooks:
            hook.remove()
    whole = [processes.reduce(total) for total in sums]
    found = [
        _distance(total, mean.cpu().double(), variance.cpu().double())
        for (_, mean, variance), total in zip(kept, whole, strict=True)
        if float(total[2].min()) > 1
    ]
    return classes, sum(found) / len(found) if found else None


def _adding(total: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Adds to rows of ``total``, (3, C): each image's channel means, their squares, and how many there were."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        means = inputs[0].detach().flatten(2).mean(dim=2) if inputs[0].dim() > 2 else inputs[0].detach()
        means = means.cpu().double()
        total[0] += means.sum(dim=0)
        total[1] += means.square().sum(dim=0)
        total[2] += len(means)

    return hook


def _distance(total: Tensor, kept: Tensor, variance: Tensor) -> float:
    """That of one layer: what stands under the sum over l."""
    count = total[2]
    mean = total[0] / count
    chance = (total[1] / count - mean.square()).clamp_min(0) / (count - 1)
    return float((((mean - kept).square() - chance) / variance).mean().clamp_min(0).sqrt())
