"""Data sets by their name on the Hugging Face hub."""

from __future__ import annotations

import errno
from typing import Any

from stakes.data.columns import find_columns, image_bytes
from stakes.data.splits import RawSplit
from stakes.errors import DataError, NetworkError, OutputError
from stakes.retry import patiently

_OTHER_WAYS = (
    "Without a network give a folder with train.parquet and test.parquet, a folder with train/CLASS/*.png, "
    "or the word digits."
)


def read_hub(name: str) -> dict[str, RawSplit]:
    """Load every split of a hub data set through ``datasets``, which keeps its own copy on disk.

    A connection that stalls or breaks is tried again after a pause; no code of the data set is ever run.

    Raises:
        OutputError: the disk is full.
        NetworkError: the hub cannot be reached or has no such data set.
        DataError: the data set needs a choice that only the user can make, or has no image and label column.
    """
    import datasets

    try:
        found = patiently(f"data set {name}", lambda: datasets.load_dataset(name))
    except (ValueError, TypeError) as error:
        raise DataError(f"hub data set {name!r} cannot be loaded", got=str(error), fix=_OTHER_WAYS) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"data set {name!r} cannot be kept",
                expected="free space in the cache folder of datasets",
                got="a full disk",
                fix="Free some space, or set HF_HOME to another disk; what is there already is kept.",
            ) from error
        raise _unreachable(name, error) from error
    except Exception as error:  # the hub client's failures share no base class
        raise _unreachable(name, error) from error
    return {str(title): _split(part, name=name, title=str(title)) for title, part in found.items()}


def _unreachable(name: str, error: Exception) -> NetworkError:
    return NetworkError(
        f"data set {name!r} is neither a folder here nor can it be loaded from the Hugging Face hub",
        got=f"{type(error).__name__}: {error}",
        fix=_OTHER_WAYS,
    )


def _split(part: Any, *, name: str, title: str) -> RawSplit:
    import datasets

    columns = find_columns(part.features, owner=f"{name} ({title})")
    part = part.select_columns([columns.image, columns.label])
    if isinstance(part.features[columns.image], datasets.Image):
        part = part.cast_column(columns.image, datasets.Image(decode=False))

    def where(row: int) -> str:
        return f"{title} row {row} of {name}"

    def read(row: int) -> bytes:
        return image_bytes(part[row][columns.image], where(row), None)

    return RawSplit(title, read, where, list(part[columns.label]), columns.class_names)
