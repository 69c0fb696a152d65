"""Images and labels in one Parquet file per split."""

from __future__ import annotations

from pathlib import Path

from stakes.data.columns import Columns, find_columns, image_bytes
from stakes.data.splits import RawSplit
from stakes.errors import DataError


def read_parquet(path: Path, *, title: str) -> RawSplit:
    """Read a Parquet file with an image and a label column (see ``find_columns``), nothing written anywhere.

    The encoded images are held in memory. The image column holds file bytes, or a struct of ``bytes`` and
    ``path``; a path is read only where it stays in the folder of the Parquet file. Class names come from the
    Hugging Face metadata of the file where it has them.

    Raises:
        DataError: the file cannot be read, or has no such columns.
    """
    import datasets
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        features = datasets.Features.from_arrow_schema(pq.read_schema(path))
        columns: Columns = find_columns(features, owner=str(path))
        table = pq.read_table(path, columns=[columns.image, columns.label])
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read",
            expected="a whole Parquet file",
            got=f"{type(error).__name__}: {error}",
            fix="Fetch or write that file again.",
        ) from error
    images = table[columns.image]

    def where(row: int) -> str:
        return f"{title} row {row} of {path}"

    def read(row: int) -> bytes:
        return image_bytes(images[row].as_py(), where(row), path.parent)

    return RawSplit(title, read, where, table[columns.label].to_pylist(), columns.class_names)
