"""Which columns of a table hold the images and the labels, and what a cell holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stakes.data.folders import inside
from stakes.errors import DataError

_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Columns:
    """Names of the two columns, and the class names that the label column states."""

    image: str
    label: str
    class_names: tuple[str, ...] | None


def find_columns(features: Any, *, owner: str) -> Columns:
    """Find the image and the label column by their type, then by their name.

    The image column is the only one of type ``Image``, else the one called ``image`` or ``img``. The label
    column is the only one of type ``ClassLabel``, else the one called ``label``, ``labels`` or ``fine_label``
    that holds integers or text.

    Args:
        features: a ``datasets.Features``.
        owner: how messages name the table.

    Raises:
        DataError: none or several fit; the message lists the columns.
    """
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    plain = [name for name, kind in features.items() if _is_plain_label(kind)]
    raw = [name for name, kind in features.items() if _is_raw_image(kind)]
    image = _pick(images, [*images, *raw], _IMAGE_NAMES)
    label = _pick(classes, [*classes, *plain], _LABEL_NAMES)
    if image is None or label is None:
        raise DataError(
            f"columns of {owner}",
            expected="one column of images (image) and one of labels (label: class labels, integers or text)",
            got=", ".join(f"{name} ({_kind(kind)})" for name, kind in features.items()) or "no columns",
            fix=f"No {'image' if image is None else 'label'} column was found: rename or add one.",
        )
    kind = features[label]
    names = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) and kind.names else None
    return Columns(image, label, names)


def _pick(typed: list[str], usable: list[str], preferred: tuple[str, ...]) -> str | None:
    if len(typed) == 1:
        return typed[0]
    return next((name for name in preferred if name in usable), None)


def _is_plain_label(kind: Any) -> bool:
    dtype = str(getattr(kind, "dtype", ""))
    return type(kind).__name__ == "Value" and ("int" in dtype or "string" in dtype)


def _is_raw_image(kind: Any) -> bool:
    return (isinstance(kind, dict) and "bytes" in kind) or "binary" in str(getattr(kind, "dtype", ""))


def _kind(kind: Any) -> str:
    name = type(kind).__name__
    return str(kind.dtype) if name == "Value" else name


def image_bytes(cell: Any, where: str, folder: Path | None) -> bytes:
    """Give the encoded image of a cell: bytes, or a mapping with ``bytes`` or else ``path``.

    Args:
        cell: the value found in the table.
        where: how messages name the row.
        folder: where relative paths start, and beyond which no path may lead; ``None`` trusts the path.

    Raises:
        DataError: the cell is empty, or its path leaves ``folder``.
        OSError: the file cannot be read.
    """
    if isinstance(cell, dict):
        data, path = cell.get("bytes"), cell.get("path")
    else:
        data, path = cell, None
    if isinstance(data, bytes) and data:
        return data
    if isinstance(path, str) and path:
        return (Path(path) if folder is None else inside(folder, folder / path)).read_bytes()
    raise DataError(f"image of {where}", expected="the bytes of an image file", got="an empty cell")
