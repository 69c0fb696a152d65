"""Representation consistency: cosines between features of the same image before and after (paper Fig. 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stakes.analyses.context import TITLES, Context, SetName
from stakes.drawing import DASHES, INK, new_figure, save_figure
from stakes.errors import DataError
from stakes.report.section import Figure, Section, Table

# Narrower than this, all cosines are one value up to rounding, and there is no density to estimate.
_POINT = 1e-6


def consistency(before: Tensor, after: Tensor) -> Tensor:
    """Cosine of each image's features before and after, (n,) in [−1, 1]; 1 is unchanged in direction.

    Args:
        before, after: features (n, d) of the same images in the same order.

    Raises:
        DataError: shapes that differ.

    Example:
        >>> consistency(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])).tolist()
        [1.0]
    """
    if before.shape != after.shape or before.ndim != 2:
        raise DataError(
            "consistency",
            expected="features (n, d) of one shape",
            got=f"{tuple(before.shape)}, {tuple(after.shape)}",
        )
    return F.cosine_similarity(before.double(), after.double(), dim=1).clamp(-1, 1)


def density(cosines: Tensor, grid: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Gaussian kernel density of cosines on a grid in [−1, 1], with Scott's bandwidth.

    Mass that the kernel puts beyond ±1, where no cosine can be, is folded back, so that the density integrates to 1
    over [−1, 1]. None where all cosines are one value: a point has no density.

    Example:
        >>> density(torch.ones(5), np.linspace(-1, 1, 3)) is None
        True
    """
    from scipy.stats import gaussian_kde

    values = cosines.double().numpy()
    if len(values) < 2 or float(values.max() - values.min()) < _POINT:
        return None
    kernel: Any = gaussian_kde(values, bw_method="scott")
    folded: NDArray[np.float64] = kernel(grid) + kernel(2 - grid) + kernel(-2 - grid)
    return folded


def analysis(context: Context) -> Section:
    """Cosines before to after of forgotten, retained and test images, as densities."""
    found: dict[SetName, Tensor] = {}
    sets: tuple[SetName, ...] = ("forget", "retain", "test")
    for name in sets:
        images = context.images(name)
        if images is not None and len(images):
            found[name] = consistency(
                context.outputs("before", name).features, context.outputs("after", name).features
            )
    kept: SetName | None = next((name for name in sets[1:] if name in found), None)
    other = (
        f"; of {TITLES[kept]} images {float(found[kept].mean()):.4f}"
        if kept is not None
        else "; there are no other images to compare with"
    )
    numbers: dict[str, float | int | None] = {}
    for name, cosines in found.items():
        numbers |= {f"{name}_mean_cosine": float(cosines.mean()), f"{name}_images": len(cosines)}
    return Section(
        name="consistency",
        title="Representation consistency",
        sentence="The mean cosine between features before and after of forgotten images is "
        f"{float(found['forget'].mean()):.4f}{other} (1 is unchanged).",
        limit="A direction that stays says nothing about which class the head makes of it, and a rotation of all "
        "features together lowers the cosine though nothing is lost.",
        numbers=numbers,
        tables=(_table(found),),
        figures=(_figure(context, found),),
        settings={
            "features": "deployed: behind the projector where there is one",
            "density": "Gaussian kernel, Scott's bandwidth, folded at ±1",
            "seed": context.settings.seed,
        },
    )


def _table(found: dict[SetName, Tensor]) -> Table:
    rows = []
    for name, cosines in found.items():
        low, middle = torch.quantile(cosines, torch.tensor([0.05, 0.5], dtype=cosines.dtype)).tolist()
        rows.append((TITLES[name], len(cosines), float(cosines.mean()), middle, low, float(cosines.min())))
    return Table(
        caption="Cosines between features of the same image before and after.",
        columns=("images", "n", "mean", "median", "5th percentile", "lowest"),
        rows=tuple(rows),
    )


def _figure(context: Context, found: dict[SetName, Tensor]) -> Figure:
    figure = new_figure(7, 2.8)
    axis = figure.subplots()
    low = min(float(cosines.min()) for cosines in found.values())
    grid = np.linspace(max(-1.0, low - 0.1), 1.0, 512)
    for name, cosines in found.items():
        curve = density(cosines, grid)
        style = {"color": INK[name], "linestyle": DASHES[name], "label": f"{TITLES[name]} ({len(cosines)})"}
        if curve is None:
            axis.axvline(float(cosines.mean()), **style)
        else:
            axis.plot(grid, curve, **style)
    axis.set(xlabel="cosine of features before and after", ylabel="density", ylim=(0, None))
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    means = ", ".join(f"{TITLES[name]} {float(cosines.mean()):.3f}" for name, cosines in found.items())
    return Figure(
        file=save_figure(figure, context.folder / "consistency.svg"),
        alt=f"Densities of the cosine between features before and after; means: {means}.",
        caption="Representation consistency; a vertical line stands for a set whose cosines are all one value.",
    )
