"""Which anchors an image is nearest to, before and after, as radar charts with the anchors' descriptions (Fig. 7)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stakes.analyses.context import SIDES, TITLES, Context, SetName, Side, SkipAnalysis
from stakes.anchors import Anchors
from stakes.data.images import ImageSet
from stakes.drawing import DASHES, INK, new_figure, save_figure, short, show_image
from stakes.report.section import Cell, Figure, Section, Table

TOP = 3
SPOKES = 12
_MARKERS = {"before": "o", "after": "D"}


def top_anchors(structure: Tensor, count: int = TOP) -> Tensor:
    """The anchors of highest affinity of each image, (n, count), highest first.

    Example:
        >>> top_anchors(torch.tensor([[0.1, 0.9, 0.5]]), 2).tolist()
        [[1, 2]]
    """
    return structure.argsort(dim=1, descending=True, stable=True)[:, :count]


def overlap(before: Tensor, after: Tensor, count: int = TOP) -> float:
    """Mean share of the ``count`` nearest anchors of an image that stay among them, in [0, 1].

    Args:
        before, after: affinities (n, b) of the same images.

    Example:
        >>> overlap(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[3.0, 1.0, 2.0]]), 2)
        0.5
    """
    count = min(count, before.shape[1])
    one, two = top_anchors(before, count), top_anchors(after, count)
    return float((one[:, :, None] == two[:, None, :]).any(dim=2).double().mean())


def descriptions(anchors: Anchors) -> dict[str, str]:
    """What each class's anchor was made of, by class; empty where the anchors do not say."""
    try:
        found = json.loads(anchors.provenance.get("descriptions", ""))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): str(text) for name, text in found.items()}


@dataclass(frozen=True)
class _Chosen:
    """Images drawn as charts, with their affinities (n, b)."""

    name: SetName
    images: ImageSet
    structure: dict[Side, Tensor]


def analysis(context: Context) -> Section:
    """Affinities of chosen images to their nearest anchors before and after."""
    if len(context.run.before.class_names) < TOP:
        raise SkipAnalysis(f"a radar chart needs {TOP} anchors or more, and there are fewer classes.")
    anchors = context.anchors()
    kept, _ = context.first_of("test", "retain", why="the anchors of an image are read from images")
    sets: tuple[SetName, ...] = (kept, "forget")
    numbers: dict[str, float | int | None] = {}
    tables, figures = [], []
    means: dict[SetName, float] = {}
    for name in sets:
        structure = {side: context.structure(context.outputs(side, name).features) for side in SIDES}
        means[name] = overlap(structure["before"], structure["after"])
        first = (top_anchors(structure[side], 1) for side in SIDES)
        title = TITLES[name]
        numbers |= {
            f"{title}_top{TOP}_kept_percent": 100 * means[name],
            f"{title}_top1_kept_percent": 100 * float((next(first) == next(first)).double().mean()),
        }
        chosen = _choose(context, name, structure)
        tables.append(_table(chosen, anchors))
        figures.append(_figure(context, chosen))
    return Section(
        name="radar",
        title="Nearest anchors",
        sentence=f"Of the {TOP} anchors nearest to an image before, {100 * means[kept]:.1f} % stay among its {TOP} "
        f"nearest for {TITLES[kept]} images, {100 * means['forget']:.1f} % for forgotten ones.",
        limit="Affinities between features and text pass through a fixed random map: their order is a property of "
        "this model and seed, not of the words.",
        numbers=numbers,
        tables=tuple(tables),
        figures=tuple(figures),
        settings={
            "anchors": context.anchors_title(),
            "images in charts": context.settings.examples,
            "bridge seed": context.run.record.seed,
            "seed": context.settings.seed,
        },
    )


def _choose(context: Context, name: SetName, structure: dict[Side, Tensor]) -> _Chosen:
    _, images = context.first_of(name, why="charts are of images")
    rows = context.draw(len(images), context.settings.examples, "radar", name)
    return _Chosen(name, images.subset(rows), {side: structure[side][rows] for side in SIDES})


def _table(chosen: _Chosen, anchors: Anchors) -> Table:
    """The nearest anchors of each image with affinities and descriptions."""
    told = descriptions(anchors)
    rows: list[tuple[Cell, ...]] = []
    for at in range(len(chosen.images)):
        for side in SIDES:
            affinities = chosen.structure[side][at]
            for rank, anchor in enumerate(top_anchors(affinities[None], TOP)[0].tolist(), start=1):
                name = anchors.class_names[anchor]
                own = chosen.images.class_names[int(chosen.images.labels[at])]
                text = told.get(name, "not recorded")
                rows.append((f"{at + 1}: {own}", side, rank, name, float(affinities[anchor]), text))
    return Table(
        caption=f"The {TOP} nearest anchors of the {TITLES[chosen.name]} images in the charts.",
        columns=("image", "model", "rank", "anchor", "affinity", "description"),
        rows=tuple(rows),
    )


def _figure(context: Context, chosen: _Chosen) -> Figure:
    count = len(chosen.images)
    across = min(count, 2)
    down = math.ceil(count / across)
    figure = new_figure(4.2 * across, 3.6 * down)
    grid = figure.add_gridspec(down, 2 * across, width_ratios=[1.0, 4.0] * across)
    handles: list[Any] = []
    for at in range(count):
        line, column = divmod(at, across)
        picture = figure.add_subplot(grid[line, 2 * column])
        own = chosen.images.class_names[int(chosen.images.labels[at])]
        show_image(picture, chosen.images.batch([at])[0], title=f"{at + 1}: {short(own)}")
        axis = figure.add_subplot(grid[line, 2 * column + 1], projection="polar")
        handles = _chart(axis, chosen, at)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    forgotten = chosen.name == "forget"
    return Figure(
        file=save_figure(figure, context.folder / f"radar-{TITLES[chosen.name]}.svg"),
        alt=f"Radar charts of {count} {TITLES[chosen.name]} images: affinity to each anchor before (dashed) and "
        "after (solid); the table names the nearest anchors.",
        caption=f"Affinities of {TITLES[chosen.name]} images to anchors.",
        personal=forgotten,
    )


def _chart(axis: Any, chosen: _Chosen, at: int) -> list[Any]:
    """One radar: the image's nearest anchors before, in the order of the classes."""
    before = chosen.structure["before"][at]
    spokes = top_anchors(before[None], SPOKES)[0].sort().values
    angles = torch.linspace(0, 2 * math.pi, len(spokes) + 1)
    names = [short(chosen.images.class_names[c], 12) for c in spokes.tolist()]
    handles = []
    for side in SIDES:
        values = chosen.structure[side][at][spokes]
        closed = torch.cat([values, values[:1]]).tolist()
        handles += axis.plot(
            angles.tolist(),
            closed,
            color=INK[side],
            linestyle=DASHES[side],
            marker=_MARKERS[side],
            markersize=3,
            linewidth=1.2,
            label=side,
        )
    both = torch.stack([chosen.structure[side][at][spokes] for side in SIDES])
    span = max(float(both.max() - both.min()), 1e-3)
    axis.set_ylim(float(both.min()) - 0.15 * span, float(both.max()) + 0.05 * span)
    axis.set_xticks(angles[:-1].tolist(), names, fontsize=7)
    axis.tick_params(axis="y", labelsize=6)
    return handles
