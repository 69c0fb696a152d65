"""Pictures of a run's history, as SVG to stand inside a page."""

from __future__ import annotations

import io
from collections.abc import Sequence

_INK = {"forget": "#b3541e", "loss": "#2b5c8a"}


def history_svg(history: Sequence[dict[str, float]]) -> str:
    """Forget accuracy and total loss over the steps, as one SVG element; empty where there were no steps."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    if not history:
        return ""
    # Fixed ids and no date, so that the same run draws the same bytes; text stays text for screen readers.
    with plt.rc_context({"svg.hashsalt": "stakes", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
        measured = [(row["step"], row["forget_accuracy"]) for row in history if "forget_accuracy" in row]
        if measured:
            axis.plot(*zip(*measured, strict=True), color=_INK["forget"], marker="o", markersize=3)
        axis.set(xlabel="step", ylim=(-3, 103))
        axis.set_ylabel("forget accuracy (%)", color=_INK["forget"])
        losses = [(row["step"], row["loss"]) for row in history if "loss" in row]
        if losses:
            other = axis.twinx()
            other.plot(*zip(*losses, strict=True), color=_INK["loss"], linewidth=0.9, alpha=0.75)
            other.set_ylabel("total loss", color=_INK["loss"])
        buffer = io.StringIO()
        figure.savefig(
            buffer,
            format="svg",
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
            transparent=True,
        )
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
