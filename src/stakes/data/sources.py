"""From what the user names as data to a training and a test split."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stakes.data.digits import read_digits
from stakes.data.folders import read_class_folders
from stakes.data.hub import read_hub
from stakes.data.images import ImageSet, Size, checked_size
from stakes.data.parquet import read_parquet
from stakes.data.splits import TEST_NAMES, TRAIN_NAMES, RawSplit, class_names_of, image_set, spelt_for
from stakes.errors import DataError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_ACCEPTED = (
    "a folder with train.parquet and test.parquet, a folder with train/CLASS/*.png, "
    "a hub id such as uoft-cs/cifar10, or the word digits"
)


@dataclass(frozen=True)
class Source:
    """A data set: its splits (at least one), its class names, where it came from, and a note."""

    train: ImageSet | None
    test: ImageSet | None
    class_names: tuple[str, ...]
    name: str
    note: str = ""


def open_source(source: str | Path, *, size: Size | None = None, class_names: Sequence[str] = ()) -> Source:
    """Open the data that ``source`` names.

    - A folder with ``train.parquet`` and/or ``test.parquet`` (see ``read_parquet``). It wins over class
      folders beside it.
    - A folder with ``train/CLASS/*.png`` and/or ``test/CLASS/*.png`` (see ``read_class_folders``).
    - The word ``digits``: scikit-learn's handwritten digits (a folder of that name is ``./digits``).
    - Any other name that is no path here: a data set of the Hugging Face hub, which needs a network.

    A ``validation``, ``val`` or ``valid`` split serves as test where there is no test split; ``note`` then
    says so. Class names are those that the data states (see ``class_names_of``). Images are decoded when
    first used.

    Args:
        source: see above.
        size: (C, H, W) for the batches. Without it: three channels, and the height and width of the first
            image of the training split (one channel for ``digits``).
        class_names: of a model that the data are for: they may lack some of its classes, or have numbers of its outputs
            in place of names.

    Raises:
        DataError: nothing there, or no such columns, or a wrong label (named by split and row).
        NetworkError: the hub cannot be reached or has no such data set.

    Example:
        >>> open_source("digits").train
        ImageSet(1437 images of 10 classes, 1 × 8 × 8)
    """
    size = None if size is None else checked_size(size)
    if source == "digits":
        train, test = read_digits()
        if size is not None:
            train, test = train.with_size(size), test.with_size(size)
        return Source(train, test, train.class_names, "digits")
    text = os.path.expanduser(source)
    if os.path.isdir(text):
        return _assemble(_open_folder(Path(text)), str(source), size, class_names)
    if os.path.exists(text):
        fix = "Give the folder that holds the file." if text.endswith(".parquet") else ""
        raise DataError(f"data {str(source)!r}", expected=_ACCEPTED, got="a file", fix=fix)
    if isinstance(source, str) and _HUB_ID.fullmatch(source):
        return _assemble(read_hub(source), source, size, class_names)
    raise DataError(f"data {str(source)!r}", expected=_ACCEPTED, got="no folder of that name")


def _open_folder(folder: Path) -> dict[str, RawSplit]:
    names = (*TRAIN_NAMES, *TEST_NAMES)
    files = {name: folder / f"{name}.parquet" for name in names}
    found = {name: read_parquet(path, title=name) for name, path in files.items() if path.is_file()}
    if found:
        return found
    for name in names:
        if (folder / name).is_dir():
            found[name] = read_class_folders(folder / name, root=folder, title=name)
    if not found:
        raise DataError(
            f"no data in folder {folder}",
            expected="train.parquet or test.parquet, or train/CLASS/*.png or test/CLASS/*.png",
            got=", ".join(sorted(os.listdir(folder))[:8]) or "an empty folder",
        )
    return found


def _assemble(splits: Mapping[str, RawSplit], name: str, size: Size | None, known: Sequence[str]) -> Source:
    train_name = next((title for title in TRAIN_NAMES if title in splits), None)
    test_name = next((title for title in TEST_NAMES if title in splits), None)
    if train_name is None and test_name is None:
        raise DataError(f"splits of {name}", expected="train or test", got=", ".join(splits) or "none")
    train = spelt_for(splits[train_name], known) if train_name else None
    test = spelt_for(splits[test_name], known) if test_name else None
    class_names = class_names_of(train, test, owner=name, known=known)
    train_set = image_set(train, class_names, size) if train else None
    test_set = image_set(test, class_names, train_set.size if train_set else size) if test else None
    note = f"the {test_name} split serves as test split" if test_name not in (None, TEST_NAMES[0]) else ""
    return Source(train_set, test_set, class_names, name, note)
