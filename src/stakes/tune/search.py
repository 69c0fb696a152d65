"""A search at work: what each row tries next, and the record on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stakes.anchors import Anchors
from stakes.bench.cells import Cell
from stakes.bench.grid import PROTOTYPES
from stakes.config import QUIET
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.models.classifier import Classifier
from stakes.runtime import versions
from stakes.tune.plan import SearchEntry, Space, TunePlan, start_of, told_space
from stakes.tune.record import Searched, Trial, TuneRecord
from stakes.tune.sampling import exhausted, suggest
from stakes.tune.trials import Trials


class Search:
    """The record of a search, made or read again, and written after each trial.

    Raises:
        RunFolderError: the record on disk is of another search.
    """

    def __init__(
        self, plan: TunePlan, path: Path, trials: Trials, spaces: Mapping[str, Space], seed: int
    ) -> None:
        self.path, self.trials, self.spaces, self.seed = path, trials, spaces, seed
        fresh = self._empty(plan)
        self.record = TuneRecord.load(path) if path.is_file() else fresh
        # Searches from before these were written down have no hashes of them.
        known = {
            name: value
            for name, value in fresh.hashes.items()
            if name in self.record.hashes or not name.startswith(("retain_set", "unlabelled_set", "anchors "))
        }
        self.record.refuse_other(fresh.model_copy(update={"hashes": known}), path.parent)

    def _empty(self, plan: TunePlan) -> TuneRecord:
        hashes = self._hashes()
        rows = {entry.row: self._row(entry) for entry in plan.methods}
        told = plan.model_dump(mode="json", exclude={"cache": True, "keep_models": True, "run": QUIET})
        told["seed"] = self.seed
        return TuneRecord(plan=told, hashes=hashes, trials=plan.trials, rows=rows, versions=versions())

    def _hashes(self) -> dict[str, str]:
        """Of all that the trials depend on beside the plan; each is made once."""
        hashes: dict[str, str] = {}
        for cell in self.trials.cells:
            if cell.method.name in self.trials.registry.digests:
                hashes[f"plugin {cell.method.name}"] = self.trials.registry.digests[cell.method.name]
            missing = [name for name in _inputs(cell) if name not in hashes]
            if missing:
                classifier, split = self.trials.opening.problem(cell)
                for name in missing:
                    hashes |= self._hash(name, cell, classifier, split)
        return hashes

    def _hash(self, name: str, cell: Cell, classifier: Classifier, split: ForgetSplit) -> dict[str, str]:
        """One of `_inputs` by its name; empty where there is no such thing."""
        if name == "model":
            found: Classifier | ImageSet | Anchors | None = classifier
        elif name.startswith("anchors"):
            found = self.trials.opening.anchors(cell, classifier, split)
        else:
            found = getattr(split, name.split("_")[0])
        return {name: found.fingerprint()} if found is not None else {}

    def _row(self, entry: SearchEntry) -> Searched:
        space = told_space(self.spaces[entry.row])
        return Searched(method=entry.method, preset=entry.preset, settings=entry.settings, space=space)

    @property
    def whole(self) -> int:
        """Trials of the search; a row that ended early has no more than it made."""
        still = self.open_rows()
        return sum(
            self.record.trials if name in still else len(row.trials) for name, row in self.record.rows.items()
        )

    @property
    def done(self) -> int:
        """Those that are written down."""
        return sum(len(row.trials) for row in self.record.rows.values())

    def open_rows(self) -> list[str]:
        """Rows with trials to come: fewer than the plan's, and settings that were not tried."""
        return [
            name
            for name, row in self.record.rows.items()
            if len(row.trials) < self.record.trials and not exhausted(self.spaces[name], row.trials)
        ]

    def suggestion(self, row: str) -> dict[str, Any]:
        """What the next trial of a row tries; its first one are the settings that it starts from."""
        so_far, space = self.record.rows[row].trials, self.spaces[row]
        if so_far:
            return suggest(space, so_far, self.seed, row)
        start = next(cell.method.settings for cell in self.trials.cells if cell.entry.row == row)
        return start_of(start, space)

    def keep(self, row: str, trial: Trial) -> None:
        """One more trial of a row, written down."""
        self.record = self.record.with_trial(row, trial)
        self.record.save(self.path)


def _inputs(cell: Cell) -> list[str]:
    """Names of what a cell works on. The retain set, which differs by no more than the forget set, counts once."""
    names = ["model", f"forget_set k{cell.k} s{cell.run.seed}"]
    needs, wanted = cell.method.needs, cell.entry.anchors or cell.data.anchors
    if "retain" in needs or ("anchors" in needs and wanted == PROTOTYPES):
        names.append("retain_set")
    if cell.entry.unlabelled:
        names.append("unlabelled_set")
    if "anchors" in needs and wanted != PROTOTYPES:
        names.append(f"anchors {cell.entry.row}")
    return names
