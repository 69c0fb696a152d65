"""Validation of attribute lists, files and descriptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stakes.anchors import check_attributes, describe, read_attributes
from stakes.anchors.attributes import check_class_names, normalise_name
from stakes.errors import AnchorError

GOOD = {"cat": ["striped fur", "long tail"], "frog": ["green skin"]}


def _file(folder: Path, text: str) -> Path:
    path = folder / "mine.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_description_is_the_concatenation_in_order() -> None:
    assert describe("cat", ["b", " a  c "]) == "b; a c"
    assert "cat" not in describe("cat", ["striped fur"])


def test_order_follows_the_classes_asked_for() -> None:
    found = check_attributes(GOOD, ["frog", "cat"])
    assert list(found.by_class) == ["frog", "cat"]
    assert found.descriptions() == {"frog": "green skin", "cat": "striped fur; long tail"}


def test_result_is_read_only() -> None:
    with pytest.raises(TypeError):
        check_attributes(GOOD, ["frog", "cat"]).by_class["cat"] = ()  # type: ignore[index]


def test_names_match_without_case_space_and_underscore() -> None:
    found = check_attributes({"Maple Tree": ["a"], "T-shirt/top": ["b"]}, ["maple_tree", "t_shirt top"])
    assert found.by_class == {"maple_tree": ("a",), "t_shirt top": ("b",)}


def test_exact_names_win_over_normalised_ones() -> None:
    found = check_attributes({"a b": ["x"], "a_b": ["y"]}, ["a_b", "a b"])
    assert found.by_class == {"a_b": ("y",), "a b": ("x",)}


def test_names_of_symbols_alone_stay_apart() -> None:
    assert normalise_name("+") != normalise_name("-")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"cat": ["a"]}, ["frog"]),
        ({**GOOD, "unicorn": ["horn"]}, ["unicorn", "unknown"]),
        ({"cat": ["a"], "toad": ["b"]}, ["frog", "toad"]),
        ({**GOOD, "cat": []}, ["cat", "1 to 50"]),
        ({**GOOD, "cat": "furry"}, ["cat", "list"]),
        ({**GOOD, "cat": ["a", ""]}, ["cat", "non-empty"]),
        ({**GOOD, "cat": ["a", "  "]}, ["cat", "non-empty"]),
        ({**GOOD, "cat": ["a", 3]}, ["cat", "3"]),
        ({**GOOD, "cat": [None]}, ["cat", "None"]),
        ({**GOOD, "cat": ["x" * 301]}, ["cat", "300"]),
        ({**GOOD, "cat": ["a", "A"]}, ["cat", "twice"]),
        ({**GOOD, "cat": [str(i) for i in range(51)]}, ["cat", "51"]),
        ({"cat": ["a"], "frog": ["A"]}, ["cat", "frog", "same"]),
        ({"Cat": ["a"], "CAT": ["b"], "frog": ["c"]}, ["Cat", "CAT"]),
        ([["cat", ["a"]]], ["list"]),
        (None, ["NoneType"]),
    ],
)
def test_bad_lists_are_refused_by_name(value: Any, words: list[str]) -> None:
    with pytest.raises(AnchorError) as caught:
        check_attributes(value, ["cat", "frog"])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("wrap", [False, True])
def test_file_in_both_forms(tmp_path: Path, wrap: bool) -> None:
    value: Any = {"name": "mine", "classes": GOOD} if wrap else GOOD
    found = read_attributes(_file(tmp_path, json.dumps(value)), ["cat", "frog"])
    assert found.by_class["cat"] == ("striped fur", "long tail")
    assert found.source.startswith("file mine.json sha256 ")
    assert str(tmp_path) not in found.source


def test_a_data_set_with_a_class_called_classes_is_no_wrapper(tmp_path: Path) -> None:
    path = _file(tmp_path, json.dumps({"classes": ["a"], "name": ["b"]}))
    assert read_attributes(path, ["classes", "name"]).by_class["name"] == ("b",)


def test_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(read_attributes(path, ["cat", "frog"]).by_class) == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"cat": ["a"], "cat": ["b"], "frog": ["c"]}', "[" * 100_000]
)
def test_bad_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(AnchorError, match=r"mine\.json"):
        read_attributes(_file(tmp_path, text), ["cat", "frog"])


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnchorError, match=r"mine\.json"):
        read_attributes(path, ["cat", "frog"])


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(AnchorError, match="read"):
            read_attributes(path, ["cat", "frog"])


@pytest.mark.parametrize(
    "names", ["cat", [], ["cat"], ["cat", "cat"], ["cat", ""], ["cat", " "], ["cat", "x" * 201]]
)
def test_bad_class_names_are_refused(names: Any) -> None:
    with pytest.raises(AnchorError, match="class"):
        check_class_names(names)


@pytest.mark.realdata
def test_the_shared_file_is_read(shared: Path) -> None:
    names = [f"person_{index}" for index in range(10)]
    found = read_attributes(shared / "data" / "faces10" / "attributes.json", names)
    assert found.by_class["person_6"][0] == "blonde wavy hair, often tied back"
