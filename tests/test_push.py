"""What goes to the hub: three files, bit-equal weights, and nothing personal."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import stakes
from stakes import cli
from stakes.errors import ConfigError, NetworkError, OutputError, RunFolderError
from stakes.files import write_bytes, write_json
from stakes.push import FILES, export_run, push_run
from tinydigits import NAMES, digits_model, sets, split

SECRET = "hf_abcdefghijklmnop"
PRIVATE = "/home/alice/patient-1234.txt"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with what must stay at home."""
    out = tmp_path_factory.mktemp("push") / "run"
    stakes.unlearn(
        digits_model("resnet10"),
        split(),
        method="neggrad",
        settings={"max_steps": 3},
        out=out,
        cache=out.parent / "cache",
        request={"forget": f"indices:{PRIVATE}"},
        device="cpu",
    )
    write_bytes(out / "analyses" / "row.png", b"a face")
    return out


def test_the_folder_holds_three_files_and_the_same_model(run: Path, tmp_path: Path) -> None:
    folder = export_run(run, tmp_path / "hub")
    assert sorted(path.name for path in folder.rglob("*")) == sorted(FILES)
    pixels = sets()[1].batch(slice(0, 20))
    published = stakes.load_checkpoint(folder)
    assert torch.equal(published(pixels), stakes.load_checkpoint(run)(pixels))
    assert not torch.equal(published(pixels), digits_model("resnet10")(pixels)), (
        "the unlearned one, not the original"
    )
    assert published.class_names == NAMES


def test_nothing_of_the_request_leaves(run: Path, tmp_path: Path) -> None:
    folder = export_run(run, tmp_path / "hub")
    for name in FILES:
        assert b"alice" not in (folder / name).read_bytes(), name
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert stakes.Record.load(run / "record.json").verdict in card


def test_a_network_does_not_say_where_it_came_from(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = json.loads((run / "config.json").read_text())
    write_json(copy / "config.json", config | {"_name_or_path": PRIVATE, "inner": {"_name_or_path": PRIVATE}})
    folder = export_run(copy, tmp_path / "hub")
    assert json.loads((folder / "config.json").read_text()) == config | {"inner": {}}


def test_a_folder_with_something_in_it_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="new or empty folder"):
        export_run(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_weights_that_were_not_measured_are_refused(run: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    for name in ("record.json", "config.json"):
        write_bytes(altered / name, (run / name).read_bytes())
    with pytest.raises(RunFolderError, match="cannot be read"):
        export_run(altered, tmp_path / "out")
    stakes.save_checkpoint(digits_model("resnet10"), altered)
    with pytest.raises(RunFolderError, match="as in the record"):
        export_run(altered, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(RunFolderError, match="no record"):
        export_run(tmp_path / "nowhere", tmp_path / "out")


class Hub:
    """Stands for huggingface_hub.HfApi: keeps what would be sent."""

    def __init__(self, fail: Exception | None = None) -> None:
        self.sent: dict[str, bytes] = {}
        self.calls: list[dict[str, Any]] = []
        self.fail = fail

    def __call__(self, token: str) -> Hub:
        self.calls.append({"token": token})
        return self

    def create_repo(self, repo_id: str, **options: Any) -> None:
        if self.fail:
            raise self.fail
        self.calls.append({"repo_id": repo_id, **options})

    def upload_folder(self, *, folder_path: Path, allow_patterns: list[str], **options: Any) -> Any:
        self.sent = {
            path.name: path.read_bytes() for path in folder_path.rglob("*") if path.name in allow_patterns
        }
        return SimpleNamespace(commit_url=f"hub/{options['repo_id']}/commit/1")


def test_push_sends_what_the_folder_shows(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert push_run(run, "team/model") == "hub/team/model/commit/1"
    folder = export_run(run, tmp_path / "hub")
    assert hub.sent == {name: (folder / name).read_bytes() for name in FILES}
    assert hub.calls == [{"token": SECRET}, {"repo_id": "team/model", "private": True, "exist_ok": True}]


def test_the_token_comes_from_the_environment_and_shows_nowhere(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="environment variable HF_TOKEN"):
        push_run(run, "team/model")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub(OSError(f"401: {SECRET} is not welcome")))
    with pytest.raises(NetworkError) as refused:
        push_run(run, "team/model")
    assert SECRET not in str(refused.value)
    assert refused.value.__suppress_context__


def test_a_hub_that_does_not_answer_is_a_network_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    monkeypatch.setenv("HF_TOKEN", SECRET)
    nowhere = "http://127.0.0.1:9"  # the discard port: nothing listens
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token: HfApi(endpoint=nowhere, token=token))
    with pytest.raises(NetworkError, match="the hub did not take team/model"):
        push_run(run, "team/model")
    with pytest.raises(NetworkError, match="the hub did not take a//b"):
        push_run(run, "a//b")


def test_the_command(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def command(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["stakes", "push", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0)

    assert command(run, "--to-folder", tmp_path / "hub", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"files": list(FILES), "where": str(tmp_path / "hub")}
    assert command(run) == 2
    assert command(run, "team/model", "--to-folder", tmp_path / "other") == 2
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert command(run, "team/model") == 2
    assert "HF_TOKEN" in capsys.readouterr().err
