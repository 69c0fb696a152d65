"""Lacuna-10 and Lacuna-100 from a user's own copy of VGGFace2: few people with many photographs each."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from stakes.config import Settings
from stakes.data.decode import decode
from stakes.data.folders import images_under
from stakes.data.resize import resized
from stakes.errors import DataError
from stakes.files import digest, tensor_bytes, write_bytes, write_json
from stakes.progress import Progress, silent
from stakes.runtime import generator

FIRST = 10
"""Lacuna-10 takes the first ten accepted people of a seed, Lacuna-100 the hundred after them."""


class LacunaSettings(Settings):
    """What makes the two sets; the defaults are the published ones (Golatkar et al. 2020)."""

    identities: Literal[10, 100] = 10
    seed: int = Field(0, ge=0)
    least: int = Field(500, ge=2, description="different images that a person must have")
    test_images: int = Field(
        100, ge=1, description="of each person, for the test split; the others are for training"
    )
    side: int = Field(32, ge=1, description="height and width of the written images, pixels")


@dataclass
class _Person:
    """The different small images of one person, (n, 3, side, side) uint8."""

    name: str
    images: Tensor


@dataclass
class _Split:
    """Rows of one of the two files."""

    images: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


def build_lacuna(
    source: Path, out: Path, settings: LacunaSettings | None = None, *, progress: Progress = silent
) -> dict[str, Any]:
    """Write ``train.parquet``, ``test.parquet`` and ``lacuna.json`` into ``out``.

    People (folders of images, in ``source`` or in its ``train`` and ``test`` folders) are walked in a seeded order. An
    image whose pixels at the written size were seen before, of whomever, is left out; who has ``least`` different
    images is accepted. The first ten accepted are Lacuna-10, the next hundred Lacuna-100: for one seed and folder the
    two share neither a person nor an image. Of each person ``test_images`` drawn by seed are for the test.

    Images are scaled to ``side`` × ``side`` (bilinear, antialiased, aspect ratio not kept) and written as PNG.

    Args:
        source: a folder with one folder a person.
        out: a folder; files of these names in it are replaced.
        progress: told how many people are accepted.

    Returns:
        What stands in ``lacuna.json``: settings, people and counts.

    Raises:
        DataError: too few people with enough images, a damaged image, or none left for training.
        OutputError: nothing can be written there.

    Source:
        Golatkar, Achille and Soatto, CVPR 2020. Its very people are not published: this is the same construction, not
        the same set. VGGFace2's licence does not allow passing the result on.
    """
    settings = settings or LacunaSettings()
    if settings.test_images >= settings.least:
        raise DataError(
            "images for the test",
            expected=f"fewer than {settings.least} of each person",
            got=str(settings.test_images),
        )
    skip = 0 if settings.identities == FIRST else FIRST
    train, test = _Split(), _Split()
    names: list[str] = []
    accepted = 0
    for person in _accepted(source, settings):
        accepted += 1
        progress("people", accepted, skip + settings.identities)
        if accepted > skip:
            _divide(person, len(names), settings, train, test)
            names.append(person.name)
        if len(names) == settings.identities:
            break
    if len(names) < settings.identities:
        raise DataError(
            f"people in {source}",
            expected=f"{skip + settings.identities} with at least {settings.least} different images each",
            got=str(accepted),
            fix="Lacuna-100 needs the ten of Lacuna-10 beside its own hundred." if skip else "",
        )
    for title, split in (("train", train), ("test", test)):
        write_bytes(out / f"{title}.parquet", _parquet(split, names))
    told = {
        "settings": settings.model_dump(mode="json"),
        "people": names,
        "train_images": len(train.labels),
        "test_images": len(test.labels),
    }
    write_json(out / "lacuna.json", told)
    return told


def _accepted(source: Path, settings: LacunaSettings) -> Iterator[_Person]:
    """People with enough different images, in seeded order; none of their images was seen before."""
    folders = _people(source)
    order = torch.randperm(len(folders), generator=generator("lacuna people", settings.seed)).tolist()
    seen: set[str] = set()
    for at in order:
        files = images_under(folders[at], source)
        if len(files) < settings.least:
            continue
        mine: dict[str, Tensor] = {}
        for path in files:
            small = _small(path, settings.side)
            name = digest(tensor_bytes(small))
            if name not in seen:
                mine[name] = small
        if len(mine) >= settings.least:
            # Only who is accepted takes images away from those who come later.
            seen |= mine.keys()
            yield _Person(folders[at].name, torch.stack(list(mine.values())))


def _people(source: Path) -> list[Path]:
    """Folders of people, sorted by name; VGGFace2's own two splits hold different people."""
    roots = [source / name for name in ("train", "test") if (source / name).is_dir()] or [source]
    try:
        found = [path for root in roots for path in root.iterdir() if path.is_dir() and path.name[0] != "."]
    except OSError as error:
        raise DataError(f"folder {source} cannot be read", got=error.strerror or str(error)) from None
    names = [path.name for path in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice or not found:
        raise DataError(
            f"people in {source}",
            expected="one folder a person, in the folder itself or in its train and test folders",
            got=f"two folders of {min(twice)}" if twice else "no folders",
        )
    return sorted(found, key=lambda path: path.name)


def _small(path: Path, side: int) -> Tensor:
    """Pixels at the written size, uint8."""
    pixels = torch.from_numpy(decode(path.read_bytes(), str(path))).permute(2, 0, 1)[None]
    return (resized(pixels, (3, side, side))[0] * 255).round().to(torch.uint8)


def _divide(person: _Person, label: int, settings: LacunaSettings, train: _Split, test: _Split) -> None:
    order = torch.randperm(
        len(person.images), generator=generator("lacuna split", settings.seed, person.name)
    )
    for place, at in enumerate(order.tolist()):
        split = test if place < settings.test_images else train
        split.images.append(_png(person.images[at]))
        split.labels.append(label)


def _png(pixels: Tensor) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _parquet(split: _Split, names: list[str]) -> bytes:
    """A table of images and class labels, as ``datasets`` reads them."""
    import datasets
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    images = [{"bytes": data, "path": None} for data in split.images]
    table = pa.Table.from_pydict({"image": images, "label": split.labels}, schema=features.arrow_schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
