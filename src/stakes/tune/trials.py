"""One trial of a search: settings, the requests of the plan carried out with them, and how the results are judged."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stakes.bench.cells import Cell, expand
from stakes.bench.opening import Opening
from stakes.bench.plugins import Registry
from stakes.config import dotted
from stakes.errors import NumericalError, StakesError
from stakes.models.classifier import Classifier
from stakes.records import Record
from stakes.runtime import repeatable, resolve_device
from stakes.tune.judge import Judge
from stakes.tune.plan import TunePlan
from stakes.tune.record import Trial
from stakes.unlearning import Unlearned


def unlearned(
    opening: Opening,
    cell: Cell,
    settings: Mapping[str, Any],
    *,
    cache: Path,
    registry: Registry | None = None,
    test: bool = False,
) -> Unlearned:
    """One request of a plan with these settings, in memory.

    Args:
        test: also measure on the test set, as a search itself never does.
    """
    from stakes.api import unlearn

    classifier, split = opening.problem(cell)
    kind = (registry or Registry()).find(cell.method.name)
    method = kind.configure(
        cell.entry.preset, dotted(kind.settings_type, cell.entry.settings) | dict(settings)
    )
    return unlearn(
        classifier,
        replace(
            split,
            test=split.test if test else None,
            retain=split.retain if "retain" in method.needs else None,
        ),
        anchors=opening.anchors(cell, classifier, split),
        method=method,
        preset=cell.preset,
        cache=cache,
        **cell.run.model_dump(),
    )


class Trials:
    """Carries out trials of a plan: model, data and judges are opened once."""

    def __init__(self, plan: TunePlan, registry: Registry, cache: Path) -> None:
        self.registry, self.cache = registry, cache
        self.cells = expand(plan, registry)
        self.opening = Opening(plan, cache)
        self._judges: dict[tuple[int, int], Judge] = {}

    def carry_out(self, row: str, settings: Mapping[str, Any]) -> Trial:
        """A trial of a row; one that diverges, or whose method raises, counts as one.

        Raises:
            StakesError: what is wrong with the inputs or the machine.
        """

        def requests() -> Iterator[tuple[Record, float]]:
            for cell in (cell for cell in self.cells if cell.entry.row == row):
                with repeatable(resolve_device(cell.run.device)):
                    found = unlearned(self.opening, cell, settings, registry=self.registry, cache=self.cache)
                    agreement = self._judge(cell).agreement(found.classifier)
                yield found.record, agreement

        return trial_of(settings, requests())

    def _judge(self, cell: Cell) -> Judge:
        """That of a request; made once."""
        key = (cell.k, cell.run.seed)
        if key not in self._judges:
            classifier, split = self.opening.problem(cell)
            device = resolve_device(cell.run.device)
            self._judges[key] = Judge(
                ready(classifier, device),
                split.forget,
                seed=cell.run.seed,
                cache=self.cache,
                device=device,
                precision=cell.run.precision,
                batch=cell.run.eval_batch,
            )
        return self._judges[key]


def trial_of(settings: Mapping[str, Any], requests: Iterable[tuple[Record, float]]) -> Trial:
    """A trial from the record and the agreement of every request; where one fails for its settings, a failed trial.

    Raises:
        StakesError, OSError, MemoryError: what no other settings would mend.
    """
    forget, agreements, steps = [], [], []
    try:
        for record, agreement in requests:
            forget.append(record.forget_accuracy)
            agreements.append(agreement)
            steps.append(record.steps)
    except NumericalError as error:
        return Trial(settings=dict(settings), failed=str(error))
    except (StakesError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a method raises, other settings may work
        return Trial(settings=dict(settings), failed=f"{type(error).__name__}: {error}")
    return Trial(
        settings=dict(settings),
        forget_accuracy=statistics.fmean(forget),
        agreement=statistics.fmean(agreements),
        steps=tuple(steps),
    )


def ready(classifier: Classifier, device: torch.device) -> Classifier:
    """A copy to be asked."""
    return classifier.clone().eval().requires_grad_(False).to(device)
