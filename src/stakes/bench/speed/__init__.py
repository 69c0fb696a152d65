"""How fast a variant is, phase by phase, against another and against the bare network passes that it makes."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from stakes.anchors.anchors import Anchors
from stakes.bench.speed.ground import (
    EVALUATION,
    PHASES,
    PROBES,
    STEPS,
    TESTS,
    Ground,
    Sample,
    SpeedSettings,
    Variant,
)
from stakes.bench.speed.learning import LearningSlice
from stakes.bench.speed.measuring import EvaluationSlice
from stakes.bench.speed.probing import ProbeSlice
from stakes.bench.speed.report import PhaseSpeed, Ratio, SpeedReport, VariantSpeed
from stakes.config import RunSettings, build
from stakes.data.forget import ForgetSplit
from stakes.errors import ConfigError
from stakes.layer_statistics import keeps_statistics
from stakes.methods import find_method
from stakes.progress import Progress, silent
from stakes.runtime import device_name, repeatable, resolve_device, versions

_Round = dict[str, Sample]


def default_variants() -> tuple[Variant, Variant]:
    """StructGuard at its default preset against L2UL at its published settings."""
    return variant("structguard"), variant("l2ul")


def variant(spec: str, *, settings: Mapping[str, Any] | None = None, steps: int | None = None) -> Variant:
    """A method by ``NAME`` or ``NAME:PRESET``, with changed settings.

    Raises:
        ConfigError: an unknown method, preset or setting.

    Example:
        >>> variant("structguard:paper").method.settings.probes.per_image
        20
    """
    name, _, preset = spec.partition(":")
    kind = find_method(name)
    named = preset or kind.default_preset
    return Variant(spec, kind.configure(preset or None, settings), named, steps)


def bench_speed(
    classifier: nn.Module,
    split: ForgetSplit,
    variants: Sequence[Variant] | None = None,
    *,
    anchors: Anchors | None = None,
    speed: SpeedSettings | None = None,
    progress: Progress = silent,
    **run: Any,
) -> SpeedReport:
    """Measure each phase of each variant on one request, in one process, interleaved.

    In each round every phase of every variant is carried out once, on a slice where the whole would take long, and
    right after it the same network passes with nothing around them. The order of variants turns with each round. A
    first round only warms up. Seconds are those of the whole phase: of the slice, scaled by counts that are known.

    The phases: ``probes``; ``set-up``, all that a method makes once, such as an importance; ``steps``; ``stop test``,
    forget accuracy while it learns; ``evaluation``, at the end. Where probes are made on a slice, steps train on those,
    over and over.

    Args:
        classifier: a `stakes.Classifier`.
        split: the forget set, and test and retain images for the evaluation.
        variants: at least one; `default_variants` where left out. Ratios are against the last.
        anchors: for methods that need them.
        run: fields of `RunSettings`.

    Raises:
        ConfigError: no variant, two of one name, or one that needs what is not given.

    Note:
        The number of steps until all is forgotten is not measured: give it with each variant, from a record. Set-up
        that looks at probes is scaled by their number as a whole. Decoding of images is left out.

    Example:
        >>> report = bench_speed(classifier, split, anchors=anchors)  # doctest: +SKIP
        >>> print(report.markdown())  # doctest: +SKIP
    """
    from stakes.inputs import as_classifier

    asked = tuple(variants) if variants is not None else default_variants()
    k, batchnorm = len(split.forget), keeps_statistics(classifier)
    chosen = [replace(one, method=one.method.for_images(k, batchnorm=batchnorm)) for one in asked]
    labels = [one.label for one in chosen]
    if not chosen or len(set(labels)) < len(labels):
        raise ConfigError("variants", expected="one or more, each with a name of its own", got=str(labels))
    settings, speed = build(RunSettings, run), speed or SpeedSettings()
    device = resolve_device(settings.device)
    original = as_classifier(classifier, split.forget).clone().eval().to(device).requires_grad_(False)
    named = anchors.for_classes(original.class_names) if anchors is not None else None
    at_work = [_Work(Ground(one, original, split, named, settings, device, speed)) for one in chosen]
    rounds: list[list[_Round]] = []
    for number in range(1 + speed.rounds):
        with repeatable(device):
            found = _interleaved(at_work, number)
        progress("rounds", number + 1, 1 + speed.rounds)
        if number:
            rounds.append(found)
    spoken = tuple(_spoken(one, [found[i] for found in rounds]) for i, one in enumerate(chosen))
    return SpeedReport(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=device_name(device),
        threads=torch.get_num_threads(),
        precision=settings.precision,
        versions=versions(),
        hashes={"model": original.fingerprint(), "forget_set": split.forget.fingerprint()},
        forget_images=len(split.forget),
        speed=speed.model_dump(mode="json"),
        run=settings.model_dump(mode="json"),
        variants=spoken,
        ratios=_ratios(spoken),
    )


class _Work:
    """The slices of one variant."""

    def __init__(self, ground: Ground) -> None:
        self.probing = ProbeSlice(ground) if ground.probes else None
        self.learning = LearningSlice(ground, self.probing.taken if self.probing else lambda: None)
        self.evaluation = EvaluationSlice(ground)

    def probes(self) -> _Round:
        return {PROBES: self.probing.sample()} if self.probing else {}

    def learn(self) -> _Round:
        return self.learning.samples()

    def evaluate(self) -> _Round:
        return {EVALUATION: self.evaluation.sample()}


def _interleaved(work: Sequence[_Work], number: int) -> list[_Round]:
    """One round: phase by phase, all variants next to each other, and in turn the other way round."""
    order = range(len(work)) if number % 2 == 0 else range(len(work) - 1, -1, -1)
    found: list[_Round] = [{} for _ in work]
    for phase in (_Work.probes, _Work.learn, _Work.evaluate):
        for at in order:
            found[at] |= phase(work[at])
    return found


def _spoken(chosen: Variant, rounds: Sequence[_Round]) -> VariantSpeed:
    phases = tuple(_phase(name, [found[name] for found in rounds]) for name in PHASES if name in rounds[0])
    counted = [one for one in phases if chosen.steps is not None or one.name not in (STEPS, TESTS)]
    totals = [sum(one.rounds[at] for one in counted) for at in range(len(rounds))]
    return VariantSpeed(
        label=chosen.label,
        method=chosen.method.name,
        preset=chosen.preset,
        settings=chosen.method.settings.model_dump(mode="json"),
        steps=chosen.steps,
        phases=phases,
        seconds=statistics.median(totals),
        forward=sum(one.forward for one in counted),
        backward=sum(one.backward for one in counted),
    )


def _phase(name: str, samples: Sequence[Sample]) -> PhaseSpeed:
    extent = samples[-1].extent
    ratios = [one.seconds / one.bare for one in samples if one.bare > 0]
    return PhaseSpeed(
        name=name,
        seconds=statistics.median(one.seconds for one in samples),
        bare_seconds=statistics.median(one.bare for one in samples),
        overhead=statistics.median(ratios) if ratios and extent.forward else None,
        forward=extent.forward,
        backward=extent.backward,
        how=extent.how,
        rounds=tuple(one.seconds for one in samples),
    )


def _ratios(variants: Sequence[VariantSpeed]) -> tuple[Ratio, ...]:
    """Every variant against the last, phase by phase and as a whole; totals only where both know their steps."""
    *others, reference = variants
    found = []
    for one in others:
        there = {phase.name: phase for phase in reference.phases}
        for phase in one.phases:
            if phase.name in there:
                found.append(_ratio(one, reference, phase, there[phase.name]))
        if (one.steps is None) == (reference.steps is None):
            found.append(_ratio(one, reference, _total(one), _total(reference)))
    return tuple(found)


def _total(one: VariantSpeed) -> PhaseSpeed:
    counted = [p for p in one.phases if one.steps is not None or p.name not in (STEPS, TESTS)]
    return PhaseSpeed(
        name="total" if one.steps is not None else "total without steps",
        seconds=one.seconds,
        bare_seconds=0.0,
        overhead=None,
        forward=one.forward,
        backward=one.backward,
        how="",
        rounds=tuple(map(sum, zip(*(p.rounds for p in counted), strict=True))),
    )


def _ratio(one: VariantSpeed, reference: VariantSpeed, phase: PhaseSpeed, other: PhaseSpeed) -> Ratio:
    pairs = [(a, b) for a, b in zip(phase.rounds, other.rounds, strict=True) if b > 0]
    return Ratio(
        label=one.label,
        reference=reference.label,
        phase=phase.name,
        seconds=statistics.median(a / b for a, b in pairs) if pairs else None,
        forward=phase.forward / other.forward if other.forward else None,
        backward=phase.backward / other.backward if other.backward else None,
    )


__all__ = [
    "PhaseSpeed",
    "Ratio",
    "SpeedReport",
    "SpeedSettings",
    "Variant",
    "VariantSpeed",
    "bench_speed",
    "default_variants",
    "variant",
]
