"""Section: how far from a model that never saw the images?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

from stakes.audit.drawing import bar_groups, save_svg
from stakes.audit.evidence import Evidence, Finding, Skipped
from stakes.audit.klom import CEILING, agreement, klom, left_out, margin_distance, parameter_distance
from stakes.audit.outputs import Array, margins
from stakes.data.images import ImageSet
from stakes.report.section import Cell, Figure, Section, Table

Numbers = dict[str, float | int | None]
T = TypeVar("T")


@dataclass(frozen=True)
class _OnSet:
    """What the models say about one set of images, and how far apart they are."""

    images: int
    agreement: dict[str, float | None]
    margins: dict[str, float | None]
    klom: dict[str, float | None]


def distance(evidence: Evidence) -> Finding:
    """Agreement, KLoM and parameter distance, of the unlearned model and, as a yardstick, of the original."""
    if not evidence.retrained:
        return Skipped("no model retrained without the forget set (--retrained)")
    split, most = evidence.split, evidence.settings.distance.images
    sets = {"forget": split.forget, "test": split.test, "retain": split.retain}
    present = {name: images for name, images in sets.items() if images is not None}
    found = {}
    for done, (name, images) in enumerate(present.items(), start=1):
        found[name] = _on(evidence, evidence.sample(images, most, "distance", name))
        evidence.progress("distance", done, len(present))
    return _section(evidence, found)


def _on(evidence: Evidence, images: ImageSet) -> _OnSet:
    before, after = (evidence.logits(model, images) for model in (evidence.before, evidence.after))
    others = [evidence.logits(one.classifier, images) for one in evidence.retrained]
    sure = [margins(logits, images.labels) for logits in (before, after, *others)]
    return _OnSet(
        len(images),
        _apart(agreement, before, after, others),
        _apart(margin_distance, sure[0], sure[1], sure[2:]),
        _klom(sure[0], sure[1], sure[2:]),
    )


def _apart(
    measure: Callable[[T, T], float], before: T, after: T, others: Sequence[T]
) -> dict[str, float | None]:
    """A measure of two models: to the retrained ones on average, and of these among each other."""
    pairs = [measure(a, b) for a, b in combinations(others, 2)]
    return {
        "before": float(np.mean([measure(before, other) for other in others])),
        "after": float(np.mean([measure(after, other) for other in others])),
        "retrained": float(np.mean(pairs)) if pairs else None,
    }


def _klom(before: Array, after: Array, others: Sequence[Array]) -> dict[str, float | None]:
    if len(others) < 2:
        return {}
    reference = np.stack(others)
    found: dict[str, float | None] = {
        "before": float(klom(before[None], reference).mean()),
        "after": float(klom(after[None], reference).mean()),
    }
    return found | {"retrained": float(left_out(reference).mean()) if len(others) > 2 else None}


def _parameters(evidence: Evidence) -> dict[str, float | None]:
    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    others = [one.classifier for one in evidence.retrained]
    return {
        "before": mean([parameter_distance(evidence.before, other) for other in others]),
        "after": mean([parameter_distance(evidence.after, other) for other in others]),
        "retrained": mean([parameter_distance(a, b) for a, b in combinations(others, 2)]),
        "after to before": parameter_distance(evidence.after, evidence.before),
    }


def _section(evidence: Evidence, found: dict[str, _OnSet]) -> Section:
    parameters, count = _parameters(evidence), len(evidence.retrained)
    same = found["forget"].agreement
    among = (
        ""
        if same["retrained"] is None
        else f", retrained models among each other in {same['retrained']:.1f} %"
    )
    far, divergence = found["forget"].margins, found["forget"].klom
    theirs = "" if far["retrained"] is None else f", theirs {far['retrained']:.1f} apart"
    klom_part = (
        f"; KLoM {divergence['after']:.2f} nats (before {divergence['before']:.2f})" if divergence else ""
    )
    return Section(
        name="distance",
        title="Distance to a model that never saw the images",
        sentence=(
            f"On the forget images the unlearned model agrees with the retrained one in {same['after']:.1f} % of "
            f"predictions (before: {same['before']:.1f} %{among}); its margins lie {far['after']:.1f} from theirs in "
            f"log-odds (before: {far['before']:.1f}{theirs}){klom_part}."
        ),
        limit=_limit(count, divergence) + evidence.on_trust(),
        numbers=_numbers(found, parameters) | {"retrained_models": count},
        tables=(_table(found, parameters),),
        figures=(
            Figure(
                file=save_svg(evidence.folder / "distance.svg", lambda axis: _draw(axis, found)),
                alt="Bars: agreement of predictions with retrained models on forget, test and retain images",
                caption="Agreement with retrained models",
            ),
        ),
        settings={
            "retrained": ", ".join(one.name for one in evidence.retrained),
            "images of a set, at most": evidence.settings.distance.images,
            "seed": evidence.seed,
        }
        | evidence.cost("distance"),
    )


def _limit(count: int, divergence: dict[str, float | None]) -> str:
    if count < 2:
        return (
            "One retrained model: how much two of them differ by chance is unknown, and KLoM needs at least two. Equal "
            "outputs on these images do not make equal models."
        )
    least = min(divergence["before"] or 0.0, divergence["after"] or 0.0)
    ceiling = (
        f" Here it is at its ceiling of {CEILING:.2f}, before as after, and tells them not apart."
        if least > 0.99 * CEILING
        else ""
    )
    return (
        f"{count} retrained models and one unlearned one are few: KLoM is defined over about a hundred on each side, "
        f"and here only says whether the model's margins lie among theirs.{ceiling} Distances of parameters are large "
        "even between models that do the same."
    )


def _numbers(found: dict[str, _OnSet], parameters: dict[str, float | None]) -> Numbers:
    numbers: Numbers = {}
    for name, on in found.items():
        numbers[f"{name}_images"] = on.images
        numbers |= {f"agreement_{name}_{model}": _round(value) for model, value in on.agreement.items()}
        numbers |= {f"margins_{name}_{model}": _round(value) for model, value in on.margins.items()}
        numbers |= {f"klom_{name}_{model}": _round(value) for model, value in on.klom.items()}
    names = {model: model.replace(" ", "_") for model in parameters}
    return numbers | {f"parameters_{names[model]}": _round(value) for model, value in parameters.items()}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _table(found: dict[str, _OnSet], parameters: dict[str, float | None]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, on in found.items():
        for title, values in (
            ("agreement (%)", on.agreement),
            ("margin distance (log-odds)", on.margins),
            ("KLoM (nats)", on.klom),
        ):
            if values:
                row = [_round(values.get(model)) for model in ("before", "after", "retrained")]
                rows.append((title, name, on.images, *row))
    known = [_round(parameters[model]) for model in ("before", "after", "retrained")]
    if any(value is not None for value in known):
        rows.append(("parameter distance", "", None, *known))
    return Table(
        caption="To the retrained models, on average; last column: retrained models among each other",
        columns=("measure", "set", "images", "before", "after", "retrained"),
        rows=tuple(rows),
    )


def _draw(axis: Any, found: dict[str, _OnSet]) -> None:
    series = {}
    for model, ink in (("before", "before"), ("after", "after"), ("retrained", "other")):
        values = [on.agreement[model] for on in found.values()]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            series[model] = (ink, known)
    bar_groups(axis, list(found), series)
    axis.set(ylabel="agreement (%)", ylim=(0, 103))
