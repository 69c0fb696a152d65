"""Picture rows of a retrieval: a query and what it found before and after, right and wrong marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stakes.analyses.context import SIDES, Side
from stakes.data.images import ImageSet
from stakes.drawing import BLACK, MARKS, new_figure, save_figure, short, show_image


@dataclass(frozen=True)
class Row:
    """A query (one image) and its results, nearest first."""

    query: ImageSet
    results: Mapping[Side, ImageSet]


def draw_rows(rows: Sequence[Row], path: Path, neighbours: int) -> str:
    """Draw a line for each query as PNG: the query, its nearest before, its nearest after.

    Each result has a coloured edge and a symbol, ✓ for the query's class and ✗ for another, and its class.
    Gives the file's name.
    """
    figure = new_figure(1.0 * (2 * neighbours + 1) + 0.6, 1.25 * len(rows) + 0.3)
    widths = [1.0] + [0.25 if at % (neighbours + 1) == 0 else 1.0 for at in range(2 * neighbours + 2)]
    grid = figure.add_gridspec(len(rows), 2 * neighbours + 3, width_ratios=widths)
    for line, row in enumerate(rows):
        name = row.query.class_names[int(row.query.labels[0])]
        axis = figure.add_subplot(grid[line, 0])
        show_image(axis, row.query.batch([0])[0], title=short(name), edge=BLACK)
        if line == 0:
            axis.annotate("query", (0, 1.3), xycoords="axes fraction", fontsize=9, annotation_clip=False)
        for block, side in enumerate(SIDES):
            found = row.results[side]
            for place in range(min(len(found), neighbours)):
                axis = figure.add_subplot(grid[line, 2 + block * (neighbours + 1) + place])
                label = int(found.labels[place])
                mark, colour = MARKS[label == int(row.query.labels[0])]
                title = f"{mark} {short(found.class_names[label], 11)}"
                show_image(axis, found.batch([place])[0], title=title, edge=colour)
                if line == 0 and place == 0:
                    axis.annotate(side, (0, 1.3), xycoords="axes fraction", fontsize=9, annotation_clip=False)
    return save_figure(figure, path)
