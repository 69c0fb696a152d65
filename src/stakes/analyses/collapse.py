"""Structural collapse over the steps of a run, and beside what deletion costs (paper Fig. 2)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from stakes.analyses.context import SIDES, TITLES, Context, outputs_of
from stakes.analyses.snapshots import read_snapshot, snapshots
from stakes.drawing import BLUE, GREEN, VERMILLION, new_figure, save_figure
from stakes.metrics.accuracy import accuracy
from stakes.report.section import Figure, Section, Table
from stakes.structure import structural_collapse


@dataclass(frozen=True)
class Moment:
    """One point in a run.

    Attributes:
        step: 0 is the original model.
        collapse: mean absolute change of affinities since step 0, a cosine, in [0, 2].
        kept, forget: accuracy on the measured retained images and on the forget set, percent.
    """

    step: int
    collapse: float
    kept: float
    forget: float

    @property
    def gap(self) -> float:
        """The paper's trade-off accuracy: retain minus forget accuracy, percentage points."""
        return self.kept - self.forget


def mean_collapse(moments: Sequence[Moment]) -> float | None:
    """Mean collapse over the moments after step 0 (Fig. 2b); None where only the end was measured.

    Example:
        >>> mean_collapse([Moment(0, 0.0, 99, 100), Moment(5, 0.1, 95, 50), Moment(9, 0.3, 90, 0)])
        0.2
    """
    later = [moment.collapse for moment in moments if moment.step > 0]
    return statistics.fmean(later) if len(later) > 1 else None


def analysis(context: Context) -> Section:
    """Collapse before, at each snapshot, and after, beside retain and forget accuracy."""
    name, images = context.first_of("retain", "test", why="collapse is a change of retained images")
    rows = context.draw(len(images), context.settings.snapshot_images, "collapse")
    labels, forget_labels = images.labels[rows], context.first_of("forget", why="")[1].labels
    outputs = {side: context.outputs(side, name) for side in SIDES}
    start = context.structure(outputs["before"].features[rows])

    def moment(step: int, features: Tensor, logits: Tensor, forget_logits: Tensor) -> Moment:
        return Moment(
            step,
            float(structural_collapse(start, context.structure(features))),
            accuracy(logits.argmax(dim=1), labels),
            accuracy(forget_logits.argmax(dim=1), forget_labels),
        )

    ends = {
        side: moment(
            0 if side == "before" else max(1, context.run.record.steps),
            outputs[side].features[rows],
            outputs[side].logits[rows],
            context.outputs(side, "forget").logits,
        )
        for side in SIDES
    }
    between = []
    subset, forget = images.subset(rows), context.first_of("forget", why="")[1]
    kept = [
        (step, path)
        for step, path in snapshots(context.run.path, context.settings.snapshots)
        if 0 < step < ends["after"].step
    ]
    for done, (step, path) in enumerate(kept, start=1):
        classifier = read_snapshot(context.run.after, path)
        found, gone = (
            outputs_of(classifier, one, batch=context.settings.batch, device=context.run.device)
            for one in (subset, forget)
        )
        between.append(moment(step, found.features, found.logits, gone.logits))
        context.progress("snapshots", done, len(kept))
    return _section(context, [ends["before"], *between, ends["after"]], f"{len(rows)} {TITLES[name]} images")


def _section(context: Context, moments: list[Moment], measured_on: str) -> Section:
    last, mean = moments[-1], mean_collapse(moments)
    over = f", {mean:.4f} on average over {len(moments) - 1} steps" if mean is not None else ""
    no_snapshots = (
        ""
        if len(moments) > 2
        else " The run kept no snapshots, so only its two ends are measured, not its course."
    )
    rows = tuple((m.step, m.collapse, m.kept, m.forget, m.gap) for m in moments)
    return Section(
        name="collapse",
        title="Structural collapse",
        sentence=f"After {context.run.record.steps} steps affinities to the anchors changed by {last.collapse:.4f} "
        f"(cosine) on average{over}; retain minus forget accuracy is {last.gap:.1f} points.",
        limit="Collapse depends on the anchors and on the seeded map that brings them to the width of the features: "
        "compare only runs with the same of both." + no_snapshots,
        numbers={
            "collapse_cosine": last.collapse,
            "mean_collapse_cosine": mean,
            "retain_minus_forget_points": last.gap,
            "measured_steps": len(moments),
        },
        tables=(
            Table(
                caption="Structural collapse (mean absolute change of affinities, cosine) and accuracies in percent.",
                columns=("step", "collapse", "retain accuracy", "forget accuracy", "retain − forget"),
                rows=rows,
            ),
        ),
        figures=(
            _course(context.folder / "collapse-steps.svg", moments),
            trade_off(context.folder / "collapse-trade-off.svg", {f"step {m.step}": m for m in moments}),
        ),
        settings={
            "measured on": measured_on,
            "anchors": context.anchors_title(),
            "bridge seed": context.run.record.seed,
            "seed": context.settings.seed,
        },
    )


def _course(path: Path, moments: Sequence[Moment]) -> Figure:
    figure = new_figure(7, 2.8)
    axis = figure.subplots()
    steps = [moment.step for moment in moments]
    lines = axis.plot(steps, [m.collapse for m in moments], color=BLUE, marker="o", label="collapse")
    axis.set(xlabel="step", ylabel="collapse (cosine)", ylim=(0, None))
    other = axis.twinx()
    lines += other.plot(
        steps, [m.kept for m in moments], color=GREEN, marker="s", linestyle="--", label="retain accuracy"
    )
    lines += other.plot(
        steps,
        [m.forget for m in moments],
        color=VERMILLION,
        marker="^",
        linestyle=":",
        label="forget accuracy",
    )
    other.set(ylim=(-3, 103), ylabel="accuracy (%)")
    axis.legend(
        handles=lines, fontsize=8, frameon=False, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.18)
    )
    return Figure(
        file=save_figure(figure, path),
        alt=f"Structural collapse over steps, rising from 0 to {moments[-1].collapse:.4f}, with retain and forget "
        "accuracy; the table holds the values.",
        caption="Structural collapse over steps.",
    )


def trade_off(path: Path, points: dict[str, Moment]) -> Figure:
    """Draw retain minus forget accuracy over collapse, a labelled point each (Fig. 2b); steps of a run, or runs."""
    figure = new_figure(5, 3.2)
    axis = figure.subplots()
    found = list(points.values())
    axis.plot([m.collapse for m in found], [m.gap for m in found], color=BLUE, marker="o", linewidth=0.6)
    for name in {next(iter(points)), list(points)[-1]} if len(points) > 6 else points:
        axis.annotate(
            name, (points[name].collapse, points[name].gap), (4, 4), textcoords="offset points", fontsize=8
        )
    axis.set(xlabel="collapse (cosine)", ylabel="retain − forget accuracy (points)")
    axis.margins(0.15)
    return Figure(
        file=save_figure(figure, path),
        alt=f"{len(points)} points: structural collapse across, retain minus forget accuracy up.",
        caption="Collapse and trade-off: up is better, left is nearer to the original structure.",
    )
