"""Section: forget accuracy under everyday changes."""

from __future__ import annotations

from typing import Any

from stakes.audit.changes import CHANGES, described, forget_accuracy_under_changes
from stakes.audit.drawing import bar_groups, save_svg
from stakes.audit.evidence import Evidence
from stakes.data.images import ImageSet
from stakes.metrics.accuracy import accuracy, predict
from stakes.report.section import Figure, Section, Table

_SAID = {"before": "before", "after": "after", "unseen": "unseen images, before"}
_INK = {"before": "before", "after": "after", "unseen": "soft"}


def changes(evidence: Evidence) -> Section:
    """Both models on changed forget images, and the one before on changed test images, which it never saw."""
    settings = evidence.settings.changes
    forget = evidence.sample(evidence.split.forget, settings.images, "changes")
    columns = {"before": (evidence.before, forget), "after": (evidence.after, forget)}
    if evidence.split.test is not None and settings.unseen:
        unseen = evidence.sample(evidence.split.test, settings.unseen, "unseen")
        columns["unseen"] = (evidence.before, unseen)
    found: dict[str, dict[str, float]] = {}
    for number, (name, (model, images)) in enumerate(columns.items()):

        def tell(done: int, number: int = number) -> None:
            evidence.progress("changes", number * len(CHANGES) + done, len(columns) * len(CHANGES))

        exact = accuracy(predict(model, images, device=evidence.device), images.labels)
        found[name] = {"unchanged": exact} | forget_accuracy_under_changes(
            model, images, seed=evidence.seed, draws=settings.draws, device=evidence.device, on_change=tell
        )
        # One pass for the exact images, one for the flip, and `draws` for each other change.
        evidence.meter.count(forward=len(images) * (2 + settings.draws * (len(CHANGES) - 1)))
    return _section(evidence, forget, found)


def _section(evidence: Evidence, forget: ImageSet, found: dict[str, dict[str, float]]) -> Section:
    before, after, unseen = found["before"], found["after"], found.get("unseen")
    names = [name for name in before if name != "mean"]
    worst = max(CHANGES, key=lambda name: after[name])

    def draw(axis: Any) -> None:
        series = {_SAID[name]: (_INK[name], [column[row] for row in names]) for name, column in found.items()}
        bar_groups(axis, names, series)
        axis.set(ylabel="accuracy (%)", ylim=(0, 103))

    figure = save_svg(evidence.folder / "changes.svg", draw)
    return Section(
        name="changes",
        title="Everyday changes of the forgotten images",
        sentence=(
            f"Changed in everyday ways, the forget images are recognised in {after['mean']:.1f} % of cases "
            f"(before: {before['mean']:.1f} %); unchanged in {after['unchanged']:.1f} %; "
            f"most after “{worst}”, {after[worst]:.1f} %."
            + ("" if unseen is None else f" Changed images that no model saw: {unseen['mean']:.1f} %.")
        ),
        limit=(
            "Random changes of fixed strength, not a search for the one that brings an image back. A model that never "
            "saw the images would recognise many of them too, about as many as the model before does of unseen ones."
        ),
        numbers={
            f"{name.replace(' ', '_')}_{when}": round(figures[name], 4)
            for when, figures in found.items()
            for name in (*names, "mean")
        }
        | {"images": len(forget)},
        tables=(
            Table(
                caption=f"Accuracy in percent on {len(forget)} forget images, and on test images",
                columns=("change", *(_SAID[name] for name in found)),
                rows=tuple(
                    (name, *(round(column[name], 2) for column in found.values()))
                    for name in (*names, "mean")
                ),
            ),
        ),
        figures=(
            Figure(
                file=figure,
                alt="Bars: accuracy on changed forget images before and after, and on changed test images before",
                caption="Accuracy under everyday changes",
            ),
        ),
        settings={"draws": evidence.settings.changes.draws, "seed": evidence.seed}
        | described()
        | evidence.cost("changes"),
    )
