"""Images and labels in one Parquet file per split."""

from __future__ import annotations

import bisect
import itertools
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from stakes.data.columns import Columns, find_columns, image_bytes
from stakes.data.splits import RawSplit
from stakes.errors import DataError

IN_MEMORY_BYTES = 2 * 1024**3
"""Parquet files up to this size are read whole."""

_KEPT_GROUPS = 4


def read_parquet(path: Path, *, title: str) -> RawSplit:
    """Read a Parquet file with an image and a label column (see ``find_columns``), nothing written anywhere.

    The encoded images of a file up to ``IN_MEMORY_BYTES`` are held in memory; of a larger one a few row groups at a
    time are, so that memory stays flat. Rows in order then cost one reading of the file, rows at random one row group
    each: methods that train on a large retain set want an image folder, or small row groups.

    The image column holds file bytes, or a struct of ``bytes`` and ``path``; a path is read only where it stays in the
    folder of the Parquet file. Class names come from the Hugging Face metadata of the file where it
    has them.

    Raises:
        DataError: the file cannot be read, or has no such columns.
    """
    import datasets
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        features = datasets.Features.from_arrow_schema(pq.read_schema(path))
        columns: Columns = find_columns(features, owner=str(path))
        labels = pq.read_table(path, columns=[columns.label])[columns.label].to_pylist()
        images = _images(path, columns.image)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read",
            expected="a whole Parquet file",
            got=f"{type(error).__name__}: {error}",
            fix="Fetch or write that file again.",
        ) from error

    def where(row: int) -> str:
        return f"{title} row {row} of {path}"

    def read(row: int) -> bytes:
        return image_bytes(images[row].as_py(), where(row), path.parent)

    kind = pq.read_schema(path).field(columns.image).type
    named = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0

    def files() -> list[str]:
        # Of a struct the file reader alone takes a part; the bytes of the images stay where they are.
        cells = pq.ParquetFile(path).read(columns=[f"{columns.image}.path"])[columns.image].to_pylist()
        return [(cell or {}).get("path") or "" for cell in cells]

    return RawSplit(title, read, where, labels, columns.class_names, files if named else None)


def _images(path: Path, column: str) -> Any:
    """The cells of a column by row."""
    import pyarrow.parquet as pq

    if path.stat().st_size > IN_MEMORY_BYTES:
        return _RowGroups(path, column)
    return pq.read_table(path, columns=[column])[column]


class _RowGroups:
    """The cells of a column, read a row group at a time; several threads may ask."""

    def __init__(self, path: Path, column: str) -> None:
        import pyarrow.parquet as pq

        self._file, self._column = pq.ParquetFile(path), column
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self._lock = threading.Lock()
        self._kept = lru_cache(maxsize=_KEPT_GROUPS)(self._read)

    def __getitem__(self, row: int) -> Any:
        group = bisect.bisect_right(self._starts, row) - 1
        with self._lock:
            cells = self._kept(group)
        return cells[row - self._starts[group]]

    def _read(self, group: int) -> Any:
        import pyarrow as pa

        try:
            return self._file.read_row_group(group, columns=[self._column])[self._column]
        except pa.ArrowException as error:
            raise OSError(f"row group {group} is damaged: {error}") from error
