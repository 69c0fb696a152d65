"""Small images in every dress, for the tests of the data room."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image


def noise(seed: int, height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image | NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed: int, height: int = 8, width: int = 8) -> bytes:
    return encoded(noise(seed, height, width))


def write_folder(root: Path, split: str, counts: dict[str, int], *, seed: int = 0) -> None:
    """Write ``counts[name]`` images to ``root/split/name/``."""
    for place, (name, count) in enumerate(counts.items()):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (folder / f"{number:03}.png").write_bytes(png(seed + 1000 * place + number))


def write_parquet(
    path: Path,
    images: Sequence[Any],
    labels: Sequence[Any],
    names: Sequence[str] | None = ("cat", "dog"),
    *,
    columns: tuple[str, str] = ("image", "label"),
    metadata: bool = True,
) -> None:
    """Write a table as the hub's tools do: structs of bytes and path, class names in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [image if isinstance(image, dict) else {"bytes": image, "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {columns[0]: pa.array(cells, kind), columns[1]: pa.array(labels, None if labels else pa.int64())}
    )
    if metadata:
        import datasets

        label = (
            datasets.ClassLabel(names=list(names))
            if names
            else datasets.Value(str(table.schema.field(1).type))
        )
        features = datasets.Features({columns[0]: datasets.Image(), columns[1]: label})
        table = table.replace_schema_metadata(features.arrow_schema.metadata)
    pq.write_table(table, path)
