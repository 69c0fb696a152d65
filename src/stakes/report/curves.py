"""Curves of one run or several, as SVG to stand inside a page and take its colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stakes.drawing import plain
from stakes.report.pictures import unique_ids

Row = dict[str, float]
Points = list[tuple[float, float]]

SERIES = 6
_MOST_POINTS = 800
_SIZE = (4.7, 2.7)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1)), (0, (8, 3)))
_MARKERS = "osD^vP"
# Stand-ins that no drawing uses; each becomes a variable of the page's style sheet.
_INK, _SOFT, _LINE = "#010203", "#010204", "#010205"
_COLOURS = tuple(f"#0102{16 + i:02x}" for i in range(SERIES))
_VARIABLES = {_INK: "--ink", _SOFT: "--soft", _LINE: "--line"} | {
    colour: f"--series-{i + 1}" for i, colour in enumerate(_COLOURS)
}


@dataclass(frozen=True)
class Curve:
    """One line of a picture: its key on the page, and its points."""

    label: str
    points: Points


def accuracy_points(history: Sequence[Row], before: float | None = None) -> Points:
    """Forget accuracy (percent) at the steps where it was measured; ``before`` is that of step 0."""
    first = [] if before is None or not history else [(0.0, before)]
    return first + [(row["step"], row["forget_accuracy"]) for row in history if "forget_accuracy" in row]


def loss_curves(history: Sequence[Row]) -> list[Curve]:
    """The total loss and its terms over the steps."""
    names = sorted({name for row in history for name in row if name == "loss" or name.startswith("loss_")})
    return [
        Curve("total" if name == "loss" else name.removeprefix("loss_"), _points(history, name))
        for name in names
    ]


def accuracy_svg(curves: Sequence[Curve], prefix: str) -> str:
    """Forget accuracy over the steps, one SVG element; empty where nothing was measured."""
    return _draw(
        [c for c in curves if c.points], prefix, "forget accuracy (%)", limits=(-4, 104), markers=True
    )


def loss_svg(curves: Sequence[Curve], prefix: str) -> str:
    """Losses over the steps, one SVG element; empty where there are none."""
    return _draw([c for c in curves if c.points], prefix, "loss", limits=None, markers=False)


def _points(history: Sequence[Row], name: str) -> Points:
    return [(row["step"], row[name]) for row in history if name in row]


def _draw(
    curves: Sequence[Curve], prefix: str, label: str, *, limits: tuple[float, float] | None, markers: bool
) -> str:
    if not curves:
        return ""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Fixed ids and no date: the same run draws the same bytes. Text stays text, for screen readers and search.
    style = {"svg.hashsalt": "stakes", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    with mpl.rc_context(style):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axis = figure.subplots()
        for i, curve in enumerate(curves):
            axis.plot(
                *zip(*_thinned(curve.points), strict=True),
                color=_COLOURS[i % SERIES],
                linestyle=_DASHES[i % SERIES],
                linewidth=1.2 if i else 1.7,
                marker=_MARKERS[i % SERIES] if markers else None,
                markersize=3,
                markevery=max(1, len(curve.points) // 25),
                label=plain(curve.label),
            )
        _dress(axis, label, limits)
        if len(curves) > 1:
            columns = max(1, min(len(curves), 54 // (5 + max(len(curve.label) for curve in curves))))
            figure.legend(
                loc="outside upper center",
                ncols=columns,
                frameon=False,
                labelcolor=_INK,
                handlelength=2.6,
                columnspacing=1.2,
                fontsize=8.5,
            )
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    return _for_page(buffer.getvalue(), prefix)


def _dress(axis: Any, label: str, limits: tuple[float, float] | None) -> None:
    axis.set_xlabel("step", color=_SOFT)
    axis.set_ylabel(label, color=_SOFT)
    if limits:
        axis.set_ylim(*limits)
    axis.tick_params(colors=_SOFT, labelcolor=_SOFT, length=3)
    axis.grid(color=_LINE, linewidth=0.6)
    axis.set_axisbelow(True)
    for name, spine in axis.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(_LINE)


def _thinned(points: Points) -> Points:
    """Few enough points for a page; first and last always stay."""
    every = -(-len(points) // _MOST_POINTS)
    kept = points[::every]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _for_page(svg: str, prefix: str) -> str:
    svg = svg[svg.index("<svg") :]
    # A style element inside the picture would rule the whole page.
    svg = re.sub(r"<style.*?</style>", "", svg, count=1, flags=re.DOTALL)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return unique_ids(svg, prefix).replace("<svg ", '<svg aria-hidden="true" ', 1)
