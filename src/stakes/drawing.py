"""How figures are drawn: colours that colour-blind readers can tell apart, and files whose bytes repeat."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from stakes.files import write_bytes

# The palette of Okabe and Ito (2008).
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"
INK = {"before": BLUE, "after": VERMILLION, "forget": VERMILLION, "retain": GREEN, "test": BLUE}
DASHES = {
    "before": (0, (4, 2)),
    "after": "solid",
    "forget": "solid",
    "retain": (0, (4, 2)),
    "test": (0, (1, 1)),
}
HATCH = {"before": "", "after": "///"}
# A symbol beside the colour: right and wrong.
MARKS = {True: ("✓", GREEN), False: ("✗", VERMILLION)}


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure (inches), outside pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> str:
    """Write as SVG or PNG by the path's suffix, atomically, the same bytes each time; gives the file's name.

    Text in an SVG stays text, for screen readers and search.
    """
    import matplotlib

    kind = path.suffix.lstrip(".")
    nothing = ("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "stakes", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=dict.fromkeys(nothing))
    write_bytes(path, buffer.getvalue())
    return path.name


def show_image(axis: Any, pixels: Tensor, *, title: str = "", edge: str | None = None) -> None:
    """Show pixels (C, H, W) in [0, 1] without axes, with a coloured edge where one is named."""
    array = np.asarray(pixels.detach().cpu().clamp(0, 1).permute(1, 2, 0))
    axis.imshow(array if array.shape[2] == 3 else array[:, :, 0], cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    if title:
        axis.set_title(title, fontsize=7, color=edge or BLACK)
    for side in axis.spines.values():
        side.set(visible=edge is not None, color=edge or BLACK, linewidth=2.5)


def short(text: str, most: int = 14) -> str:
    """A name that fits a label, as it is to be handed to matplotlib (see `plain`)."""
    return plain(text if len(text) <= most else text[: most - 1] + "…")


def plain(text: str) -> str:
    """A text of which matplotlib takes no part for mathematics, which it would refuse where it is none.

    Example:
        >>> plain("a$x_$")
        'a\\\\$x_\\\\$'
    """
    return text.replace("$", r"\$")
