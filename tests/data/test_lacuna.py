"""Lacuna from a folder of made-up people: solid colours, since only their differences matter."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from stakes import cli
from stakes.config import build
from stakes.data import open_source
from stakes.data.lacuna import LacunaSettings, build_lacuna
from stakes.errors import ConfigError, DataError

LEAST, TEST, SIDE = 6, 2, 8


def portrait(person: int, number: int) -> Image.Image:
    """A picture of its own; larger than what is written."""
    return Image.new("RGB", (16, 12), (person % 256, number, 100 + person // 256))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred and twenty people in the two folders that VGGFace2 has; every sixth has too few images."""
    root = tmp_path_factory.mktemp("faces")
    for person in range(120):
        folder = root / ("test" if person % 10 == 0 else "train") / f"n{person:06d}"
        folder.mkdir(parents=True)
        for number in range(LEAST - 1 if person % 12 == 5 else LEAST + person % 3):
            portrait(person, number).save(folder / f"{number:04d}.png")
    return root


def settings(**changes: object) -> LacunaSettings:
    return build(LacunaSettings, {"least": LEAST, "test_images": TEST, "side": SIDE} | changes)


def test_ten_people(faces: Path, tmp_path: Path) -> None:
    told = build_lacuna(faces, tmp_path, settings())
    assert told == json.loads((tmp_path / "lacuna.json").read_text())
    source = open_source(tmp_path)
    assert source.class_names == tuple(told["people"])
    assert source.train is not None
    assert source.test is not None
    assert source.train.size == (3, SIDE, SIDE)
    assert len(set(told["people"])) == 10
    assert torch.bincount(source.test.labels).tolist() == [TEST] * 10
    assert (len(source.train), len(source.test)) == (told["train_images"], told["test_images"])
    for row in range(0, len(source.train), 7):
        person = int(source.class_names[int(source.train.labels[row])][1:])
        red = source.train.batch([row])[0, 0].unique()
        assert (red * 255).round().tolist() == [person % 256], "the image is of that person"


def test_no_image_on_both_sides_and_all_are_there(faces: Path, tmp_path: Path) -> None:
    told = build_lacuna(faces, tmp_path, settings())
    source = open_source(tmp_path)
    assert source.train is not None
    assert source.test is not None
    train, test = set(source.train.hashes()), set(source.test.hashes())
    assert not train & test
    expected = sum(LEAST + int(name[1:]) % 3 for name in told["people"])
    assert len(train) + len(test) == expected


def test_the_hundred_are_others_than_the_ten(faces: Path, tmp_path: Path) -> None:
    few = build_lacuna(faces, tmp_path / "few", settings())["people"]
    shutil.copytree(faces, tmp_path / "faces")
    with pytest.raises(DataError, match="110"):
        build_lacuna(faces, tmp_path / "fails", settings(identities=100, least=LEAST + 1))
    assert not (tmp_path / "fails").exists()
    many = build_lacuna(faces, tmp_path / "many", settings(identities=100))["people"]
    assert len(set(many)) == 100
    assert not set(few) & set(many)
    assert not any(int(name[1:]) % 12 == 5 for name in [*few, *many]), "too few images"


def test_a_seed_is_one_set_and_another_another(faces: Path, tmp_path: Path) -> None:
    one, again, other = (
        build_lacuna(faces, tmp_path / name, settings(seed=seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for name in ("train.parquet", "test.parquet", "lacuna.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert one == again
    assert one["people"] != other["people"]


def test_copies_count_once_whoever_has_them(tmp_path: Path) -> None:
    root = tmp_path / "faces"
    for person in range(12):
        (root / f"n{person}").mkdir(parents=True)
        for number in range(LEAST):
            portrait(person, number).save(root / f"n{person}" / f"{number}.png")
        # The same picture under other names, in another format, and one that everybody has.
        shutil.copy(root / f"n{person}" / "0.png", root / f"n{person}" / "copy.png")
        portrait(person, 1).save(root / f"n{person}" / "again.bmp")
        portrait(200, 0).save(root / f"n{person}" / "group.png")
    for number in range(3):
        # Enough files, too few pictures.
        shutil.copytree(root / "n0", root / f"copies{number}")
        for path in list((root / f"copies{number}").iterdir())[:-4]:
            shutil.copy(root / "n0" / "0.png", path)
    told = build_lacuna(root, tmp_path / "out", settings())
    assert not any(name.startswith("copies") for name in told["people"])
    assert told["train_images"] + told["test_images"] == 10 * LEAST + 1, "the shared picture is there once"


def test_what_cannot_be_built_is_said(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one folder a person"):
        build_lacuna(tmp_path, tmp_path / "out", settings())
    with pytest.raises(DataError, match="cannot be read"):
        build_lacuna(tmp_path / "nowhere", tmp_path / "out", settings())
    with pytest.raises(DataError, match="fewer than 6"):
        build_lacuna(faces, tmp_path / "out", settings(test_images=LEAST))
    with pytest.raises(ConfigError, match="identities"):
        settings(identities=11)
    broken = tmp_path / "broken"
    shutil.copytree(faces / "train" / "n000001", broken / "n1")
    (broken / "n1" / "0000.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0000\.png"):
        build_lacuna(broken, tmp_path / "out", settings())


def test_the_command(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stakes", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), capsys.readouterr().out

    small = ("--least", LEAST, "--test-images", TEST)
    code, said = call("lacuna", faces, "--out", tmp_path / "out", *small, "--seed", 3, "--json")
    assert code == 0
    assert json.loads(said)["settings"]["seed"] == 3
    assert open_source(tmp_path / "out").test is not None
    assert call("lacuna", faces, "--out", tmp_path / "out")[0] == 2, "nobody here has 500 images"
    assert call("lacuna", faces, "--out", tmp_path / "out", "--identities", 20)[0] == 2
