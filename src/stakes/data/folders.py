"""Images in one folder per class."""

from __future__ import annotations

import os
from pathlib import Path

from stakes.data.splits import RawSplit
from stakes.errors import DataError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
)


def inside(root: Path, path: Path) -> Path:
    """Give ``path`` if, with all links followed, it lies in ``root``.

    Raises:
        DataError: it lies elsewhere; a request to forget must not make us read other files.
    """
    if path.resolve().is_relative_to(root.resolve()):
        return path
    raise DataError(
        f"{path} leads out of {root}",
        expected="files inside the folder",
        got=str(path.resolve()),
        fix="Copy the images into the folder.",
    )


def read_class_folders(folder: Path, *, root: Path, title: str) -> RawSplit:
    """List the images of ``folder/CLASS/``, also in subfolders of a class, in sorted order.

    The class names are the names of the folders, sorted. Hidden files and files without an image suffix are
    ignored.

    Args:
        folder: holds one folder per class.
        root: the folder that no link may leave.
        title: how messages name the split.

    Raises:
        DataError: no class folder, no image, an image outside a class folder, a link to a folder or out of
            ``root``.
    """
    inside(root, folder)
    names, stray = [], []
    for entry in _entries(folder):
        if entry.is_dir():
            names.append(entry.name)
        elif _is_image(entry.name):
            stray.append(entry.name)
    if stray:
        raise DataError(
            f"{folder / stray[0]} is in no class folder",
            expected=f"{folder}/CLASS/{stray[0]}",
            fix="Move it.",
        )
    files: list[Path] = []
    labels: list[int | str | None] = []
    for name in names:
        found = images_under(folder / name, root)
        files += found
        labels += [name] * len(found)
    if not files:
        raise DataError(
            f"no images in {folder}",
            expected="CLASS/*.png, *.jpg or another image file",
            got=f"{len(names)} class folders without images" if names else "no class folders",
        )

    def where(row: int) -> str:
        return f"{title} row {row} ({files[row].relative_to(folder)})"

    return RawSplit(
        title,
        lambda row: files[row].read_bytes(),
        where,
        labels,
        tuple(names),
        lambda: [file.relative_to(folder).as_posix() for file in files],
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read", got=error.strerror or str(error)) from error
    return sorted(entries, key=lambda entry: entry.name)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def images_under(folder: Path, root: Path) -> list[Path]:
    """Image files in a folder and its subfolders, in sorted order.

    Raises:
        DataError: a link to a folder, or out of ``root``.
    """
    if folder.is_symlink():
        raise DataError(
            f"{folder} is a link to a folder",
            expected="a real folder",
            fix="Copy the images into the folder.",
        )
    found: list[Path] = []
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.is_dir():
            found += images_under(path, root)
        elif _is_image(entry.name):
            found.append(inside(root, path) if entry.is_symlink() else path)
    return found
