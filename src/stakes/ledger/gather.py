"""Finding the images of requests again, by their content hashes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from stakes.data.forget import split_forget
from stakes.data.images import ImageSet
from stakes.data.sources import Source, open_source
from stakes.data.stores import Files, Group, PixelStore
from stakes.errors import DataError
from stakes.evaluator import sampled
from stakes.files import read_tensors, write_tensors
from stakes.ledger.folder import Ledger
from stakes.ledger.view import Request, View

Place = tuple[ImageSet, int]
_SHOWN = 5


class JoinedStore:
    """Rows of several stores, one after another."""

    files: Files = None

    def __init__(self, rows: Sequence[tuple[PixelStore, int]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def groups(self, rows: Sequence[int]) -> list[Group]:
        """See `PixelStore.groups`."""
        parts: dict[int, tuple[PixelStore, list[int], list[int]]] = {}
        for position, row in enumerate(rows):
            store, inner = self._rows[row]
            _, positions, inners = parts.setdefault(id(store), (store, [], []))
            positions.append(position)
            inners.append(inner)
        return [
            ([positions[at] for at in found], pixels)
            for store, positions, inners in parts.values()
            for found, pixels in store.groups(inners)
        ]

    def pixel_hashes(self, rows: Sequence[int]) -> list[str]:
        """See `PixelStore.pixel_hashes`."""
        return [store.pixel_hashes([inner])[0] for store, inner in (self._rows[row] for row in rows)]


def keep(images: ImageSet, hashes: Sequence[str], folder: Path) -> None:
    """Keep images as they were before any resizing, one file each named by its hash, for their owner's eyes alone."""
    for position, name in enumerate(hashes):
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            store, row = _stored(images, position)
            [(_, pixels)] = store.groups([row])
            write_tensors(path, {"pixels": pixels})
            path.chmod(0o600)


@dataclass
class Gatherer:
    """Finds images where they may be: in the data, in a folder, in the ledger, where the request took them from.

    Args:
        source: the data; None where there are none.
        folder: ``CLASS/*.png`` and so on.
        kept: the ledger's own folder of images.
    """

    view: View
    source: Source | None
    folder: Path | None
    kept: Path

    @property
    def names(self) -> tuple[str, ...]:
        """The model's classes in order."""
        return self.view.created.body.class_names

    @cached_property
    def train(self) -> ImageSet | None:
        """The training split, as the model takes it."""
        if self.source is None or self.source.train is None:
            return None
        return self.source.train.for_classes(self.names).with_size(self.view.created.body.input_size)

    @cached_property
    def test(self) -> ImageSet | None:
        """The test split, as the model takes it."""
        if self.source is None or self.source.test is None:
            return None
        return self.source.test.for_classes(self.names).with_size(self.view.created.body.input_size)

    @cached_property
    def train_rows(self) -> dict[str, list[int]]:
        """Rows of the training split by content hash; decodes all of it once."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(self.train.hashes() if self.train is not None else []):
            rows.setdefault(name, []).append(row)
        return rows

    def find(self, requests: Iterable[Request]) -> dict[str, Place]:
        """Where each image of the requests is.

        Raises:
            DataError: some are nowhere; the message names them and their requests.
        """
        wanted = list(requests)
        names = {name for request in wanted for name in request.images}
        found: dict[str, Place] = {}
        self._look_in_train(wanted, found)
        for look in (self._look_in_folder, self._look_among_kept):
            if names - found.keys():
                look(names, found)
        for request in wanted:
            if set(request.images) - found.keys():
                self._look_where_it_was(request, found)
        if names - found.keys() and self.train is not None:
            found |= {n: (self.train, self.train_rows[n][0]) for n in names & self.train_rows.keys()}
        self._refuse_missing(wanted, found)
        return found

    def join(self, names: Sequence[str], found: dict[str, Place]) -> ImageSet:
        """The images of some hashes, in that order, as one set."""
        places = [found[name] for name in names]
        labels = torch.stack([images.labels[position] for images, position in places])
        rows = [_stored(images, position) for images, position in places]
        return ImageSet(JoinedStore(rows), labels, self.names, self.view.created.body.input_size)

    def retained(
        self, requests: Iterable[Request], most: int | None = None, seed: int = 0
    ) -> ImageSet | None:
        """The training split without any image of the requests, duplicates included; None where it is unknown.

        Args:
            most: look at so many images only, drawn by seed, and decode no others; a few less come back where there
                are duplicates among them.
        """
        if self.train is None:
            return None
        known = list(requests)
        names = {name for request in known for name in request.images}
        left = torch.ones(len(self.train), dtype=torch.bool)
        if most is None:
            for name in names:
                left[self.train_rows.get(name, [])] = False
            return self.train.subset(left) if bool(left.any()) else None
        found: dict[str, Place] = {}
        self._look_in_train(known, found)
        left[[row for _, row in found.values()]] = False
        drawn = sampled(self.train.subset(left), most, seed)
        others = torch.tensor([name not in names for name in drawn.hashes()], dtype=torch.bool)
        return drawn.subset(others) if bool(others.any()) else None

    def _look_in_train(self, requests: Sequence[Request], found: dict[str, Place]) -> None:
        """The rows that the requests name are the first guess; the hash decides."""
        if self.train is None:
            return
        hints = {
            row: name
            for request in requests
            for row, name in zip(request.asked.body.rows or (), request.images, strict=False)
            if row < len(self.train)
        }
        rows = sorted(hints)
        for row, name in zip(rows, self.train.subset(rows).hashes(), strict=True):
            if name == hints[row]:
                found[name] = (self.train, row)

    def _look_in_folder(self, names: set[str], found: dict[str, Place]) -> None:
        if self.folder is not None:
            self._look_among(self._images_in(f"images:{self.folder}"), names, found)

    def _look_where_it_was(self, request: Request, found: dict[str, Place]) -> None:
        kind, _, place = request.asked.body.spec.partition(":")
        if kind == "images" and Path(place).expanduser().is_dir():
            self._look_among(self._images_in(request.asked.body.spec), set(request.images), found)

    def _look_among(self, images: ImageSet, names: set[str], found: dict[str, Place]) -> None:
        for position, name in enumerate(images.hashes()):
            if name in names:
                found.setdefault(name, (images, position))

    def _look_among_kept(self, names: set[str], found: dict[str, Place]) -> None:
        for name in names - found.keys():
            tensors = read_tensors(self.kept / f"{name}.safetensors")
            if tensors is None or "pixels" not in tensors:
                continue
            # The class is the one whose name completes the hash: it need not be written down.
            for label in range(len(self.names)):
                images = ImageSet.from_tensors(tensors["pixels"], [label], self.names)
                if images.hashes() == [name]:
                    found[name] = (images.with_size(self.view.created.body.input_size), 0)
                    break

    def _images_in(self, spec: str) -> ImageSet:
        size = self.view.created.body.input_size
        return split_forget(spec, None, class_names=self.names, size=size).forget

    def _refuse_missing(self, requests: Sequence[Request], found: dict[str, Place]) -> None:
        missing = [
            f"{name[:12]}… of request {request.number}{_hint(request, name)}"
            for request in requests
            for name in request.images
            if name not in found
        ]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise DataError(
                f"{len(missing)} images of requests cannot be found",
                expected="every one, since only then can it be measured",
                got="none of the hash " + ", ".join(missing[:_SHOWN]) + more,
                fix="Say where they are now: --data SRC, or --images DIR with CLASS subfolders.",
            )


def gather(ledger: Ledger, view: View, data: str | Path | Source | None, images: Path | None) -> Gatherer:
    """A `Gatherer` on the data that the caller or else the ledger names."""
    named = data if data is not None else view.created.body.data
    source = (
        named
        if named is None or isinstance(named, Source)
        else open_source(named, size=view.created.body.input_size, class_names=view.created.body.class_names)
    )
    return Gatherer(view, source, images, ledger.images)


def _stored(images: ImageSet, position: int) -> tuple[PixelStore, int]:
    return images._store, int(images._rows[position])


def _hint(request: Request, name: str) -> str:
    rows = request.asked.body.rows
    return f" (once row {rows[request.images.index(name)]} of the training split)" if rows else ""
