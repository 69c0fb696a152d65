"""Carrying out a search: row by row, trial by trial; each trial is written down before the next begins."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from stakes.bench.cells import QUIET, Cell, configured, expand
from stakes.bench.opening import Opening
from stakes.bench.plugins import Registry
from stakes.config import MethodSettings
from stakes.errors import NumericalError, RunFolderError
from stakes.locks import alone
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.runtime import repeatable, resolve_device, versions
from stakes.tune.judge import Judge
from stakes.tune.plan import SearchEntry, Space, Span, TunePlan, space_of
from stakes.tune.record import FILE, Searched, Trial, TuneRecord
from stakes.tune.sampling import suggest
from stakes.unlearning import Unlearned


def run_tune(
    plan: TunePlan,
    out: Path,
    *,
    registry: Registry | None = None,
    cache: Path | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> TuneRecord:
    """Search settings for every row of a plan, with the same number of trials each.

    A trial unlearns every request of the plan (k × seed) in memory and is judged by two figures: forget accuracy, and
    agreement with the original model on validation probes (`Judge`). No test image is opened, and no retained one
    unless a method trains on them. Highest agreement among the settings that forgot every image wins. A trial that
    diverges counts as one.

    Args:
        out: folder of the search; one of the same plan goes on where it was.
        registry: methods by name, for those from outside.
        cache: folder for probes; None: the plan's, or ``out/cache``.
        seed: of the sampler's draws; those of the requests stand in the plan.
        progress: told how many trials are done.

    Raises:
        ConfigError, DataError: the plan is wrong or its files are missing, before any work is done.
        RunFolderError: ``out`` belongs to another search, or another one works there.
        KeyboardInterrupt: interrupted; finished trials are kept.
    """
    registry = registry or Registry()
    cells = expand(plan, registry)
    spaces = {entry.row: space_of(entry, configured(plan, entry, registry)) for entry in plan.methods}
    plan.check_places()
    cache = cache or (Path(plan.locate(plan.cache)) if plan.cache else out / "cache")
    with alone(out / "tune.lock", what=f"{out}", fix="Wait for that search, or choose another --out."):
        search = _Search(plan, out / FILE, cells, spaces, registry, cache, seed)
        total, done = plan.trials * len(plan.methods), 0
        for entry in plan.methods:
            while (tried := len(search.record.rows[entry.row].trials)) < plan.trials:
                progress("trials", done + tried, total)
                search.attempt(entry)
            done += tried
        progress("trials", done, total)
    return search.record


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
    method = kind.configure(cell.entry.preset, cell.entry.settings | dict(settings))
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


class _Search:
    """A search at work, and its record on disk."""

    def __init__(
        self,
        plan: TunePlan,
        path: Path,
        cells: Sequence[Cell],
        spaces: Mapping[str, Space],
        registry: Registry,
        cache: Path,
        seed: int,
    ) -> None:
        self.path, self.cells, self.spaces = path, cells, spaces
        self.registry, self.cache, self.seed = registry, cache, seed
        self.opening = Opening(plan, cache)
        self._judges: dict[tuple[int, int], Judge] = {}
        fresh = self._empty(plan)
        self.record = TuneRecord.load(path) if path.is_file() else fresh
        for name in ("plan", "hashes", "trials"):
            if getattr(self.record, name) != getattr(fresh, name):
                raise RunFolderError(
                    f"search {path.parent}",
                    expected="none, or one of the same plan, model and forget sets",
                    got=f"one with other {name}",
                    fix="Choose another --out.",
                )

    def _empty(self, plan: TunePlan) -> TuneRecord:
        hashes: dict[str, str] = {}
        for cell in self.cells:
            if f"forget_set k{cell.k} s{cell.run.seed}" not in hashes:
                classifier, split = self.opening.problem(cell)
                hashes["model"] = classifier.fingerprint()
                hashes[f"forget_set k{cell.k} s{cell.run.seed}"] = split.forget.fingerprint()
        rows = {entry.row: self._row(entry) for entry in plan.methods}
        told = plan.model_dump(mode="json", exclude={"cache": True, "keep_models": True, "run": QUIET})
        told["seed"] = self.seed
        return TuneRecord(plan=told, hashes=hashes, trials=plan.trials, rows=rows, versions=versions())

    def _row(self, entry: SearchEntry) -> Searched:
        told = {
            name: span.model_dump(mode="json") if isinstance(span, Span) else list(span)
            for name, span in self.spaces[entry.row].items()
        }
        return Searched(method=entry.method, preset=entry.preset, settings=entry.settings, space=told)

    def attempt(self, entry: SearchEntry) -> None:
        """One more trial of a row."""
        row, space = self.record.rows[entry.row], self.spaces[entry.row]
        cells = [cell for cell in self.cells if cell.entry.row == entry.row]
        if row.trials:
            settings = suggest(space, row.trials, self.seed, entry.row)
        else:
            settings = {name: _value(cells[0].method.settings, name) for name in space}
        changed = row.model_copy(update={"trials": (*row.trials, self._trial(cells, settings))})
        self.record = self.record.model_copy(update={"rows": self.record.rows | {entry.row: changed}})
        self.record.save(self.path)

    def _trial(self, cells: Sequence[Cell], settings: Mapping[str, Any]) -> Trial:
        forget, agreement, steps = [], [], []
        try:
            for cell in cells:
                with repeatable(resolve_device(cell.run.device)):
                    found = unlearned(self.opening, cell, settings, registry=self.registry, cache=self.cache)
                    agreement.append(self._judge(cell).agreement(found.classifier))
                forget.append(found.record.forget_accuracy)
                steps.append(found.record.steps)
        except NumericalError as error:
            return Trial(settings=dict(settings), failed=str(error))
        return Trial(
            settings=dict(settings),
            forget_accuracy=statistics.fmean(forget),
            agreement=statistics.fmean(agreement),
            steps=tuple(steps),
        )

    def _judge(self, cell: Cell) -> Judge:
        """That of a request; made once."""
        key = (cell.k, cell.run.seed)
        if key not in self._judges:
            classifier, split = self.opening.problem(cell)
            device = resolve_device(cell.run.device)
            self._judges[key] = Judge(
                _ready(classifier, device),
                split.forget,
                seed=cell.run.seed,
                cache=self.cache,
                device=device,
                precision=cell.run.precision,
                batch=cell.run.eval_batch,
            )
        return self._judges[key]


def _ready(classifier: Classifier, device: Any) -> Classifier:
    return classifier.clone().eval().requires_grad_(False).to(device)


def _value(settings: MethodSettings, name: str) -> Any:
    """A setting by its dotted name."""
    return reduce(getattr, name.split("."), settings)
