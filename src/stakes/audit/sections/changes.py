"""Section: forget accuracy under everyday changes."""

from __future__ import annotations

from typing import Any

from stakes.audit.changes import CHANGES, described, forget_accuracy_under_changes
from stakes.audit.drawing import bar_groups, save_svg
from stakes.audit.evidence import Evidence
from stakes.data.images import ImageSet
from stakes.metrics.accuracy import accuracy, predict
from stakes.models.classifier import Classifier
from stakes.report.section import Figure, Section, Table


def changes(evidence: Evidence) -> Section:
    """Both models on changed forget images."""
    settings = evidence.settings.changes
    forget = evidence.sample(evidence.split.forget, settings.images, "changes")
    total = 2 * len(CHANGES)

    def measured(model: Classifier, before: int) -> dict[str, float]:
        exact = accuracy(predict(model, forget, device=evidence.device), forget.labels)
        found = forget_accuracy_under_changes(
            model,
            forget,
            seed=evidence.seed,
            draws=settings.draws,
            device=evidence.device,
            on_change=lambda done: evidence.progress("changes", before + done, total),
        )
        # One pass for the exact images, one for the flip, and `draws` for each other change.
        evidence.meter.count(forward=len(forget) * (2 + settings.draws * (len(CHANGES) - 1)))
        return {"unchanged": exact} | found

    before, after = measured(evidence.before, 0), measured(evidence.after, len(CHANGES))
    return _section(evidence, forget, before, after)


def _section(
    evidence: Evidence, forget: ImageSet, before: dict[str, float], after: dict[str, float]
) -> Section:
    names = [name for name in before if name != "mean"]
    worst = max(CHANGES, key=lambda name: after[name])

    def draw(axis: Any) -> None:
        series = {
            "before": ("before", [before[name] for name in names]),
            "after": ("after", [after[name] for name in names]),
        }
        bar_groups(axis, names, series)
        axis.set(ylabel="forget accuracy (%)", ylim=(0, 103))

    figure = save_svg(evidence.folder / "changes.svg", draw)
    return Section(
        name="changes",
        title="Everyday changes of the forgotten images",
        sentence=(
            f"Changed in everyday ways, the forget images are recognised in {after['mean']:.1f} % of cases "
            f"(before: {before['mean']:.1f} %); unchanged in {after['unchanged']:.1f} %; "
            f"most after “{worst}”, {after[worst]:.1f} %."
        ),
        limit=(
            "Random changes of fixed strength, not a search for the one that brings an image back; a model that never "
            "saw the images may recognise many of them too."
        ),
        numbers={
            f"{name.replace(' ', '_')}_{when}": round(figures[name], 4)
            for when, figures in (("before", before), ("after", after))
            for name in (*names, "mean")
        }
        | {"images": len(forget)},
        tables=(
            Table(
                caption=f"Forget accuracy in percent on {len(forget)} images",
                columns=("change", "before", "after"),
                rows=tuple(
                    (name, round(before[name], 2), round(after[name], 2)) for name in (*names, "mean")
                ),
            ),
        ),
        figures=(
            Figure(
                file=figure,
                alt="Bars: forget accuracy before and after unlearning for each everyday change",
                caption="Forget accuracy under everyday changes",
            ),
        ),
        settings={"draws": evidence.settings.changes.draws, "seed": evidence.seed}
        | described()
        | evidence.cost("changes"),
    )
