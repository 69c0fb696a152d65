from __future__ import annotations

from pathlib import Path

import pytest

from data.pictures import png, write_folder, write_parquet
from stakes.data import open_source
from stakes.errors import DataError


def test_missing_path_says_what_is_accepted(tmp_path: Path) -> None:
    for source in (tmp_path / "none", str(tmp_path / "none"), "./none", "a/b/c", "", "bad\0name"):
        with pytest.raises(
            DataError, match=r"expected a folder with train.parquet.*got no folder of that name"
        ):
            open_source(source)


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"got a file\. Give the folder that holds the file"):
        open_source(path)


def test_folder_without_data_shows_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got an empty folder"):
        open_source(tmp_path)
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(DataError, match=r"got readme\.txt"):
        open_source(tmp_path)


def test_parquet_wins_over_class_folders(tmp_path: Path) -> None:
    write_folder(tmp_path, "train", {"fish": 3})
    write_parquet(tmp_path / "train.parquet", [png(0)], [0])
    assert open_source(tmp_path).class_names == ("cat", "dog")


def test_wrong_size_is_refused_before_anything_is_read() -> None:
    with pytest.raises(DataError, match="image size"):
        open_source("no/such/place/at/all", size=(4, 8, 8))


def test_local_folder_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "cifar10", "train", {"cat": 1})
    assert open_source("cifar10").class_names == ("cat",)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "pets", "train", {"cat": 1})
    assert open_source("~/pets").class_names == ("cat",)


def test_folder_called_digits_is_reached_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "digits", "train", {"cat": 1})
    assert open_source("digits").name == "digits"
    assert open_source("digits").class_names[0] == "0"
    assert open_source("./digits").class_names == ("cat",)
    assert open_source(Path("./digits").absolute()).class_names == ("cat",)
