"""A set of labelled images, read when needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from stakes.data.names import check_same_names, checked_names
from stakes.data.resize import resized
from stakes.data.stores import PixelStore, TensorStore
from stakes.errors import DataError
from stakes.files import digest

Indices = Tensor | Sequence[int] | slice
Size = tuple[int, int, int]


class ImageSet:
    """N labelled images; pixels are decoded when first asked for.

    Decoded pixels are kept as uint8 in memory while they fit ``stakes.data.stores.CACHE_BYTES``; images
    beyond that are decoded again for each batch. Views made by ``subset``, ``with_size`` and ``for_classes``
    share the cache. Reading from several threads of one process is safe.

    Attributes:
        labels: (N,) int64, positions in ``class_names``.
        class_names: the names of the classes.
        size: (C, H, W) of what ``batch`` gives.

    Example:
        >>> images = ImageSet.from_tensors(torch.zeros(2, 3, 8, 8), [0, 1], ["cat", "dog"])
        >>> images.batch([1]).shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(
        self,
        store: PixelStore,
        labels: Tensor | Sequence[int],
        class_names: Iterable[str],
        size: Size,
        *,
        rows: Tensor | None = None,
    ) -> None:
        self._store = store
        self._rows = torch.arange(len(store)) if rows is None else rows
        self.class_names = checked_names(class_names)
        self.labels = _checked_labels(labels, len(self._rows), len(self.class_names))
        self.size = checked_size(size)
        self._fingerprint: str | None = None

    @classmethod
    def from_tensors(
        cls, images: Tensor, labels: Tensor | Sequence[int], class_names: Iterable[str]
    ) -> ImageSet:
        """Make a set from pixels in memory.

        Args:
            images: (N, C, H, W), N ≥ 1, C of 1 or 3; uint8, or floating point in [0, 1] (kept as float32).
            labels: N integers from 0 to len(class_names) − 1.
            class_names: the names of the classes, in the order of the labels.

        Floating-point images whose values are all k/255 are kept as uint8, which loses nothing, and then hash
        like the same images read from lossless files.

        Raises:
            DataError: a wrong shape, type or label, or pixels that are not finite or not in [0, 1].
        """
        return cls(store := TensorStore(_checked_pixels(images)), labels, class_names, _tensor_size(store))

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.size))
        return f"ImageSet({len(self)} images of {len(self.class_names)} classes, {shape})"

    def batch(self, indices: Indices) -> Tensor:
        """Give pixels as float32 (n, C, H, W) in [0, 1], on the CPU, in the order asked for.

        An image whose own size differs is resized by ``stakes.data.resize.resized``; one that has the size is
        not resampled. Three channels become one by their luminance, one becomes three by replication.

        Args:
            indices: positions in this set, or a boolean mask over it, or a slice.

        Raises:
            DataError: a position out of range, or an image that cannot be decoded (named by its row).
        """
        rows = self._rows[self._positions(indices)].tolist()
        result = torch.empty(len(rows), *self.size)
        for positions, pixels in self._store.groups(rows):
            if len(positions) == len(rows):
                return resized(pixels, self.size)
            result[positions] = resized(pixels, self.size)
        return result

    def subset(self, indices: Indices) -> ImageSet:
        """Give a view on some of the images, in the order asked for; it may be empty."""
        positions = self._positions(indices)
        return self._view(self._rows[positions], self.labels[positions], self.class_names, self.size)

    def with_size(self, size: Size) -> ImageSet:
        """Give a view whose batches have another (C, H, W); always resampled from the original pixels."""
        return self._view(self._rows, self.labels, self.class_names, size)

    def with_labels(self, labels: Tensor | Sequence[int]) -> ImageSet:
        """Give a view with other labels, one an image."""
        return self._view(self._rows, _tensor(labels, "labels"), self.class_names, self.size)

    def for_classes(self, class_names: Iterable[str]) -> ImageSet:
        """Give a view whose labels count in the order of ``class_names``, which must be the same names.

        Raises:
            DataError: the names are not the same set.
        """
        wanted = checked_names(class_names)
        if wanted == self.class_names:
            return self
        check_same_names(self.class_names, wanted, owner="the images")
        position = torch.tensor([wanted.index(name) for name in self.class_names])
        return self._view(self._rows, position[self.labels], wanted, self.size)

    def files(self) -> list[str]:
        """Give the name of each image's file as the source has it; empty where the source names none."""
        if self._store.files is None:
            return [""] * len(self)
        found = self._store.files()
        return [found[row] for row in self._rows.tolist()]

    def hashes(self) -> list[str]:
        """Give one SHA-256 per image, of its decoded pixels and its class name.

        Each is ``digest(p, name)``, where p = ``digest(tensor_bytes(x))`` is the hash of the (h, w, 3) uint8
        RGB pixels x before any resizing (``stakes.files``). So neither the file format, nor the order of the
        classes, nor the size of the model changes it. Images given as floating point that is not k/255 hash
        as float32.
        """
        pixels = self.pixel_hashes()
        names = [self.class_names[label] for label in self.labels.tolist()]
        return [digest(one, name) for one, name in zip(pixels, names, strict=True)]

    def pixel_hashes(self) -> list[str]:
        """Give one SHA-256 per image, of its decoded pixels alone: p of ``hashes``, whatever the label."""
        return self._store.pixel_hashes(self._rows.tolist())

    def fingerprint(self) -> str:
        """SHA-256 of ``hashes`` in order; decodes every image the first time, then remembered."""
        if self._fingerprint is None:
            self._fingerprint = digest(*self.hashes())
        return self._fingerprint

    def _view(self, rows: Tensor, labels: Tensor, class_names: tuple[str, ...], size: Size) -> ImageSet:
        return ImageSet(self._store, labels, class_names, size, rows=rows)

    def _positions(self, indices: Indices) -> Tensor:
        if isinstance(indices, slice):
            return torch.tensor(range(*indices.indices(len(self))), dtype=torch.int64)
        chosen = _tensor(indices, "image positions").reshape(-1)
        if chosen.numel() == 0:
            return torch.empty(0, dtype=torch.int64)
        if chosen.dtype == torch.bool and len(chosen) == len(self):
            return chosen.nonzero().reshape(-1)
        if chosen.dtype == torch.bool or chosen.is_floating_point() or chosen.is_complex():
            raise DataError(
                "image positions",
                expected=f"integers, or a boolean mask of length {len(self)}",
                got=f"{chosen.dtype} of length {len(chosen)}",
            )
        chosen = chosen.long()
        if bool((chosen < 0).any()) or bool((chosen >= len(self)).any()):
            wrong = chosen[(chosen < 0) | (chosen >= len(self))][0].item()
            raise DataError("image position", expected=f"0 to {len(self) - 1}", got=str(wrong))
        return chosen


def checked_size(size: Sequence[int]) -> Size:
    """Check that ``size`` is (C, H, W) with C of 1 or 3.

    Raises:
        DataError: it is not.
    """
    if len(size) != 3 or any(not isinstance(n, int) or n < 1 for n in size) or size[0] not in (1, 3):
        raise DataError(
            "image size", expected="(channels, height, width) with 1 or 3 channels", got=str(size)
        )
    return (size[0], size[1], size[2])


def _tensor(values: Tensor | Sequence[int], what: str) -> Tensor:
    try:
        return torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(what, expected="integers", got=f"{type(values).__name__} ({error})") from error


def _tensor_size(store: TensorStore) -> Size:
    _, pixels = store.groups([0])[0]
    return (pixels.shape[1], pixels.shape[2], pixels.shape[3])


def _checked_labels(labels: Tensor | Sequence[int], count: int, classes: int) -> Tensor:
    found = _tensor(labels, "labels")
    if found.numel() == 0:
        found = found.long()
    if found.dtype == torch.bool or found.is_floating_point() or found.is_complex():
        raise DataError("labels", expected="integers", got=str(found.dtype))
    if found.shape != (count,):
        raise DataError("labels", expected=f"{count}, one per image", got=f"shape {tuple(found.shape)}")
    found = found.to(torch.int64, copy=True)
    wrong = ((found < 0) | (found >= classes)).nonzero().reshape(-1)
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"label of image {row}", expected=f"0 to {classes - 1}", got=str(int(found[row])))
    return found


def _checked_pixels(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3):
        got = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise DataError("images", expected="a tensor (N, C, H, W) with 1 or 3 channels", got=got)
    if images.numel() == 0:
        raise DataError(
            "images", expected="at least one image with pixels", got=f"shape {tuple(images.shape)}"
        )
    pixels = images.detach().cpu()
    if pixels.dtype == torch.uint8:
        return pixels.clone(memory_format=torch.contiguous_format)
    if not pixels.is_floating_point():
        raise DataError("images", expected="uint8, or floating point in [0, 1]", got=str(pixels.dtype))
    pixels = pixels.to(torch.float32, copy=True).contiguous()
    _check_range(pixels)
    steps = (pixels * 255).round()
    return steps.to(torch.uint8) if bool((steps / 255 == pixels).all()) else pixels


def _check_range(pixels: Tensor) -> None:
    finite = pixels.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise DataError("images", expected="finite pixels", got=f"NaN or infinity in image {row}")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        fix = (
            "These look like 0 to 255: divide by 255, or pass them as uint8."
            if low >= 0 and high > 16
            else "These look normalised: undo mean and deviation; the classifier normalises inside."
        )
        raise DataError("pixels", expected="values in [0, 1]", got=f"{low:g} to {high:g}", fix=fix)
