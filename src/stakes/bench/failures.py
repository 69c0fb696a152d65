"""Which failures of a bench a table has to tell of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from stakes.bench.folder import BenchFolder, problem_of
from stakes.records import Record

_CELL = re.compile(r"(?P<row>.+)_k(?P<k>\d+)_s\d+-[0-9a-f]+")


def left_failed(
    folders: Sequence[BenchFolder],
    records: Mapping[str, Record],
    rows: Sequence[str] | None,
    k: Sequence[int] | None,
) -> list[str]:
    """Cells of some rows and sizes of forget sets (None: of all) that failed, and have no record in any folder.

    One of the same row, k and seed with a record has finished, though its settings or plugin were mended since and
    gave it another name. Where a failure does not say its data and model (a process that died), it counts.
    """
    finished = {(name.rpartition("-")[0], problem_of(one)) for name, one in records.items()}
    failed = {cell: folder for folder in folders for cell in folder.errors() if cell not in records}
    return [
        cell
        for cell, folder in failed.items()
        if (cell.rpartition("-")[0], folder.failed_problem(cell)) not in finished and _wanted(cell, rows, k)
    ]


def _wanted(cell: str, rows: Sequence[str] | None, k: Sequence[int] | None) -> bool:
    found = _CELL.fullmatch(cell)
    if found is None:
        return True
    return (rows is None or found["row"] in rows) and (not k or int(found["k"]) in k)
