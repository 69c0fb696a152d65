"""Test accuracy class by class, split into the forgotten class and the others (supplement B)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stakes.analyses.context import SIDES, Context, Side, SkipAnalysis
from stakes.drawing import GREY, INK, new_figure, save_figure, short
from stakes.metrics.accuracy import accuracy, predict
from stakes.report.section import Figure, Section, Table

SHOWN = 20  # classes in the figure


@dataclass(frozen=True)
class ByClass:
    """Accuracy of each class in percent, and its number of images; NaN where a class has none."""

    accuracy: Tensor
    images: Tensor


def by_class(predicted: Tensor, labels: Tensor, classes: int) -> ByClass:
    """Share of right predictions among the images of each class, percent (b,).

    Example:
        >>> by_class(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).accuracy.tolist()
        [50.0, 100.0]
    """
    images = torch.bincount(labels, minlength=classes)
    right = torch.bincount(labels[predicted == labels], minlength=classes)
    return ByClass(100 * right.double() / images, images)


def analysis(context: Context) -> Section:
    """Test accuracy of every class before and after; of a forgotten class and the others where one was named."""
    test = context.run.split.test
    if test is None or not len(test):
        raise SkipAnalysis("accuracy by class needs test images. Say where the data are with --data.")
    labels, names = test.labels, test.class_names
    predicted = {side: _predicted(context, side) for side in SIDES}
    found = {side: by_class(predicted[side], labels, len(names)) for side in SIDES}
    change = found["after"].accuracy - found["before"].accuracy
    order = change.nan_to_num(torch.inf).argsort(stable=True).tolist()
    numbers: dict[str, float | int | None] = {
        "lowest_class_after_percent": _lowest(found["after"].accuracy),
        "largest_loss_of_a_class_points": max(0.0, -float(change.nan_to_num(0).min())),
    }
    gone = _forgotten_class(context)
    for side in SIDES:
        numbers |= _split(predicted[side], labels, gone, side)
    return Section(
        name="class-level",
        title="Test accuracy by class",
        sentence=_sentence(numbers, names, gone, order[0], found),
        limit="Accuracy on test images says how classes are recognised, not whether single images left a trace.",
        numbers=numbers,
        tables=(_table(names, found, order, gone),),
        figures=(_figure(context, names, found, order[:SHOWN], gone),),
        settings={"test images": len(test), "forget": context.run.split.spec},
    )


def _predicted(context: Context, side: Side) -> Tensor:
    test = context.run.split.test
    shown = context.images("test")
    if test is None or shown is None:
        raise SkipAnalysis("there are no test images.")
    # The sample serves where it is the whole set; else every test image counts, as in the record.
    if len(shown) == len(test):
        return context.outputs(side, "test").logits.argmax(dim=1)
    return predict(context.classifier(side), test, batch=context.settings.batch, device=context.run.device)


def _forgotten_class(context: Context) -> int | None:
    kind, _, name = context.run.split.spec.partition(":")
    names = context.run.before.class_names
    return names.index(name.strip()) if kind == "class" and name.strip() in names else None


def _split(predicted: Tensor, labels: Tensor, gone: int | None, side: Side) -> dict[str, float | None]:
    """Test accuracy of the forgotten class and of all others, percent."""
    if gone is None:
        return {}
    own = labels == gone
    parts = {"forgotten_class": own, "other_classes": ~own}
    return {
        f"{name}_{side}_percent": accuracy(predicted[part], labels[part]) if bool(part.any()) else None
        for name, part in parts.items()
    }


def _lowest(values: Tensor) -> float | None:
    known = values[~values.isnan()]
    return float(known.min()) if len(known) else None


def _sentence(
    numbers: dict[str, float | int | None],
    names: tuple[str, ...],
    gone: int | None,
    worst: int,
    found: dict[Side, ByClass],
) -> str:
    if gone is not None:

        def said(part: str) -> str:
            before, after = (numbers[f"{part}_{side}_percent"] for side in SIDES)
            return "unknown" if after is None else f"{after:.2f} % ({before:.2f} before)"

        return (
            f"Test accuracy of the forgotten class {names[gone]} is {said('forgotten_class')}, "
            f"of the other classes {said('other_classes')}."
        )
    before, after = (float(found[side].accuracy[worst]) for side in SIDES)
    return (
        f"The class that changed worst is {names[worst]}: test accuracy {after:.2f} % ({before:.2f} before)."
    )


def _table(names: tuple[str, ...], found: dict[Side, ByClass], order: list[int], gone: int | None) -> Table:
    def cell(value: float) -> float | None:
        return None if value != value else value

    rows = []
    for at in order:
        before, after = (float(found[side].accuracy[at]) for side in SIDES)
        title = f"{names[at]} (forgotten class)" if at == gone else names[at]
        rows.append((title, int(found["after"].images[at]), cell(before), cell(after), cell(after - before)))
    return Table(
        caption="Test accuracy by class, percent; the largest loss first.",
        columns=("class", "test images", "before", "after", "change"),
        rows=tuple(rows),
    )


def _figure(
    context: Context, names: tuple[str, ...], found: dict[Side, ByClass], order: list[int], gone: int | None
) -> Figure:
    figure = new_figure(7, 0.9 + 0.26 * len(order))
    axis = figure.subplots()
    places = range(len(order))
    before, after = (found[side].accuracy[order].tolist() for side in SIDES)
    axis.hlines(places, before, after, color=GREY, linewidth=1)
    axis.plot(before, places, "o", color=INK["before"], markerfacecolor="white", label="before")
    axis.plot(after, places, "D", color=INK["after"], label="after")
    axis.set_yticks(places, [("★ " if at == gone else "") + short(names[at], 24) for at in order], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlim=(-3, 103), xlabel="test accuracy (%)")
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    file = save_figure(figure, context.folder / "class-level.svg")
    part = (
        "" if len(order) == len(names) else f" The {len(order)} of {len(names)} classes that changed worst."
    )
    return Figure(
        file=file,
        alt="Test accuracy of each class before (circle) and after (diamond); the table holds the values."
        + part,
        caption="Test accuracy by class." + part + (" ★ the forgotten class." if gone is not None else ""),
    )
