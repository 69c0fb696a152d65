from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from data.pictures import noise, png
from stakes.data import open_source
from stakes.errors import DataError, NetworkError


def _answer(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    asked: list[str] = []

    def load(name: str, **_: Any) -> Any:
        asked.append(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def _table(columns: dict[str, list[Any]], features: dict[str, Any]) -> Any:
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _splits(*titles: str) -> Any:
    features = {
        "id": datasets.Value("int64"),
        "img": datasets.Image(),
        "coarse_label": datasets.ClassLabel(names=["x"]),
    }
    features["fine_label"] = datasets.ClassLabel(names=["cat", "dog"])
    rows = {
        "id": [7, 8],
        "img": [{"bytes": png(0)}, {"bytes": png(1)}],
        "coarse_label": [0, 0],
        "fine_label": [1, 0],
    }
    return datasets.DatasetDict({title: _table(rows, features) for title in titles})


@pytest.mark.parametrize("name", ["owner/name", "cifar100"])
def test_columns_are_found_and_pixels_are_our_own_decoding(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked = _answer(monkeypatch, _splits("train", "test"))
    source = open_source(name)
    assert asked == [name]
    assert source.train is not None
    assert source.class_names == ("cat", "dog")
    assert source.train.labels.tolist() == [1, 0]
    assert torch.equal(source.train.batch([1])[0] * 255, torch.from_numpy(noise(1)).permute(2, 0, 1).float())
    assert source.name == name


def test_validation_serves_as_test(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, _splits("train", "validation", "unlabelled"))
    source = open_source("owner/name")
    assert source.test is not None
    assert "validation" in source.note


def test_other_splits_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, _splits("a", "b"))
    with pytest.raises(DataError, match="expected train or test, got a, b"):
        open_source("owner/name")


def test_files_of_a_hub_folder_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(3))
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat"])}
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "x.png")}], "label": [0]}
    _answer(monkeypatch, datasets.DatasetDict({"train": _table(rows, features)}))
    source = open_source("owner/name")
    assert source.train is not None
    assert torch.equal(source.train.batch([0])[0] * 255, torch.from_numpy(noise(3)).permute(2, 0, 1).float())


def test_several_images_without_a_usual_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    features = {
        "left": datasets.Image(),
        "right": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat"]),
    }
    rows = {"left": [{"bytes": png(0)}], "right": [{"bytes": png(1)}], "label": [0]}
    _answer(monkeypatch, datasets.DatasetDict({"train": _table(rows, features)}))
    with pytest.raises(DataError, match=r"left \(Image\), right \(Image\).*No image column"):
        open_source("owner/name")


@pytest.mark.parametrize(
    "failure", [ConnectionError("offline"), FileNotFoundError("no such set"), RuntimeError("anything")]
)
def test_failure_names_what_was_tried_and_the_other_ways(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    _answer(monkeypatch, failure)
    with pytest.raises(
        NetworkError, match=r"'owner/name' is neither a folder here nor.*train.parquet.*digits"
    ):
        open_source("owner/name")


def test_choice_that_only_the_user_can_make_is_no_network_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, ValueError("Config name is missing. Please pick one among: a, b"))
    with pytest.raises(DataError, match="pick one among: a, b"):
        open_source("owner/name")
