from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.pictures import encoded, noise, png, write_folder
from stakes.data import open_source
from stakes.errors import DataError


def test_classes_are_the_sorted_folders_and_rows_the_sorted_files(tmp_path: Path) -> None:
    write_folder(tmp_path, "train", {"dog": 2, "cat": 1})
    write_folder(tmp_path, "test", {"dog": 1})
    source = open_source(tmp_path)
    assert source.train is not None
    assert source.test is not None
    assert source.class_names == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 1, 1]
    assert source.test.labels.tolist() == [1]
    expected = torch.from_numpy(noise(0)).permute(2, 0, 1).float() / 255  # the first dog
    assert torch.equal(source.train.batch([1])[0], expected)
    assert source.name == str(tmp_path)
    assert source.note == ""


def test_suffixes_subfolders_and_other_files(tmp_path: Path) -> None:
    write_folder(tmp_path, "train", {"cat": 1})
    cat = tmp_path / "train" / "cat"
    (cat / "more").mkdir()
    (cat / "more" / "b.JPG").write_bytes(encoded(noise(1), "JPEG"))
    for name in ("notes.txt", ".hidden.png", "Thumbs.db"):
        (cat / name).write_bytes(b"x")
    (tmp_path / "train" / ".cache").mkdir()
    source = open_source(tmp_path)
    assert source.train is not None
    assert len(source.train) == 2
    assert source.class_names == ("cat",)


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_validation_serves_as_test_and_is_noted(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, "train", {"cat": 1})
    write_folder(tmp_path, name, {"cat": 2})
    source = open_source(tmp_path)
    assert source.test is not None
    assert len(source.test) == 2
    assert source.note == f"the {name} split serves as test split"
    write_folder(tmp_path, "test", {"cat": 3})
    source = open_source(tmp_path)
    assert source.test is not None
    assert (len(source.test), source.note) == (3, "")


def test_splits_may_be_missing(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", "train", {"cat": 1})
    write_folder(tmp_path / "b", "test", {"cat": 1})
    assert open_source(tmp_path / "a").test is None
    assert open_source(tmp_path / "b").train is None


def test_class_known_only_to_the_test_split_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, "train", {"cat": 1})
    write_folder(tmp_path, "test", {"cats": 1})
    with pytest.raises(DataError, match=r"test row 0 .* is 'cats', not a class.*Did you mean 'cat'"):
        open_source(tmp_path)


def test_corrupt_file_is_named_with_row_and_path(tmp_path: Path) -> None:
    write_folder(tmp_path, "train", {"cat": 3})
    (tmp_path / "train" / "cat" / "001.png").write_bytes(b"broken")
    source = open_source(tmp_path)
    assert source.train is not None
    with pytest.raises(DataError, match=r"train row 1 \(cat/001.png\)"):
        source.train.batch(slice(None))


def test_image_outside_a_class_folder_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, "train", {"cat": 1})
    (tmp_path / "train" / "lost.png").write_bytes(png(1))
    with pytest.raises(DataError, match=r"lost.png is in no class folder"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("counts", "match"), [({}, "no class folders"), ({"cat": 0}, "1 class folders without images")]
)
def test_empty_split_is_refused(tmp_path: Path, counts: dict[str, int], match: str) -> None:
    (tmp_path / "train").mkdir()
    write_folder(tmp_path, "train", counts)
    with pytest.raises(DataError, match=match):
        open_source(tmp_path)


def _outside(tmp_path: Path) -> Path:
    write_folder(tmp_path / "outside", "train", {"cat": 1})
    return tmp_path / "outside" / "train"


def test_link_to_a_file_outside_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", "train", {"cat": 1})
    (tmp_path / "in" / "train" / "cat" / "z.png").symlink_to(_outside(tmp_path) / "cat" / "000.png")
    with pytest.raises(DataError, match=r"z.png leads out of"):
        open_source(tmp_path / "in")


def test_link_to_a_class_folder_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", "train", {"cat": 1})
    (tmp_path / "in" / "train" / "dog").symlink_to(_outside(tmp_path) / "cat")
    with pytest.raises(DataError, match="dog is a link to a folder"):
        open_source(tmp_path / "in")


def test_link_to_a_split_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train").symlink_to(_outside(tmp_path))
    with pytest.raises(DataError, match="leads out of"):
        open_source(tmp_path / "in")


def test_link_inside_and_a_linked_source_are_fine(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", "train", {"cat": 1})
    (tmp_path / "in" / "train" / "cat" / "again.png").symlink_to("000.png")
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    source = open_source(tmp_path / "alias")
    assert source.train is not None
    assert len(source.train) == 2
    assert source.train.hashes()[0] == source.train.hashes()[1]


def test_data_for_a_model_may_lack_some_of_its_classes(tmp_path: Path) -> None:
    """Erased after a request, for example."""
    write_folder(tmp_path, "train", {"dog": 2})
    write_folder(tmp_path, "test", {"cat": 1, "dog": 1})
    source = open_source(tmp_path, class_names=("owl", "dog", "cat"))
    assert source.class_names == ("owl", "dog", "cat")
    assert source.train is not None
    assert source.test is not None
    assert source.train.labels.tolist() == [1, 1]
    assert source.test.labels.tolist() == [2, 1]
    with pytest.raises(DataError, match="'cat', not a class"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="not a class"):
        open_source(tmp_path, class_names=("owl", "dog"))
