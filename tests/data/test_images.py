from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.pictures import encoded, noise, png
from stakes.data import ImageSet
from stakes.data.images import Size
from stakes.data.stores import EncodedStore
from stakes.errors import DataError

NAMES = ("cat", "dog", "ship")


def _pixels(count: int = 6, channels: int = 3, side: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def _set(count: int = 6, channels: int = 3) -> ImageSet:
    return ImageSet.from_tensors(_pixels(count, channels), [row % 3 for row in range(count)], NAMES)


def _from_files(files: list[bytes], size: Size = (3, 8, 8)) -> ImageSet:
    store = EncodedStore(lambda row: files[row], lambda row: f"train row {row}", len(files))
    return ImageSet(store, [0] * len(files), NAMES, size)


def test_batch_gives_the_pixels_in_the_order_asked_for() -> None:
    images, pixels = _set(), _pixels()
    assert images.size == (3, 4, 4)
    assert torch.equal(images.batch([4, 1, 4]), pixels[[4, 1, 4]].float() / 255)
    assert torch.equal(images.batch(slice(None, None, -2)), pixels[[5, 3, 1]].float() / 255)
    assert torch.equal(images.batch(torch.tensor([2])), images.batch(images.labels == 2)[:1])
    assert images.batch([]).shape == (0, 3, 4, 4)
    assert images.batch([0]).dtype == torch.float32


def test_batch_is_a_copy() -> None:
    images = ImageSet.from_tensors(torch.rand(2, 3, 4, 4), [0, 1], NAMES)
    before = images.batch([0]).clone()
    images.batch([0]).zero_()
    assert torch.equal(images.batch([0]), before)


def test_later_changes_of_the_given_tensors_change_nothing() -> None:
    pixels, labels = _pixels(), torch.zeros(6, dtype=torch.int64)
    images = ImageSet.from_tensors(pixels, labels, NAMES)
    print_before = images.fingerprint()
    pixels.zero_()
    labels.fill_(2)
    assert images.labels.tolist() == [0] * 6
    assert images.subset(slice(None)).fingerprint() == print_before


def test_uint8_and_the_same_floats_are_one_set() -> None:
    as_bytes, as_floats = _set(), ImageSet.from_tensors(_pixels().double() / 255, _set().labels, NAMES)
    assert torch.equal(as_bytes.batch(slice(None)), as_floats.batch(slice(None)))
    assert as_bytes.fingerprint() == as_floats.fingerprint()


def test_other_floats_are_kept_exactly() -> None:
    pixels = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    images = ImageSet.from_tensors(pixels, [0, 1, 2], NAMES)
    assert torch.equal(images.batch(slice(None)), pixels)
    assert images.fingerprint() != ImageSet.from_tensors(pixels.round(), [0, 1, 2], NAMES).fingerprint()


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (torch.rand(2, 3, 4), "N, C, H, W"),
        (torch.rand(2, 4, 4, 4), "1 or 3 channels"),
        (np.zeros((2, 3, 4, 4)), "ndarray"),
        (torch.rand(0, 3, 4, 4), "at least one image"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), "uint8, or floating point"),
        (torch.full((2, 3, 4, 4), float("nan")), "NaN or infinity in image 0"),
        (torch.full((2, 3, 4, 4), float("inf")), "NaN or infinity"),
        (torch.full((2, 3, 4, 4), 255.0), r"look like 0 to 255"),
        (torch.full((2, 3, 4, 4), -1.0), "look normalised"),
        (torch.full((2, 3, 4, 4), 1.01), "look normalised"),
    ],
)
def test_wrong_pixels_are_refused(images: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        ImageSet.from_tensors(images, [0, 1], NAMES)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([0, 3], "label of image 1: expected 0 to 2, got 3"),
        ([-1, 0], "label of image 0: expected 0 to 2, got -1"),
        ([0.0, 1.0], "expected integers"),
        (torch.tensor([True, False]), "expected integers"),
        ([0], "expected 2, one per image"),
        (torch.zeros(2, 3, dtype=torch.int64), "one per image"),
        ([], "one per image"),
        (["cat", "dog"], "labels: expected integers, got list"),
    ],
)
def test_wrong_labels_are_refused(labels: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        ImageSet.from_tensors(_pixels(2), labels, NAMES)


@pytest.mark.parametrize("names", [[], ["cat", "cat"], ["cat", " "], "cat", ["cat", 3]])
def test_wrong_class_names_are_refused(names: Any) -> None:
    with pytest.raises(DataError, match="class name"):
        ImageSet.from_tensors(_pixels(1), [0], names)


@pytest.mark.parametrize("indices", [[6], [-1], torch.tensor([0, 99])])
def test_positions_out_of_range_are_refused(indices: Any) -> None:
    with pytest.raises(DataError, match="image position: expected 0 to 5, got"):
        _set().batch(indices)


@pytest.mark.parametrize("indices", [[0.5], torch.tensor([True, False]), ["first"]])
def test_positions_of_a_wrong_kind_are_refused(indices: Any) -> None:
    with pytest.raises(DataError, match="image positions: expected integers"):
        _set().subset(indices)


@pytest.mark.parametrize("size", [(2, 4, 4), (3, 0, 4), (3, 4), (3, 4.0, 4)])
def test_wrong_sizes_are_refused(size: Any) -> None:
    with pytest.raises(DataError, match="image size"):
        _set().with_size(size)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_subset_of_a_subset_is_a_view(data: st.DataObject) -> None:
    images = _set()
    outer = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=8))
    inner = data.draw(st.lists(st.integers(0, len(outer) - 1), max_size=8))
    view = images.subset(outer).subset(inner)
    rows = [outer[position] for position in inner]
    assert torch.equal(view.batch(slice(None)), images.batch(rows))
    assert view.labels.tolist() == images.labels[rows].tolist()
    assert view.hashes() == [images.hashes()[row] for row in rows]


def test_views_share_the_cache() -> None:
    reads: list[int] = []

    def read(row: int) -> bytes:
        reads.append(row)
        return png(row)

    images = ImageSet(EncodedStore(read, str, 4), [0, 1, 2, 0], NAMES, (3, 8, 8))
    images.batch([0, 1])
    assert set(reads) == {0, 1}
    reads.clear()
    images.subset([1, 0]).with_size((1, 4, 4)).for_classes(NAMES[::-1]).batch(slice(None))
    images.hashes()
    assert set(reads) == {2, 3}
    reads.clear()
    images.batch(slice(None))
    assert reads == []


def test_with_size_resamples_from_the_original() -> None:
    images = _from_files([png(0, 16, 16), png(1, 16, 16)], (3, 16, 16))
    small = images.with_size((3, 4, 4))
    assert torch.equal(small.with_size((3, 16, 16)).batch(slice(None)), images.batch(slice(None)))
    assert small.hashes() == images.hashes()
    assert torch.equal(
        images.batch([0])[0] * 255, torch.from_numpy(noise(0, 16, 16)).permute(2, 0, 1).float()
    )


def test_mixed_sizes_in_one_batch_equal_each_alone() -> None:
    images = _from_files([png(0, 8, 8), png(1, 20, 11), png(2, 8, 8), png(3, 5, 30)])
    together = images.batch([3, 0, 1, 2])
    for position, row in enumerate([3, 0, 1, 2]):
        assert torch.equal(together[position], images.batch([row])[0])
    assert torch.equal(together[1] * 255, torch.from_numpy(noise(0)).permute(2, 0, 1).float())


def test_corrupt_image_is_named_by_its_row_and_only_when_read() -> None:
    images = _from_files([png(0), b"broken", png(2)])
    assert images.batch([0, 2]).shape[0] == 2
    for view, positions in ((images, [0, 1]), (images.subset([2, 1]), [1])):
        with pytest.raises(DataError, match="train row 1 "):
            view.batch(positions)
    with pytest.raises(DataError, match="train row 1 "):
        images.fingerprint()


def test_unreadable_file_is_named() -> None:
    def read(row: int) -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    images = ImageSet(EncodedStore(read, lambda row: f"train row {row}", 1), [0], NAMES, (3, 8, 8))
    with pytest.raises(DataError, match="train row 0 cannot be read: got No such file"):
        images.batch([0])


def test_for_classes_renumbers_by_name() -> None:
    images = _set()
    turned = images.for_classes(["ship", "cat", "dog"])
    assert [turned.class_names[label] for label in turned.labels] == [NAMES[label] for label in images.labels]
    assert turned.labels.tolist() == [1, 2, 0, 1, 2, 0]
    assert turned.fingerprint() == images.fingerprint()
    with pytest.raises(DataError, match="'boat'"):
        images.for_classes(["boat", "cat", "dog"])


def _sized(part: bytes) -> bytes:
    return len(part).to_bytes(8, "little") + part


def test_hash_is_the_stated_formula() -> None:
    """Written out with hashlib and NumPy, apart from the library."""
    images = _from_files([png(7, 5, 9)])
    inner = hashlib.sha256(_sized(b"torch.uint8(5, 9, 3)" + noise(7, 5, 9).tobytes())).hexdigest()
    assert images.hashes() == [hashlib.sha256(_sized(inner.encode()) + _sized(b"cat")).hexdigest()]


def test_hash_sees_content_class_and_shape_but_not_the_file() -> None:
    base = _from_files([png(0)]).hashes()
    assert _from_files([encoded(noise(0), "BMP")], (1, 4, 4)).hashes() == base
    assert _from_files([png(1)]).hashes() != base
    assert _from_files([encoded(noise(0).reshape(4, 16, 3))]).hashes() != base
    other_class = ImageSet(EncodedStore(lambda row: png(0), str, 1), [1], NAMES, (3, 8, 8))
    assert other_class.hashes() != base


def test_grey_tensor_and_grey_file_hash_alike() -> None:
    grey = noise(3)[:, :, 0]
    tensor = ImageSet.from_tensors(torch.from_numpy(grey)[None, None].clone(), [0], NAMES)
    assert tensor.hashes() == _from_files([encoded(grey)]).hashes()


def test_fingerprint_depends_on_the_order() -> None:
    images = _set()
    assert images.subset([0, 1]).fingerprint() != images.subset([1, 0]).fingerprint()
    assert images.subset([0, 1]).fingerprint() == images.subset(slice(0, 2)).fingerprint()


def test_budget_limits_what_is_kept_and_not_what_is_given() -> None:
    reads: list[int] = []

    def read(row: int) -> bytes:
        reads.append(row)
        return png(row)

    one = 8 * 8 * 3
    images = ImageSet(EncodedStore(read, str, 4, cache_bytes=2 * one), [0] * 4, NAMES, (3, 8, 8))
    first = images.batch(slice(None))
    reads.clear()
    assert torch.equal(images.batch(slice(None)), first)
    assert set(reads) == {2, 3}


def test_large_files_go_through_threads_with_the_same_result() -> None:
    files = [png(seed, 96, 80) for seed in range(6)]
    assert len(files[0]) > 16 * 1024
    together = _from_files(files, (3, 96, 80)).batch(slice(None))
    for row, seed in enumerate(range(6)):
        assert torch.equal(
            together[row] * 255, torch.from_numpy(noise(seed, 96, 80)).permute(2, 0, 1).float()
        )
    with pytest.raises(DataError, match="train row 4 "):
        _from_files([*files[:4], b"broken" * 4000, files[5]]).batch(slice(None))


def test_reading_from_several_threads() -> None:
    images = _from_files([png(seed) for seed in range(40)])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda start: images.batch(slice(start, None)), [0, 5, 0, 20, 0, 35]))
    for start, batch in zip([0, 5, 0, 20, 0, 35], found, strict=True):
        assert torch.equal(batch, found[0][start:])


def test_repr_tells_the_shape() -> None:
    assert repr(_set()) == "ImageSet(6 images of 3 classes, 3 × 4 × 4)"
