"""The commands `stakes request`, on pictures in folders."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import NAMES, images, problem
from PIL import Image

from stakes import cli
from stakes.cli_request import CAME_BACK, NOT_DONE
from stakes.cli_request_said import print_report
from stakes.ledger.run import RunReport
from stakes.ledger.work import BatchReport
from stakes.models import save_checkpoint
from stakes.opened import open_run
from stakes.records import Figures, Record

Call = Callable[..., tuple[int, Any, str]]
RUN = ["--method", "random-label", "--set", "lr=0.003", "--set", "batchnorm=freeze", "--set", "max_epochs=60"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data/`` and ``model/``."""
    home = tmp_path_factory.mktemp("home")
    save_checkpoint(problem("resnet10").model, home / "model")
    for split, count, seed in (("train", 36, 1), ("test", 12, 2)):
        pixels, labels = images(count, seed)
        for row, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            folder = home / "data" / split / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            shown = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            Image.fromarray(shown).save(folder / f"{row:02d}.png")
    return home


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run one command in this process: exit code, stdout (read where it is JSON), stderr."""

    def run(*words: object) -> tuple[int, Any, str]:
        monkeypatch.setattr(sys, "argv", ["stakes", "request", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        out = json.loads(said.out) if "--json" in words and said.out else said.out
        assert "Traceback" not in said.err
        return int(left.value.code or 0), out, said.err

    return run


def made(call: Call, home: Path, path: Path, *more: object) -> Path:
    code, _, err = call("init", path, "--model", home / "model", "--data", home / "data", *more)
    assert code == 0, err
    return path


def test_the_whole_way(call: Call, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = made(call, home, tmp_path / "ledger")
    (tmp_path / "rows.txt").write_text("0\n1\n14\n")
    code, added, _ = call(
        "add", ledger, "--forget", f"indices:{tmp_path / 'rows.txt'}", "--requester", "Ann", "--json"
    )
    assert (code, added["request"], added["images"]) == (0, 1, 3)
    monkeypatch.setattr(sys, "stdin", io.StringIO("ann\n"))
    code, said, _ = call("add", ledger, "--forget", "random:2", "--requester", "-", "--note", "[bold]")
    assert code == 0
    assert "request 2: 2 images, pending" in said
    code, done, err = call("run", ledger, *RUN, "--retain-sample", 10, "--json")
    assert code == 0, err
    assert done["done"] is True
    assert [batch["requests"] for batch in done["batches"]] == [[1], [2]]
    assert (ledger / "runs" / "000001" / "report.html").is_file()
    assert done["first"] == done["batches"][0]["before"] != done["batches"][1]["before"]

    code, listed, _ = call("list", ledger, "--json")
    assert [row["status"] for row in listed["requests"]] == ["done", "done"]
    assert listed["model"] == done["model"]
    assert (Path(listed["folder"]) / "model.safetensors").is_file()
    assert len(call("list", ledger, "--requester", "ANN", "--json")[1]["requests"]) == 2
    assert call("list", ledger, "--requester", "bob", "--json")[1]["requests"] == []
    _, said, _ = call("list", ledger)
    assert "[bold]" in said

    code, found, _ = call("verify", ledger, "--model", listed["folder"], "--head", listed["head"], "--json")
    assert (code, found["ok"], found["checked"]) == (0, True, [1, 2])
    code, found, err = call("verify", ledger, "--model", home / "model", "--json")
    assert (code, found["ok"]) == (CAME_BACK, False)
    assert "Request 1 came back" in err
    code, said, _ = call("verify", ledger)
    assert code == 0
    assert "none is recognised" in said
    code, said, _ = call("verify", ledger, "--model", home / "model")
    assert (code, said.startswith("VERIFICATION FAILED")) == (CAME_BACK, True)

    code, files, _ = call("export", ledger, 1, "--out", tmp_path / "one.json", "--json")
    assert code == 0
    assert all(Path(file).is_file() for file in files["files"])
    run = open_run(ledger / "runs" / "000001")
    assert run.split.indices == (0, 1, 14)
    assert run.split.retain is None, "those of the data hold the images of request 2, which was known"
    assert "other requests" in run.notes[0]

    code, pruned, _ = call("prune", ledger, "--keep", 1, "--json")
    assert (code, pruned["kept"]) == (0, [listed["model"]])
    code, said, _ = call("run", ledger, *RUN)
    assert (code, "nothing is pending" in said) == (0, True)


def test_a_run_that_knew_no_other_request_keeps_its_retain_set(
    call: Call, home: Path, tmp_path: Path
) -> None:
    ledger = made(call, home, tmp_path / "ledger")
    (tmp_path / "rows.txt").write_text("0\n1\n14\n")
    call("add", ledger, "--forget", f"indices:{tmp_path / 'rows.txt'}")
    call("run", ledger, "--method", "before")
    run = open_run(ledger / "runs" / "000001")
    assert run.split.retain is not None
    assert run.split.retain.fingerprint() == run.record.hashes.retain_set
    assert run.notes == ()


@pytest.mark.parametrize(
    ("option", "held"), [((), (0, 1)), (("--reference-first",), (1, 1)), (("--reference-current",), (0, 0))]
)
def test_whose_answers_are_kept(
    call: Call, home: Path, tmp_path: Path, option: tuple[str, ...], held: tuple[int, int]
) -> None:
    ledger = made(call, home, tmp_path / "ledger")
    for row in (0, 13):
        (tmp_path / "rows.txt").write_text(f"{row}\n")
        assert call("add", ledger, "--forget", f"indices:{tmp_path / 'rows.txt'}")[0] == 0
    code, done, err = call("run", ledger, *RUN, *option, "--json")
    assert (code, done["done"]) == (0, True), err
    records = [json.loads((ledger / "runs" / f"00000{n}" / "record.json").read_text()) for n in (1, 2)]
    first = records[0]["hashes"]["model_before"]
    expected = [first if yes else None for yes in held]
    assert [record["hashes"]["reference"] for record in records] == expected


def test_afresh(call: Call, home: Path, tmp_path: Path) -> None:
    ledger = made(call, home, tmp_path / "ledger")
    for row in (0, 14):
        (tmp_path / "rows.txt").write_text(f"{row}\n")
        assert call("add", ledger, "--forget", f"indices:{tmp_path / 'rows.txt'}")[0] == 0
        code, said, err = call("run", ledger, *RUN, "--retain-sample", 10, "--afresh")
        assert code == 0, err
        assert "test accuracy" in said
        assert call("prune", ledger, "--keep", 1, "--keep-first")[0] == 0
    record = Record.load(ledger / "runs" / "000002" / "record.json")
    assert record.after.forget_images == 2


@pytest.mark.parametrize(
    ("begun", "now", "said"),
    [
        (90.0, 80.0, None),  # of the first request, or afresh: the line of the batch says it
        (88.0, 87.9, "since the first model: test accuracy 90.00 → 87.90 %; next time --afresh"),
        (89.0, 88.5, "since the first model: test accuracy 90.00 → 88.50 %\n"),
        (88.0, None, None),
    ],
)
def test_losses_that_add_up_are_told(
    begun: float, now: float | None, said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    first, before, after = (
        Figures(test_accuracy=test, forget_accuracy=0.0, forget_images=1) for test in (90.0, begun, now)
    )
    batch = BatchReport((2,), "done", (), {}, (2,), before, after)
    print_report(RunReport((batch,), "0" * 64, Path("model"), first))
    out = capsys.readouterr().out
    assert ("since the first model" in out) == (said is not None)
    assert (said or "") in out


def test_not_done(call: Call, home: Path, tmp_path: Path) -> None:
    ledger = made(call, home, tmp_path / "ledger")
    call("add", ledger, "--forget", "random:2")
    code, said, _ = call("run", ledger, "--method", "before", "--together")
    assert code == NOT_DONE
    assert "request 1: not forgotten" in said
    assert "the current model stays as it was" in said


def test_rows_of_data_that_were_never_named(call: Call, home: Path, tmp_path: Path) -> None:
    assert call("init", tmp_path / "ledger", "--model", home / "model")[0] == 0
    code, _, err = call("add", tmp_path / "ledger", "--forget", "random:2")
    assert code == 2
    assert "'random:2' names rows of a training split" in err
    assert "--data SRC" in err


def test_images_in_a_folder_that_goes_away(call: Call, home: Path, tmp_path: Path) -> None:
    ledger = made(call, home, tmp_path / "ledger")
    theirs = tmp_path / "theirs"
    (theirs / "bee").mkdir(parents=True)
    shutil.copy(home / "data" / "train" / "bee" / "04.png", theirs / "bee" / "mine.png")
    assert call("add", ledger, "--forget", f"images:{theirs}")[0] == 0
    theirs.rename(tmp_path / "moved")
    # The training data have it too, whatever its name.
    assert call("run", ledger, *RUN)[0] == 0
    (tmp_path / "without").mkdir()
    shutil.copytree(home / "data" / "test", tmp_path / "without" / "test")
    code, _, err = call("verify", ledger, "--data", tmp_path / "without")
    assert (code, "of request 1" in err, "--images DIR" in err) == (2, True, True)
    assert call("verify", ledger, "--data", tmp_path / "without", "--images", tmp_path / "moved")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "LEDGER/nothing"], "no ledger at"),
        (["init", "LEDGER", "--model", "MODEL"], "new or empty folder"),
        (["add", "LEDGER", "--forget", "random:99"], "36 training images"),
        (["run", "LEDGER", "--method", "structgard"], "structguard"),
        (["run", "LEDGER", "--preset", "none"], "preset"),
        (["export", "LEDGER", "1", "--out", "LEDGER/x.json"], "nothing was asked yet"),
        (["verify", "LEDGER", "--head", "0123456789abcdef"], "does not contain"),
        (["prune", "LEDGER", "--keep", "0"], "keep"),
    ],
)
def test_wrong_words(call: Call, home: Path, tmp_path: Path, words: list[str], said: str) -> None:
    ledger = made(call, home, tmp_path / "ledger")
    code, _, err = call(
        *(word.replace("LEDGER", str(ledger)).replace("MODEL", str(home / "model")) for word in words)
    )
    assert code == 2
    assert said in err
