"""The record of a search: every trial, in order, and what was chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

import pydantic

from stakes.errors import RunFolderError
from stakes.files import write_json
from stakes.records import Frozen
from stakes.runs import SEARCH


class Trial(Frozen):
    """Settings that were tried, and what they gave: means over the requests of the plan, in percent.

    ``agreement`` is with the original model, on validation probes; ``failed`` says why there are no figures.
    """

    settings: dict[str, Any]
    forget_accuracy: float | None = None
    agreement: float | None = None
    steps: tuple[int, ...] = ()
    failed: str | None = None

    @property
    def score(self) -> float | None:
        """What is maximised: agreement; below 0 as long as an image is recognised. None for a failure."""
        if self.forget_accuracy is None or self.agreement is None:
            return None
        return self.agreement if self.forget_accuracy == 0 else -self.forget_accuracy


class Searched(Frozen):
    """The search of one row. The first trial is of the settings that the row starts from."""

    method: str
    preset: str | None
    settings: dict[str, Any]
    space: dict[str, Any]
    trials: tuple[Trial, ...] = ()

    @property
    def best(self) -> Trial | None:
        """The trial of the highest score, the earliest of equals; None where all failed."""
        able = [trial for trial in self.trials if trial.score is not None]
        return max(able, key=lambda trial: trial.score or 0.0) if able else None


class TuneRecord(Frozen):
    """A search as a whole: the plan, what it was carried out on, and the rows by name."""

    schema_version: Literal[1] = 1
    plan: dict[str, Any]
    hashes: dict[str, str]
    trials: int
    rows: dict[str, Searched]
    versions: dict[str, str]

    def save(self, path: Path) -> None:
        """Write it whole."""
        write_json(path, self.model_dump(mode="json"))

    def with_trial(self, row: str, trial: Trial) -> Self:
        """The same with one more trial of a row."""
        found = self.rows[row]
        changed = found.model_copy(update={"trials": (*found.trials, trial)})
        return self.model_copy(update={"rows": self.rows | {row: changed}})

    def refuse_other(self, wanted: TuneRecord, folder: Path) -> None:
        """Make sure that a search found in a folder is the one that is wanted.

        Raises:
            RunFolderError: it is another one.
        """
        for name in ("plan", "hashes", "trials"):
            if getattr(self, name) != getattr(wanted, name):
                raise RunFolderError(
                    f"search {folder}",
                    expected="none, or one of the same plan, model and forget sets",
                    got=f"one with other {name}",
                    fix="Choose another --out.",
                )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one from a file, or from the folder of a search.

        Raises:
            RunFolderError: there is none, or it cannot be read.
        """
        path = path / SEARCH if path.is_dir() else path
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, pydantic.ValidationError) as error:
            raise RunFolderError(
                f"search {path}",
                expected=f"the {SEARCH} of stakes tune",
                got=" ".join(str(error).split())[:200],
            ) from None

    def chosen(self, method: str, preset: str | None) -> dict[str, Any]:
        """The settings to take for a method and preset: those its search started from, and what was chosen.

        Raises:
            RunFolderError: no row of that method and preset, two of them, or none of its trials worked.
        """
        able = [row for row in self.rows.values() if (row.method, row.preset) == (method, preset)]
        best = able[0].best if len(able) == 1 else None
        if best is None:
            failed = able[0].trials[0].failed if len(able) == 1 and able[0].trials else None
            raise RunFolderError(
                f"tuned settings of {method}" + (f", preset {preset}" if preset else ""),
                expected="one searched row of it, with a trial that worked",
                got=failed or ", ".join(self.rows) or "none",
            )
        return able[0].settings | best.settings
