"""Several runs on one page: the question is checked, and no number is lost."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from pagekit import PNG, Page, a_record, a_run, a_section, figure

from stakes.errors import ConfigError, RunFolderError
from stakes.report.compare import comparison, differences, open_runs, render_comparison, write_comparison
from stakes.report.section import folder_of

HASHES = a_record().hashes


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two answers to one question; only the first was analysed in full."""
    other = a_record(method="neggrad", seed=4, steps=20, preset=None, settings={"lr": 0.5})
    own = figure("own.png", personal=True)
    return [
        a_run(tmp_path / "one" / "run", None, a_section(figures=(figure(), own)), a_section("collapse")),
        a_run(
            tmp_path / "two" / "run", other, a_section(numbers={"auc": 0.77, "own": 3}, figures=(figure(),))
        ),
    ]


def test_every_number_of_every_run_is_there(two: list[Path]) -> None:
    page = Page(render_comparison(open_runs(two)))
    values = [a.get("data-value") for _, a in page.elements]
    for run in open_runs(two):
        for figures in (run.record.before, run.record.after):
            for value in (figures.test_accuracy, figures.retain_accuracy, figures.forget_accuracy):
                assert str(value) in values
        for numbers in run.record.analyses.values():
            assert all(repr(value) in values for value in numbers.values() if value is not None)
        for phase in run.record.phases:
            assert {str(phase.forward_images), str(phase.backward_images), str(phase.seconds)} <= set(values)
    text = page.body()
    assert text.count("not looked at in this run") == 1
    assert {"A structguard", "B neggrad"} <= set(page.texts)
    assert "one/run" in text
    assert "64 images only." in text


def test_numbers_that_tell_nothing_apart_are_folded_away(two: list[Path]) -> None:
    def unfolded(page: str) -> str:
        return re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)

    folded = "Numbers that are the same in all runs"
    twice = render_comparison(open_runs([two[0], two[0]]))
    assert folded in twice
    assert ": numbers" not in unfolded(twice)
    differing = unfolded(render_comparison(open_runs(two)))
    assert ": numbers" in differing
    assert 'data-value="0.77"' in differing
    assert 'data-value="3"' in differing, "a number of one run alone tells them apart as well"


def test_one_question(two: list[Path]) -> None:
    runs = open_runs(two)
    assert differences(runs) == []
    assert comparison(runs)["same_question"] is True
    assert "The same question" in Page(render_comparison(runs)).body()


@pytest.mark.parametrize(
    ("field", "word"),
    [
        ("model_before", "model"),
        ("forget_set", "forget set"),
        ("test_set", "test set"),
        ("retain_set", "retain set"),
    ],
)
def test_another_question_is_told(two: list[Path], tmp_path: Path, field: str, word: str) -> None:
    other = a_record(hashes=HASHES.model_copy(update={field: "9" * 64}))
    runs = open_runs([*two, a_run(tmp_path / "three", other)])
    (told,) = differences(runs)
    assert word in told
    assert "A, B " in told
    assert "C 999999999999…" in told
    assert "do not answer the same question" in Page(render_comparison(runs)).body()
    assert comparison(runs)["differences"] == [told]


def test_a_set_that_is_missing_and_another_count_are_told(two: list[Path], tmp_path: Path) -> None:
    after = a_record().after.model_copy(update={"retain_images": 10})
    hashes = HASHES.model_copy(update={"retain_set": None, "probes": "1" * 64, "anchors": "2" * 64})
    runs = open_runs([two[0], a_run(tmp_path / "three", a_record(after=after, hashes=hashes))])
    told = differences(runs)
    assert len(told) == 2, "probes and anchors are the answer's own"
    assert "B none" in told[0]
    assert "A 500; B 10" in told[1]


def test_values_of_the_comparison_are_the_records(two: list[Path]) -> None:
    found: dict[str, Any] = comparison(open_runs(two))
    assert [run["key"] for run in found["runs"]] == ["A", "B"]
    assert [run["name"] for run in found["runs"]] == ["one/run", "two/run"]
    for told, run in zip(found["runs"], open_runs(two), strict=True):
        assert told["after"] == run.record.after.model_dump(mode="json")
        assert told["analyses"] == run.record.analyses


def test_images_of_the_forget_set_are_left_out_unless_asked_for(two: list[Path], tmp_path: Path) -> None:
    picture = base64.b64encode(PNG).decode()
    path = tmp_path / "page.html"
    assert write_comparison(open_runs(two), path) == path
    assert picture not in path.read_text()
    write_comparison(open_runs(two), path, embed_images=True)
    assert picture in path.read_text()


def test_nothing_is_fetched_and_nothing_becomes_markup(tmp_path: Path) -> None:
    evil = "<img src=http://evil.test onerror=alert(1)>$x_"
    section = a_section(title=evil, sentence=evil, limit=evil, numbers={evil: 1.5}, figures=(figure(),))
    folders = [
        a_run(tmp_path / evil[:4] / str(i), a_record(method=evil, preset=evil), section) for i in range(2)
    ]
    page = Page(render_comparison(open_runs(folders)))
    assert len(page.all("img")) == 2
    assert len(page.all("script")) == 1
    assert all(address.startswith(("#", "data:")) for address in page.reached_for())
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_record_counts_where_a_file_says_otherwise(two: list[Path]) -> None:
    path = folder_of(two[1]) / "membership.json"
    path.write_text(path.read_text().replace("0.77", "0.11"))
    page = Page(render_comparison(open_runs(two)))
    values = [a.get("data-value") for _, a in page.elements]
    assert "0.77" in values
    assert "0.11" not in values
    assert "holds other numbers" in page.body()


def test_names_are_short_and_differ(tmp_path: Path) -> None:
    folders = [a_run(tmp_path / name) for name in ("a/x/1", "a/y/1", "b/x/1", "z")]
    names = [run.name for run in open_runs(folders)]
    assert len(set(names)) == 4
    assert [run.name for run in open_runs([folders[0], folders[3]])] == ["1", "z"]
    assert len({run.key for run in open_runs([folders[0]] * 30)}) == 30


def test_less_than_two_runs_or_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two run folders or more"):
        open_runs([a_run(tmp_path / "one")])
    with pytest.raises(RunFolderError, match="no record"):
        open_runs([tmp_path / "one", tmp_path / "none"])
