"""Images without labels: where they come from, and what must not be among them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stakes.data import open_source
from stakes.data.forget import split_forget
from stakes.data.images import ImageSet
from stakes.data.unlabelled import open_unlabelled, without_twins
from stakes.errors import DataError

NAMES = ("cat", "dog")


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 4, 4), generator=draws, dtype=torch.uint8)


def a_set(count: int, seed: int = 0) -> ImageSet:
    return ImageSet.from_tensors(pixels(count, seed), torch.arange(count) % 2, NAMES)


def a_folder(folder: Path, count: int = 5) -> Path:
    for row, image in enumerate(pixels(count)):
        place = folder / ("some" if row % 2 else "others/deep")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{row}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_gives_every_image_in_it_whatever_its_subfolders_are_called(tmp_path: Path) -> None:
    test = a_set(3, seed=1)
    found, left = open_unlabelled(str(a_folder(tmp_path)), test, class_names=NAMES, size=(3, 8, 8))
    assert left is test
    assert (len(found), found.size, found.class_names) == (5, (3, 8, 8), NAMES)
    assert sorted(found.pixel_hashes()) == sorted(a_set(5).pixel_hashes())


def test_part_of_the_test_split_is_never_measured_on() -> None:
    test = a_set(20)
    found, left = open_unlabelled("test:7", test, class_names=NAMES, size=(3, 4, 4))
    assert left is not None
    assert (len(found), len(left)) == (7, 13)
    assert set(found.pixel_hashes()).isdisjoint(left.pixel_hashes())
    assert set(found.pixel_hashes()) | set(left.pixel_hashes()) == set(test.pixel_hashes())
    assert found.labels.tolist() == [0] * 7
    again, _ = open_unlabelled("test:7", test, class_names=NAMES, size=(3, 4, 4))
    assert again.pixel_hashes() == found.pixel_hashes()


def test_the_same_part_for_every_seed_and_request() -> None:
    digits = open_source("digits")
    common = {"class_names": digits.class_names, "size": (1, 8, 8), "unlabelled": "test:50"}
    one = split_forget("random:2", digits, seed=0, **common)
    other = split_forget("class:3", digits, seed=7, **common)
    assert one.unlabelled is not None
    assert other.unlabelled is not None
    assert one.unlabelled.fingerprint() == other.unlabelled.fingerprint()
    assert one.test is not None
    assert digits.test is not None
    assert len(one.test) == len(digits.test) - 50
    assert split_forget("random:2", digits, class_names=digits.class_names, size=(1, 8, 8)).unlabelled is None


@pytest.mark.parametrize("spec", ["test:0", "test:20", "test:-1", "test:", "test:many", "test:1e2"])
def test_a_number_that_leaves_nothing_or_is_none(spec: str) -> None:
    with pytest.raises(DataError, match=r"N from 1 to 19.*left to measure on"):
        open_unlabelled(spec, a_set(20), class_names=NAMES, size=(3, 4, 4))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected data with a test split"):
        open_unlabelled("test:3", None, class_names=NAMES, size=(3, 4, 4))
    with pytest.raises(DataError, match="no such folder"):
        open_unlabelled(str(tmp_path / "nowhere"), None, class_names=NAMES, size=(3, 4, 4))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected image files, got none in it"):
        open_unlabelled(str(tmp_path / "empty"), None, class_names=NAMES, size=(3, 4, 4))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    a_folder(tmp_path / "elsewhere")
    inside = a_folder(tmp_path / "inside")
    (inside / "link.png").symlink_to(tmp_path / "elsewhere" / "some" / "1.png")
    with pytest.raises(DataError, match="leads out of"):
        open_unlabelled(str(inside), None, class_names=NAMES, size=(3, 4, 4))


def natural() -> ImageSet:
    """Smooth pictures, as photographs are, of 32 × 32 pixels."""
    draws = torch.Generator().manual_seed(3)
    coarse = torch.rand(12, 3, 5, 5, generator=draws)
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return ImageSet.from_tensors((smooth * 255).round().to(torch.uint8), torch.arange(12) % 2, NAMES)


def saved_anew(image: torch.Tensor, quality: int) -> torch.Tensor:
    kept = io.BytesIO()
    Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(
        kept, "JPEG", quality=quality
    )
    return torch.from_numpy(np.array(Image.open(kept))).permute(2, 0, 1).float() / 255


def test_copies_that_were_saved_or_scaled_anew_or_mirrored_are_noticed() -> None:
    images = natural()
    forget, others = images.subset(range(4)), images.batch(range(4, 12))
    one, two, three, four = forget.batch(slice(None))
    larger = torch.nn.functional.interpolate(three[None], scale_factor=2, mode="bilinear")
    smaller = torch.nn.functional.interpolate(larger, size=32, mode="bilinear", antialias=True)[0]
    copies = torch.stack([saved_anew(one, 60), two.flip(-1), smaller, saved_anew(four.flip(-1), 80)])
    given = ImageSet.from_tensors(torch.cat([copies, others]), [0] * 12, NAMES)
    assert set(given.pixel_hashes()).isdisjoint(forget.pixel_hashes())
    left = without_twins(given, forget)
    assert torch.equal(left.batch(slice(None)), others)


def test_others_that_are_like_it_stay() -> None:
    images = natural()
    forget, moved = images.subset([0]), images.batch([0]).roll(4, -1)
    assert len(without_twins(ImageSet.from_tensors(moved, [0], NAMES), forget)) == 1
    assert len(without_twins(images.subset(range(1, 12)), forget)) == 11


def test_blocks_find_what_one_pass_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    images = natural()
    whole = without_twins(images, images.subset([1, 7])).pixel_hashes()
    monkeypatch.setattr("stakes.data.unlabelled._TOGETHER", 2)
    assert without_twins(images, images.subset([1, 7])).pixel_hashes() == whole
    assert len(whole) == 10


def test_twins_go_whatever_their_label_and_others_stay() -> None:
    images, forget = a_set(6), ImageSet.from_tensors(pixels(6)[[1, 4]], [0, 0], NAMES)
    left = without_twins(images, forget)
    assert left.pixel_hashes() == [images.pixel_hashes()[row] for row in (0, 2, 3, 5)]
    assert len(without_twins(images, a_set(2, seed=9))) == 6
