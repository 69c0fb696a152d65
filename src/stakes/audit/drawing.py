"""The figures of attacks: one axis each, and bars side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stakes.drawing import new_figure, save_figure

# Okabe and Ito: told apart by colour-blind readers; each also has its own marker or hatch.
INK = {"before": "#0072b2", "after": "#d55e00", "other": "#009e73", "soft": "#777777"}
HATCH = {"before": "", "after": "///", "other": "..", "soft": "xx"}


def save_svg(path: Path, draw: Callable[[Any], None], *, size: tuple[float, float] = (7, 3.2)) -> str:
    """Let ``draw`` fill a matplotlib axis, write it as SVG, and give the file's name.

    Raises:
        OutputError: it cannot be written.
    """
    figure = new_figure(*size)
    axis = figure.add_subplot()
    draw(axis)
    axis.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)


def bar_groups(axis: Any, labels: list[str], series: dict[str, tuple[str, list[float]]]) -> None:
    """Bars side by side: one group a label, one bar a series (its legend: (ink, values))."""
    width = 0.8 / len(series)
    for number, (name, (ink, values)) in enumerate(series.items()):
        places = [at + (number - (len(series) - 1) / 2) * width for at in range(len(labels))]
        axis.bar(
            places, values, width, label=name, color=INK[ink], hatch=HATCH[ink], edgecolor="white", lw=0.4
        )
    axis.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    axis.legend(frameon=False, fontsize=8, ncols=len(series), loc="lower left", bbox_to_anchor=(0, 1))
