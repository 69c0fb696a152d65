"""Images without labels on which a model is to go on answering as it does: a folder, or part of the test split."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from stakes.data.folders import images_under
from stakes.data.images import ImageSet, Size
from stakes.data.names import checked_names
from stakes.data.stores import EncodedStore
from stakes.errors import DataError
from stakes.runtime import positions

NEAR = 0.045
"""Root mean square difference of two images' pixels in [0, 1] up to which one is taken for a copy of the other. JPEG of
quality 75 changes photographs of 32 × 32 pixels by .025, of quality 50 by .035 (medians). The nearest of 2,000 test
images of CIFAR-10 to any of 768 training images was .063 away, the nearest of 500 faces to any of 192 was .050."""

MOST_APART = 1000
"""Images to measure agreement on: its standard error is 0.3 points then, where it is 99 %."""

_TOGETHER = 256
_HELD_BACK = "test:"


def held_back(spec: str) -> bool:
    """Whether the images are to come from the test split.

    Example:
        >>> held_back("test:500"), held_back("traffic/")
        (True, False)
    """
    return spec.startswith(_HELD_BACK)


def number_of(spec: str) -> int | None:
    """How many images of the test split are asked for; None where they come from a folder, or the number is none.

    Example:
        >>> number_of("test:500"), number_of("traffic/")
        (500, None)
    """
    number = spec.removeprefix(_HELD_BACK)
    return int(number) if held_back(spec) and re.fullmatch(r"[0-9]{1,18}", number) else None


def open_unlabelled(
    spec: str, test: ImageSet | None, *, class_names: Iterable[str], size: Size
) -> tuple[ImageSet, ImageSet | None]:
    """The unlabelled images that a request names, and the test set that is left to measure on.

    - ``DIR``: every image in a folder and its subfolders, whose names mean nothing.
    - ``test:N``: N images of the test split, the same ones for every seed. They are not measured on any more: this is
      for experiments, where no other images of the same kind are at hand.

    Labels of the result are all 0 and mean nothing. Images are decoded when first used.

    Raises:
        DataError: no such folder, no image in it, no test split, or a number that leaves nothing of it.

    Example:
        >>> test = ImageSet.from_tensors(torch.rand(5, 3, 4, 4), [0] * 5, ["cat", "dog"])
        >>> taken, left = open_unlabelled("test:2", test, class_names=["cat", "dog"], size=(3, 4, 4))
        >>> len(taken), len(left)
        (2, 3)
    """
    names = checked_names(class_names)
    if held_back(spec):
        return _from_test(spec, test, size)
    return _from_folder(Path(spec).expanduser(), names, size), test


def without_twins(images: ImageSet, forget: ImageSet) -> ImageSet:
    """Those that are no copies of an image to forget: the old answer on it is what is to go.

    A copy has the very pixels of the image, or, at the size that the model takes, differs from it or from its mirror
    image by at most `NEAR`, as most do after saving them anew (JPEG, quality 50 and better) or scaling them there and
    back. One that was cut, moved, or lit anew is not noticed.

    Raises:
        DataError: an image that cannot be decoded.

    Example:
        >>> pixels = torch.rand(3, 3, 4, 4)
        >>> both = ImageSet.from_tensors(pixels, [0, 0, 0], ["cat", "dog"])
        >>> len(without_twins(both, ImageSet.from_tensors(pixels[:1], [1], ["cat", "dog"])))
        2
    """
    wanted = set(forget.pixel_hashes())
    apart = torch.tensor([one not in wanted for one in images.pixel_hashes()], dtype=torch.bool)
    for some in _blocks(forget):
        gone = forget.batch(some)
        both = torch.cat([gone, gone.flip(-1)]).flatten(1)
        for rows in _blocks(images):
            pixels = images.batch(rows).flatten(1)
            nearest = torch.cdist(pixels, both).amin(dim=1) / pixels.shape[1] ** 0.5
            apart[rows] &= nearest > NEAR
    return images.subset(apart)


def usable(images: ImageSet, forget: ImageSet, *, most: int, seed: int) -> ImageSet:
    """At most so many of the images, drawn by seed, and of these no copy of an image to forget.

    Raises:
        DataError: none are left, or one cannot be decoded.
    """
    drawn = positions(len(images), most, "unlabelled images", seed)
    found = without_twins(images.subset(drawn), forget)
    if not len(found):
        raise DataError("unlabelled images", expected="others than those to forget", got="only these")
    return found


def kept_apart(images: ImageSet, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """The images to train on, and a fifth, at most `MOST_APART`, to measure on, drawn by seed; None of less than five.

    Example:
        >>> ten = ImageSet.from_tensors(torch.rand(10, 3, 4, 4), [0] * 10, ["cat", "dog"])
        >>> [len(part) for part in kept_apart(ten, seed=0)]
        [8, 2]
    """
    wanted = min(len(images) // 5, MOST_APART)
    if not wanted:
        return images, None
    apart = torch.zeros(len(images), dtype=torch.bool)
    apart[positions(len(images), wanted, "unlabelled images kept apart", seed)] = True
    return images.subset(~apart), images.subset(apart)


def _blocks(images: ImageSet) -> list[slice]:
    """A few hundred images at a time, so that memory stays bounded."""
    return [slice(start, min(start + _TOGETHER, len(images))) for start in range(0, len(images), _TOGETHER)]


def _from_test(spec: str, test: ImageSet | None, size: Size) -> tuple[ImageSet, ImageSet]:
    if test is None:
        raise DataError(f"unlabelled images {spec}", expected="data with a test split", got="no test split")
    number = number_of(spec)
    if number is None or not 0 < number < len(test):
        raise DataError(
            "unlabelled images test:N",
            expected=f"N from 1 to {len(test) - 1}, so that some test images are left to measure on",
            got=repr(spec.removeprefix(_HELD_BACK)),
        )
    taken = torch.zeros(len(test), dtype=torch.bool)
    taken[positions(len(test), number, "unlabelled images of the test split")] = True
    return test.subset(taken).with_labels([0] * number).with_size(size), test.subset(~taken)


def _from_folder(folder: Path, names: tuple[str, ...], size: Size) -> ImageSet:
    if not folder.is_dir():
        raise DataError(
            f"unlabelled images {str(folder)!r}",
            expected="a folder with image files, or test:N",
            got="no such folder",
        )
    files = images_under(folder, folder)
    if not files:
        raise DataError(f"unlabelled images {str(folder)!r}", expected="image files", got="none in it")
    store = EncodedStore(
        lambda row: files[row].read_bytes(), lambda row: f"unlabelled image {files[row]}", len(files)
    )
    return ImageSet(store, torch.zeros(len(files), dtype=torch.int64), names, size)
