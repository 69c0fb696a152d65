"""Which images are to be forgotten, and what is left to measure with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stakes.data.folders import read_class_folders
from stakes.data.images import ImageSet, Size
from stakes.data.names import check_same_names, checked_names, one_form, spellings, suggestion
from stakes.data.sources import Source
from stakes.data.splits import TRAIN_NAMES, image_set, spelt_for
from stakes.data.unlabelled import open_unlabelled
from stakes.errors import DataError
from stakes.files import digest

_ACCEPTED = "files:LIST, indices:LIST, class:NAME, random:K or images:DIR"


@dataclass(frozen=True)
class ForgetSplit:
    """The forget set, and the sets that only evaluation may look at.

    Attributes:
        forget: the images to forget, at least one.
        test: the test split, if there is one.
        retain: the rest of the training split; ``None`` where it is unknown or nothing is left. Retain
            accuracy is then unknown, which is not 0.
        unlabelled: images from elsewhere that the model is to go on answering on as it does; their labels mean
            nothing. Methods with probes train on them, and on nothing else here.
        spec: the request as the user wrote it.
        indices: rows of the training split, in the order of ``forget``, where it came from there.

    Raises:
        DataError: the forget set is empty, or the sets differ in class names or size.
    """

    forget: ImageSet
    test: ImageSet | None = None
    retain: ImageSet | None = None
    spec: str = ""
    indices: tuple[int, ...] | None = None
    unlabelled: ImageSet | None = None

    def __post_init__(self) -> None:
        if len(self.forget) == 0:
            raise DataError("forget set", expected="at least one image", got="none")
        for title, other in (
            ("test", self.test),
            ("retain", self.retain),
            ("unlabelled", self.unlabelled),
        ):
            if other is None:
                continue
            if other.class_names != self.forget.class_names:
                raise DataError(
                    f"class names of the {title} set", expected="those of the forget set, in order"
                )
            if other.size != self.forget.size:
                raise DataError(
                    f"image size of the {title} set", expected=str(self.forget.size), got=str(other.size)
                )

    def data_fingerprint(self) -> str:
        """SHA-256 of the data behind the request: training images whatever their order, and the test split.

        It is the same for every request on the same data. Decodes every image the first time. Where the
        forget set did not come from a training split (``images:DIR``), only the test split counts.
        """
        trained = self.indices is not None or self.retain is not None
        train = self.forget.hashes() if trained else []
        train += self.retain.hashes() if self.retain is not None else []
        return digest("train", *sorted(train), "test", *(self.test.hashes() if self.test is not None else []))

    def describe(self, *, data: bool = False) -> dict[str, Any]:
        """Give what a record keeps: the request, the sizes, the hash of the forget set.

        Args:
            data: also ``data_fingerprint``, which decodes everything once.
        """
        return {
            "spec": self.spec,
            "forget_size": len(self.forget),
            "retain_size": None if self.retain is None else len(self.retain),
            "test_size": None if self.test is None else len(self.test),
            "indices": None if self.indices is None else list(self.indices),
            "forget_fingerprint": self.forget.fingerprint(),
        } | ({"data_fingerprint": self.data_fingerprint()} if data else {})


def split_forget(
    spec: str,
    source: Source | None,
    *,
    class_names: Iterable[str],
    size: Size,
    seed: int = 0,
    unlabelled: str | None = None,
) -> ForgetSplit:
    """Split the training data as the request says.

    - ``random:K``: the first K rows of a permutation of the training rows that depends on ``seed`` only. So
      for one seed the set for a smaller K is part of the set for a larger one.
    - ``indices:LIST``: a text file with row numbers of the training split, from 0, one a line; blank lines and what
      follows a ``#`` are ignored.
    - ``files:LIST``: a text file with names of training images, one a line: ``CLASS/NAME`` as below the training
      split's folder, with ``train/`` and anything else before it or without, or NAME alone where only one image has
      it. Parquet files have such names where the cells of the image column hold a ``path``.
    - ``class:NAME``: every training image of that class.
    - ``images:DIR``: the images in ``DIR/CLASS/``, each CLASS a name of the model's. No training data is
      needed; the retain set is unknown (``None``), even where ``source`` has a training split, since the two
      may overlap.

    Where the request names the whole training split, nothing is retained, and ``retain`` is ``None``.

    Args:
        spec: the request.
        source: the data; may be ``None`` for ``images:DIR``.
        class_names: the model's, in the order of its outputs. The labels are renumbered to it by name.
        size: (C, H, W) that the model takes.
        seed: for ``random:K``.
        unlabelled: images without labels, as `stakes.data.unlabelled.open_unlabelled` takes them.

    Raises:
        DataError: a malformed request, a row out of range or named twice (with the line), an unknown class
            (with near names), an empty forget set, or data whose classes are not the model's.

    Example:
        >>> from stakes.data import open_source
        >>> digits = open_source("digits")
        >>> split_forget("random:2", digits, class_names=digits.class_names, size=(1, 8, 8)).forget
        ImageSet(2 images of 10 classes, 1 × 8 × 8)
    """
    names = checked_names(class_names)
    kind, colon, value = spec.partition(":")
    value = value.strip()
    if not colon or kind not in (*_ROWS, "images") or not value:
        raise DataError("forget request", expected=_ACCEPTED, got=repr(spec))
    if source is not None:
        check_same_names(source.class_names, names, owner=source.name)
    test = None
    if source is not None and source.test is not None:
        test = source.test.for_classes(names).with_size(size)
    more = None
    if unlabelled is not None:
        more, test = open_unlabelled(unlabelled, test, class_names=names, size=size)
    if kind == "images":
        forget = _images_in(Path(value).expanduser(), names, size)
        return ForgetSplit(forget, test, spec=spec, unlabelled=more)
    train = _train_of(source, spec).for_classes(names).with_size(size)
    rows = _ROWS[kind](value, train, seed)
    kept = torch.ones(len(train), dtype=torch.bool)
    kept[rows] = False
    retain = train.subset(kept) if bool(kept.any()) else None
    return ForgetSplit(train.subset(rows), test, retain, spec, tuple(rows), more)


def _train_of(source: Source | None, spec: str) -> ImageSet:
    if source is None or source.train is None:
        raise DataError(
            f"forget request {spec!r} names rows of a training split",
            got="no training data" if source is None else f"no training split in {source.name}",
            fix="Give the training data (--data SRC), or the images themselves (images:DIR).",
        )
    return source.train


def _random_rows(value: str, train: ImageSet, seed: int) -> list[int]:
    if not re.fullmatch(r"[0-9]{1,18}", value) or int(value) == 0:
        raise DataError("forget request random:K", expected="K a positive whole number", got=repr(value))
    if int(value) > len(train):
        raise DataError(
            "forget request random:K",
            expected=f"at most the {len(train)} training images",
            got=str(int(value)),
        )
    order: list[int] = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    return order[: int(value)]


def _class_rows(value: str, train: ImageSet, seed: int) -> list[int]:
    value = spellings([value], train.class_names)[value]
    if value not in train.class_names:
        raise DataError(f"no class {value!r}", fix=suggestion(value, train.class_names))
    rows: list[int] = (train.labels == train.class_names.index(value)).nonzero().reshape(-1).tolist()
    if not rows:
        raise DataError(f"no training image of class {value!r}", expected="at least one image to forget")
    return rows


def _listed_rows(value: str, train: ImageSet, seed: int) -> list[int]:
    def row_of(line: str, here: str) -> int | None:
        text = line.partition("#")[0].strip()
        if text and (not re.fullmatch(r"[0-9]{1,18}", text) or int(text) >= len(train)):
            raise DataError(here, expected=f"a row number from 0 to {len(train) - 1}", got=repr(text))
        return int(text) if text else None

    return _from_list(value, "row number", row_of)


def _named_rows(value: str, train: ImageSet, seed: int) -> list[int]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(train.files()):
        # By its whole name, with the split before it, and by its last part.
        for one in {name, f"{TRAIN_NAMES[0]}/{name}", name.rpartition("/")[2]} if name else ():
            rows.setdefault(_plain(one), []).append(row)
    if not rows:
        raise DataError(
            f"forget request files:{value}",
            expected="data that name their files: train/CLASS/*.png, or Parquet with paths in the image column",
            got="none",
            fix="Name rows (indices:LIST), or hand over the images (images:DIR).",
        )

    split = f"/{TRAIN_NAMES[0]}/"

    def row_of(line: str, here: str) -> int | None:
        text = line.strip()
        if not text or text.startswith("#"):  # inside a name it is a sign like others
            return None
        wanted = _plain(text)
        tail = wanted[wanted.rindex(split) + 1 :] if split in wanted else wanted
        found = rows.get(tail, [])
        if len(found) != 1:
            several = f"{len(found)} images of that name" if found else repr(text)
            raise DataError(here, expected="the name of one training image, such as CLASS/NAME", got=several)
        return found[0]

    return _from_list(value, "file name", row_of)


def _plain(name: str) -> str:
    """A file's name with one spelling of signs and separators."""
    return one_form(name.replace("\\", "/")).removeprefix("./")


def _from_list(value: str, what: str, row_of: Callable[[str, str], int | None]) -> list[int]:
    """Rows that a text file names, one a line.

    Args:
        row_of: gives the row of a line, None of one that names none; told what to call the line in a message.

    Raises:
        DataError: the file cannot be read, names none, or a line is wrong or names a row again.
    """
    path = Path(value).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"list {path} cannot be read",
            expected=f"a text file with one {what} a line",
            got=getattr(error, "strerror", None) or str(error),
        ) from error
    line_of: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        here = f"{path}, line {number}"
        if (row := row_of(line, here)) is None:
            continue
        if row in line_of:
            again = f"row {row} again (first on line {line_of[row]})"
            raise DataError(here, expected="every image once", got=again)
        line_of[row] = number
    if not line_of:
        raise DataError(f"list {path}", expected=f"at least one {what}", got="none")
    return list(line_of)


_ROWS: dict[str, Callable[[str, ImageSet, int], list[int]]] = {
    "random": _random_rows,
    "indices": _listed_rows,
    "files": _named_rows,
    "class": _class_rows,
}


def _images_in(folder: Path, names: tuple[str, ...], size: Size) -> ImageSet:
    if not folder.is_dir():
        raise DataError(
            f"forget images {str(folder)!r}", expected="a folder with CLASS/*.png", got="no such folder"
        )
    found = spelt_for(read_class_folders(folder, root=folder, title="forget"), names)
    for name in found.class_names or ():
        if name not in names:
            raise DataError(
                f"folder {folder / name} is not named after a class of the model", fix=suggestion(name, names)
            )
    return image_set(found, names, size)
