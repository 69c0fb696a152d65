"""What forgetting has cost when 50, 80, 95 and 100 % of the images were misclassified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from stakes.analyses.context import TITLES, Context, Outputs, SetName, SkipAnalysis, outputs_of
from stakes.analyses.snapshots import read_snapshot, snapshots
from stakes.audit.changes import forget_accuracy_under_changes
from stakes.audit.settings import ChangesSettings
from stakes.data.images import ImageSet
from stakes.drawing import BLUE, GREEN, ORANGE, PURPLE, new_figure, save_figure
from stakes.methods.milestones import SHARES
from stakes.metrics.accuracy import accuracy
from stakes.models.classifier import Classifier
from stakes.report.section import Figure, Section, Table
from stakes.structure import structural_collapse

_EVERY_STEP = 1_000_000


@dataclass(frozen=True)
class Milestone:
    """One classifier of a run, and what is left of it.

    Attributes:
        forgotten: share of the forget images that it misclassifies, percent.
        test, retain: accuracy in percent; None where there are no such images.
        collapse: mean absolute change of affinities since step 0, a cosine; None without anchors.
        changed: mean forget accuracy under everyday changes, percent.
    """

    step: int
    forgotten: float
    test: float | None
    retain: float | None
    collapse: float | None
    changed: float


def first_reached(measured: Mapping[int, float], shares: Sequence[int] = SHARES) -> dict[int, int | None]:
    """The first step at which so many percent are misclassified; None where that never was.

    Args:
        measured: percent of forget images misclassified, by step.

    Example:
        >>> first_reached({0: 0.0, 10: 60.0, 20: 55.0, 30: 97.5})
        {50: 10, 80: 30, 95: 30, 100: None}
    """
    steps = sorted(measured)
    return {share: next((step for step in steps if measured[step] >= share), None) for share in shares}


def analysis(context: Context) -> Section:
    """Test and retain accuracy, collapse, and forget accuracy under changes, at each milestone that the run kept."""
    record, files = context.run.record, dict(snapshots(context.run.path, _EVERY_STEP))
    if not files:
        raise SkipAnalysis(
            "the run kept no weights on its way. Unlearn with --milestones, into a new folder, to have them kept."
        )
    last = max(1, record.steps)
    kept = {step: path for step, path in files.items() if 0 < step < last}
    rows = {
        int(row["step"]): row["forget_accuracy"] for row in context.run.history if "forget_accuracy" in row
    }
    measured = {step: 100 - rows[step] for step in kept if step in rows}
    measured |= {0: 100 - record.before.forget_accuracy, last: 100 - record.after.forget_accuracy}
    reached = first_reached(measured)
    wanted = sorted({0, last, *(step for step in reached.values() if step is not None)})
    look = _Look(context)
    moments = {}
    for done, step in enumerate(wanted, start=1):
        if step in (0, last):
            classifier = context.classifier("before" if step == 0 else "after")
        else:
            classifier = read_snapshot(context.run.after, kept[step])
        moments[step] = look.at(step, measured[step], classifier)
        context.progress("milestones", done, len(wanted))
    return _section(context, moments, reached, look.settings())


class _Look:
    """Measures one classifier after another on the same images."""

    def __init__(self, context: Context) -> None:
        self.context = context
        settings, self.changes = context.settings, ChangesSettings()
        self.forget = context.sample(context.run.split.forget, self.changes.images, "milestones")
        self.sets: dict[SetName, ImageSet] = {}
        for name, most in (("test", settings.test_images), ("retain", settings.snapshot_images)):
            found: ImageSet | None = getattr(context.run.split, name)
            if found is not None and len(found):
                self.sets[name] = context.sample(found, most, "milestones", name)  # type: ignore[index]
        self.structured: SetName | None = next((n for n in ("retain", "test") if n in self.sets), None)
        self._start: Tensor | None = None
        try:
            context.anchors()
        except SkipAnalysis:
            self.structured = None

    def at(self, step: int, forgotten: float, classifier: Classifier) -> Milestone:
        """The milestone of a classifier; the first one is what collapse is measured from."""
        run = self.context.run
        outputs = {
            name: outputs_of(classifier, images, batch=self.context.settings.batch, device=run.device)
            for name, images in self.sets.items()
        }
        changed = forget_accuracy_under_changes(
            classifier,
            self.forget,
            seed=self.context.settings.seed,
            draws=self.changes.draws,
            device=run.device,
        )
        right = {
            name: accuracy(found.logits.argmax(dim=1), self.sets[name].labels)
            for name, found in outputs.items()
        }
        return Milestone(
            step, forgotten, right.get("test"), right.get("retain"), self._collapse(outputs), changed["mean"]
        )

    def _collapse(self, outputs: Mapping[SetName, Outputs]) -> float | None:
        if self.structured is None:
            return None
        now = self.context.structure(outputs[self.structured].features)
        self._start = now if self._start is None else self._start
        return float(structural_collapse(self._start, now))

    def settings(self) -> dict[str, str | float | int | None]:
        """What was measured on."""
        counts = {f"{TITLES[name]} images": len(images) for name, images in self.sets.items()}
        return {
            **counts,
            "forgotten images, changed": len(self.forget),
            "draws of each change": self.changes.draws,
            "collapse on": None if self.structured is None else f"{TITLES[self.structured]} images",
            "seed": self.context.settings.seed,
        }


def _section(
    context: Context,
    moments: dict[int, Milestone],
    reached: dict[int, int | None],
    settings: dict[str, str | float | int | None],
) -> Section:
    found = list(moments.values())
    start, end = found[0], found[-1]
    named = [("before", start)]
    named += [(f"{share} %", moments[step]) for share, step in reached.items() if step is not None]
    if end.step not in reached.values():
        named.append(("end", end))
    numbers: dict[str, float | int | None] = {}
    for share, step in reached.items():
        moment = moments[step] if step is not None else None
        numbers[f"step_at_{share}_percent"] = step
        numbers[f"test_lost_at_{share}_percent_points"] = _lost(start.test, moment.test if moment else None)
        numbers[f"retain_lost_at_{share}_percent_points"] = _lost(
            start.retain, moment.retain if moment else None
        )
    return Section(
        name="milestones",
        title="What each part of the forgetting cost",
        sentence=_sentence(moments, reached, start),
        limit="A milestone is the first measured step that reaches it; a later step may fall back behind it. Measured "
        "steps lie apart as far as measure_every says, so a step may reach more than its milestone.",
        numbers=numbers,
        tables=(
            Table(
                caption="Accuracies in percent; collapse is the mean absolute change of affinities, a cosine.",
                columns=(
                    "misclassified, at least",
                    "step",
                    "misclassified",
                    "test accuracy",
                    "retain accuracy",
                    "collapse",
                    "forget accuracy under changes",
                ),
                rows=tuple(
                    (name, m.step, m.forgotten, m.test, m.retain, m.collapse, m.changed) for name, m in named
                ),
            ),
        ),
        figures=(_picture(context.folder / "milestones.svg", found),),
        settings=settings,
    )


def _lost(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else round(before - now, 4)


def _sentence(moments: dict[int, Milestone], reached: dict[int, int | None], start: Milestone) -> str:
    which = "test" if start.test is not None else "retain"
    told = []
    for share, step in reached.items():
        if step is None:
            told.append(f"{share} % was not reached")
            continue
        lost = _lost(getattr(start, which), getattr(moments[step], which))
        cost = "" if lost is None else f", {lost:.1f} points of {which} accuracy lost"
        told.append(f"{share} % at step {step}{cost}")
    return "Misclassified forget images: " + "; ".join(told) + "."


def _picture(path: Path, found: Sequence[Milestone]) -> Figure:
    figure = new_figure(7, 4.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    across = [m.forgotten for m in found]
    lines = (("test", BLUE, "o", "-"), ("retain", GREEN, "s", "--"), ("changed", ORANGE, "^", ":"))
    for name, colour, marker, dash in lines:
        values = [getattr(m, name) for m in found]
        if None not in values:
            label = "forget, under changes" if name == "changed" else name
            above.plot(across, values, color=colour, marker=marker, linestyle=dash, label=label)
    above.set(ylabel="accuracy (%)", ylim=(-3, 103))
    above.legend(fontsize=8, frameon=False)
    if all(m.collapse is not None for m in found):
        below.plot(across, [m.collapse for m in found], color=PURPLE, marker="o")
    below.set(xlabel="forget images misclassified (%)", ylabel="collapse (cosine)", ylim=(0, None))
    return Figure(
        file=save_figure(figure, path),
        alt=f"Test, retain and changed-forget accuracy, and structural collapse, over the share of forget images "
        f"misclassified, at {len(found)} steps; the table holds the values.",
        caption="What is kept, over what is forgotten.",
    )
