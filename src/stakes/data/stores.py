"""Where an image set keeps its pixels: encoded files with a cache, or one tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stakes.data.decode import decode
from stakes.errors import DataError
from stakes.files import digest, tensor_bytes

CACHE_BYTES = 2 * 1024**3
"""Decoded pixels that one split keeps in memory (2 GiB); the rest is decoded again for each batch."""

# Below this many bytes a file the interpreter, not the decoder, is the cost, and threads only get in each
# other's way (CIFAR-10: loop 1.0 s, two threads 1.6 s for 10,000 images; at 60 kB: 0.45 s against 0.28 s).
_THREADS_FROM = 16 * 1024
_HASHED_TOGETHER = 64

Group = tuple[list[int], Tensor]
Files = Callable[[], Sequence[str]] | None


class PixelStore(Protocol):
    """Pixels by row, before any resizing.

    Attributes:
        files: gives the name of each row's file; None where they came from no files.
    """

    files: Files

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def groups(self, rows: Sequence[int]) -> list[Group]:
        """Pixels of ``rows``: for each image shape the positions in ``rows`` and (m, C, h, w) pixels."""
        ...

    def pixel_hashes(self, rows: Sequence[int]) -> list[str]:
        """For each of ``rows`` the SHA-256 of type, shape (h, w, 3) and pixels."""
        ...


def _hash(pixels: Tensor) -> str:
    return digest(tensor_bytes(pixels))


class EncodedStore:
    """Images that are decoded when first asked for and then kept, as uint8, while the budget lasts.

    Nothing is evicted: batches visit the rows in random order, where the oldest is as likely next as any
    other.

    Args:
        read: gives the bytes of a row; an ``OSError`` from it is reported with the row.
        where: how messages name a row.
        count: number of rows.
        cache_bytes: memory for decoded pixels, in bytes; ``None`` for ``CACHE_BYTES``.
        files: gives the name of each row's file, where there are some.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        where: Callable[[int], str],
        count: int,
        *,
        cache_bytes: int | None = None,
        files: Files = None,
    ) -> None:
        self.files = files
        self._read = read
        self._where = where
        self._cache: list[NDArray[np.uint8] | None] = [None] * count
        self._hashes: list[str | None] = [None] * count
        self._left = CACHE_BYTES if cache_bytes is None else cache_bytes

    def __len__(self) -> int:
        return len(self._cache)

    def groups(self, rows: Sequence[int]) -> list[Group]:
        """See ``PixelStore.groups``."""
        by_shape: dict[tuple[int, ...], tuple[list[int], list[NDArray[np.uint8]]]] = {}
        for position, pixels in enumerate(self._decoded(rows)):
            positions, images = by_shape.setdefault(pixels.shape, ([], []))
            positions.append(position)
            images.append(pixels)
        return [
            (positions, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
            for positions, images in by_shape.values()
        ]

    def pixel_hashes(self, rows: Sequence[int]) -> list[str]:
        """See ``PixelStore.pixel_hashes``."""
        missing = [row for row in rows if self._hashes[row] is None]
        for start in range(0, len(missing), _HASHED_TOGETHER):
            some = missing[start : start + _HASHED_TOGETHER]
            for row, pixels in zip(some, self._decoded(some), strict=True):
                self._hashes[row] = _hash(torch.from_numpy(pixels))
        return [found for row in rows if (found := self._hashes[row]) is not None]

    def _decoded(self, rows: Sequence[int]) -> list[NDArray[np.uint8]]:
        known = {row: pixels for row in rows if (pixels := self._cache[row]) is not None}
        missing = [row for row in dict.fromkeys(rows) if row not in known]
        if missing:
            for row, pixels in zip(missing, self._decode(missing), strict=True):
                known[row] = pixels
                self._keep(row, pixels)
        return [known[row] for row in rows]

    def _keep(self, row: int, pixels: NDArray[np.uint8]) -> None:
        # Without a lock two threads may both keep a row: the budget is then spent early, never the pixels
        # wrong.
        if self._cache[row] is None and pixels.nbytes <= self._left:
            self._left -= pixels.nbytes
            self._cache[row] = pixels

    def _decode(self, rows: Sequence[int]) -> list[NDArray[np.uint8]]:
        first = self._bytes(rows[0])
        if len(rows) < 4 or len(first) < _THREADS_FROM:
            return [self._decode_row(row) for row in rows]
        with ThreadPoolExecutor(max_workers=min(8, torch.get_num_threads())) as pool:
            return list(pool.map(self._decode_row, rows))

    def _decode_row(self, row: int) -> NDArray[np.uint8]:
        return decode(self._bytes(row), self._where(row))

    def _bytes(self, row: int) -> bytes:
        try:
            return self._read(row)
        except OSError as error:
            raise DataError(
                f"image of {self._where(row)} cannot be read",
                got=error.strerror or str(error),
                fix="Check that the file exists and may be read.",
            ) from error


class TensorStore:
    """Images that are already in memory: (N, C, H, W), uint8 or float32 in [0, 1], C of 1 or 3."""

    files: Files = None

    def __init__(self, images: Tensor) -> None:
        self._images = images
        self._hashes: list[str | None] = [None] * len(images)

    def __len__(self) -> int:
        return len(self._images)

    def groups(self, rows: Sequence[int]) -> list[Group]:
        """See ``PixelStore.groups``."""
        return [(list(range(len(rows))), self._images[list(rows)])] if rows else []

    def pixel_hashes(self, rows: Sequence[int]) -> list[str]:
        """See ``PixelStore.pixel_hashes``."""
        for row in rows:
            if self._hashes[row] is None:
                self._hashes[row] = _hash(self._images[row].expand(3, -1, -1).permute(1, 2, 0))
        return [found for row in rows if (found := self._hashes[row]) is not None]
