"""The commands ``show`` and ``compare``."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pagekit import PNG, a_record, a_run, a_section, figure

from stakes.records import Hashes

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(command: Say) -> Say:
    return command


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a browser would have been sent to."""
    seen: list[str] = []
    monkeypatch.setattr("typer.launch", lambda address: seen.append(address) or 0)
    return seen


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return a_run(tmp_path / "run", None, a_section(figures=(figure("own.png", personal=True),)))


def test_show_tells_what_the_analyses_found_and_writes_nothing(say: Say, run: Path) -> None:
    before = sorted(run.rglob("*"))
    code, out, _ = say("show", run)
    assert code == 0
    assert "Title of membership: AUC 0.3141" in out
    assert sorted(run.rglob("*")) == before


def test_what_was_not_audited_is_said(say: Say, run: Path, tmp_path: Path) -> None:
    assert "Not audited" not in say("show", run)[1]
    other = a_run(tmp_path / "a run", None)
    out = say("show", other)[1]
    assert "Not audited" in out
    assert f"stakes audit '{other}'" in out, "one line, to be copied"


def test_an_analysis_is_no_audit(say: Say, tmp_path: Path, opened: list[str]) -> None:
    run = a_run(tmp_path / "run", None, a_section("streisand"))
    assert "Not audited" in say("show", "--open", run)[1]
    assert opened
    for name in ("report.html", "README.md"):
        page = (run / name).read_text()
        assert "Not audited" in page
        assert "Title of streisand" in page
    assert "What the audit found" not in (run / "report.html").read_text()


def test_show_open(say: Say, run: Path, opened: list[str]) -> None:
    assert say("show", "--open", run)[0] == 0
    assert opened == [(run / "report.html").as_uri()]
    assert (run / "README.md").is_file()
    code, out, _ = say("show", "--open", "--json", run)
    assert json.loads(out) == json.loads((run / "record.json").read_text())
    assert code == 0


def test_show_embed_images(say: Say, run: Path, opened: list[str]) -> None:
    assert say("show", "--embed-images", run)[0] == 0
    page = (run / "report.html").read_text()
    assert base64.b64encode(PNG).decode() in page
    assert opened == []


def test_compare(say: Say, run: Path, tmp_path: Path, opened: list[str]) -> None:
    hashes = Hashes(**a_record().hashes.model_dump() | {"forget_set": "0" * 64})
    other = a_run(tmp_path / "other", a_record(method="neggrad", hashes=hashes))
    code, out, err = say("compare", run, other, "--out", tmp_path / "page.html", "--open")
    assert code == 0
    assert "neggrad" in out
    assert "warning: the forget set is not the same" in err
    assert opened == [(tmp_path / "page.html").as_uri()]
    code, out, _ = say("compare", run, other, "--json")
    assert json.loads(out)["same_question"] is False
    assert code == 0


def test_compare_refuses_in_one_line(say: Say, run: Path, tmp_path: Path) -> None:
    for words, said in (
        ((run,), "two run folders"),
        ((run, tmp_path), "no record"),
        ((run, run, "--open"), "--out"),
    ):
        code, _, err = say("compare", *words)
        assert code == 2
        assert said in err
        assert "Traceback" not in err
