"""The folder of a bench: one JSON a cell, and the run folders of cells at work."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stakes.errors import RunFolderError
from stakes.files import write_bytes, write_json
from stakes.locks import alone
from stakes.records import Record

_ERROR, _HISTORY = ".error.json", ".history.jsonl"


class BenchFolder:
    """Where a bench keeps what it did.

    ``cells/<id>.json`` the record of a finished cell, ``cells/<id>.history.jsonl`` its steps, ``cells/<id>.error.json``
    why it failed; ``work/<id>/`` the run folder of a cell that is not finished, or of every cell where models are
    kept; ``cache/`` probes and predictions, unless they lie elsewhere. A file with a record is never written again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells = path / "cells"

    def record_path(self, cell: str) -> Path:
        """Where the record of a cell is, or will be."""
        return self.cells / f"{cell}.json"

    def history_path(self, cell: str) -> Path:
        """Where the steps of a finished cell are."""
        return self.cells / f"{cell}{_HISTORY}"

    def work(self, cell: str) -> Path:
        """The run folder of a cell."""
        return self.path / "work" / cell

    def finished(self, cell: str) -> bool:
        """Whether its record is there."""
        return self.record_path(cell).is_file()

    def records(self) -> dict[str, Record]:
        """All records by the name of their cell, in the order of names."""
        paths = sorted(self.cells.glob("*.json")) if self.cells.is_dir() else []
        return {path.stem: Record.load(path) for path in paths if not path.name.endswith(_ERROR)}

    def error(self, cell: str) -> str | None:
        """Why a cell failed the last time, in one line; None where it did not, or finished since."""
        path = self.cells / f"{cell}{_ERROR}"
        if self.finished(cell) or not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return f"{found['error']}: {found['message']}"
        except (ValueError, KeyError, TypeError):
            return "failed; its error file cannot be read"

    def errors(self) -> dict[str, str]:
        """All cells that failed and did not finish since."""
        paths = sorted(self.cells.glob(f"*{_ERROR}")) if self.cells.is_dir() else []
        found = {path.name.removesuffix(_ERROR): "" for path in paths}
        return {cell: error for cell in found if (error := self.error(cell)) is not None}

    def failed_problem(self, cell: str) -> str | None:
        """Data and model of a cell that failed, where its error file says so."""
        try:
            found = json.loads((self.cells / f"{cell}{_ERROR}").read_text(encoding="utf-8")).get("problem")
        except (OSError, ValueError, AttributeError):
            return None
        return str(found) if found else None

    def fail(self, cell: str, kind: str, message: str, trace: str = "", problem: str = "") -> None:
        """Write down why a cell failed; its run folder stays, so that a retry resumes."""
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        found: dict[str, Any] = {"cell": cell, "created": created, "error": kind, "message": message}
        found |= {key: text for key, text in (("traceback", trace), ("problem", problem)) if text}
        write_json(self.cells / f"{cell}{_ERROR}", found)

    def finish(self, cell: str, record: Record, *, keep_model: bool) -> None:
        """Keep history and, last, the record; drop the run folder unless the model is to be kept."""
        steps = self.work(cell) / "history.jsonl"
        if steps.is_file():
            write_bytes(self.history_path(cell), steps.read_bytes())
        record.save(self.record_path(cell))
        (self.cells / f"{cell}{_ERROR}").unlink(missing_ok=True)
        if not keep_model:
            self.tidy(cell)

    def tidy(self, cell: str) -> None:
        """Drop the run folder of a cell."""
        shutil.rmtree(self.work(cell), ignore_errors=True)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep a second bench out of this folder; the system lifts the lock when the process ends, however it ends.

        Raises:
            RunFolderError: another bench is at work here.
            OutputError: the folder cannot be written.
        """
        lock = self.path / "bench.lock"
        with alone(lock, what=f"{self.path}", fix="Wait for that bench, or choose another --out."):
            yield


def together(folders: Sequence[BenchFolder]) -> dict[str, Record]:
    """The records of several folders by the name of their cell; one that two of them have counts once.

    Raises:
        RunFolderError: two have a cell, with other models or figures.
    """
    found: dict[str, Record] = {}
    places: dict[str, Path] = {}
    for folder in folders:
        for cell, record in folder.records().items():
            first = found.setdefault(cell, record)
            place = places.setdefault(cell, folder.path)
            if (first.hashes, first.before, first.after) != (record.hashes, record.before, record.after):
                raise RunFolderError(
                    f"the record of {cell}",
                    expected="the same in all folders",
                    got=f"one in {place} and another in {folder.path}",
                    fix="Leave out one of the folders.",
                )
    return found


def problem_of(record: Record) -> str:
    """Data and model of a record, as its cell names them (`stakes.bench.cells.Cell.problem`)."""
    return f"{record.request.get('data')}/{record.request.get('model')}"
