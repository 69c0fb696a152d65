"""One split as it was found, and how a training and a test split become image sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from stakes.data.images import ImageSet, Size
from stakes.data.names import checked_names, spellings, suggestion
from stakes.data.stores import EncodedStore, Files
from stakes.errors import DataError

TRAIN_NAMES = ("train",)
TEST_NAMES = ("test", "validation", "val", "valid")
"""Names of splits, the first one present is taken: a validation split stands in for a missing test split."""

# A wrong column (a user id, a time) must not become millions of classes.
_MOST_UNNAMED = 100_000


@dataclass(frozen=True)
class RawSplit:
    """Encoded images and their labels as the source gives them.

    Attributes:
        title: the name of the split.
        read: gives the bytes of a row.
        where: how messages name a row.
        labels: an integer (position in ``class_names``) or a class name for each row, or None where it lacks
            one.
        class_names: the names that the source states, if any.
        files: gives the name of each row's file, below the folder of the split where it has one, empty where it is not
            known; None where the source names no files.
    """

    title: str
    read: Callable[[int], bytes]
    where: Callable[[int], str]
    labels: Sequence[int | str | None]
    class_names: tuple[str, ...] | None = None
    files: Files = None


def spelt_for(split: RawSplit, known: Sequence[str]) -> RawSplit:
    """The split with its classes spelt as a model's, where they read the same."""
    found = {*(split.class_names or ()), *(label for label in split.labels if isinstance(label, str))}
    spelling = spellings(found, known)
    if all(name == to for name, to in spelling.items()):
        return split
    labels = [spelling[label] if isinstance(label, str) else label for label in split.labels]
    names = None if split.class_names is None else tuple(spelling[name] for name in split.class_names)
    return replace(split, labels=labels, class_names=names)


def class_names_of(
    train: RawSplit | None, test: RawSplit | None, *, owner: str, known: Sequence[str] = ()
) -> tuple[str, ...]:
    """Give the class names: those stated, else from the labels of the training (else the test) split.

    Text labels name the classes, in sorted order. Integer labels without stated names are named "0" to the
    highest label.

    Args:
        known: names of a model's outputs. Data whose classes are some of them have these, all of them: a class may have
            lost its images. So have integer labels without stated names: they are numbers of outputs.

    Raises:
        DataError: the splits state different names, or there is nothing to name.
    """
    if known and _some_of(known, train, test):
        return checked_names(known)
    stated = [split.class_names for split in (train, test) if split is not None and split.class_names]
    if len(stated) == 2 and isinstance(_first(train), int) and stated[0] != stated[1]:
        raise DataError(
            f"class names of {owner}",
            expected="the same names in the same order in both splits",
            got=f"{list(stated[0])} for training and {list(stated[1])} for test",
        )
    if stated:
        return checked_names(stated[0])
    split = train if train is not None else test
    labels = [label for label in (split.labels if split else []) if label is not None]
    texts = {label for label in labels if isinstance(label, str)}
    if texts:
        return checked_names(sorted(texts))
    highest = max((int(label) for label in labels), default=-1)
    if highest >= _MOST_UNNAMED:
        raise DataError(
            f"labels of {owner}",
            expected=f"0 to {_MOST_UNNAMED - 1} where the classes have no names",
            got=str(highest),
            fix="Number the classes from 0, or state their names in the file.",
        )
    return tuple(str(number) for number in range(highest + 1))


def _some_of(known: Sequence[str], *splits: RawSplit | None) -> bool:
    """Whether the labels are some of the names, not all in each split, or numbers that nothing in the data names."""
    given = [split for split in splits if split is not None]
    labels = [{label for label in split.labels if label is not None} for split in given]
    stated = [set(split.class_names or ()) for split in given]
    found, named = set().union(*labels), set().union(*stated)
    if found and all(isinstance(label, str) for label in found):
        own = [texts | names for texts, names in zip(labels, stated, strict=True)]
        return found | named <= set(known) and any(names < set(known) for names in own)
    return not named and found <= set(range(len(known)))


def _first(split: RawSplit | None) -> int | str | None:
    return split.labels[0] if split is not None and split.labels else None


def image_set(split: RawSplit, class_names: tuple[str, ...], size: Size | None) -> ImageSet:
    """Make an ``ImageSet``; without ``size``: three channels, height and width of the first image.

    Raises:
        DataError: no rows, or a label that is missing, unknown or out of range (named by its row).
    """
    if not split.labels:
        raise DataError(f"the {split.title} split", expected="at least one image", got="none")
    position = {name: number for number, name in enumerate(class_names)}
    labels = [_label(split, row, label, class_names, position) for row, label in enumerate(split.labels)]
    store = EncodedStore(split.read, split.where, len(labels), files=split.files)
    if size is None:
        _, pixels = store.groups([0])[0]
        size = (3, pixels.shape[2], pixels.shape[3])
    return ImageSet(store, torch.tensor(labels), class_names, size)


def _label(
    split: RawSplit, row: int, label: int | str | None, names: tuple[str, ...], position: dict[str, int]
) -> int:
    if isinstance(label, str):
        if label in position:
            return position[label]
        raise DataError(
            f"label of {split.where(row)} is {label!r}, not a class", fix=suggestion(label, names)
        )
    if label is not None and 0 <= label < len(names):
        return label
    raise DataError(
        f"label of {split.where(row)}",
        expected=f"0 to {len(names) - 1}",
        got="none" if label is None else str(label),
        fix="A label of -1 marks a split whose labels are secret: leave that split out."
        if label == -1
        else "",
    )
