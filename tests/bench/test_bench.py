"""Benches that finish, fail, are killed, interrupted, and go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchkit import ADV, STRUCTGUARD, Make, Write, digests, digits_grid, records
from safetensors.torch import load_file, save_file

from stakes import cli
from stakes.bench import run_bench
from stakes.bench.folder import BenchFolder
from stakes.bench.grid import Grid, load_grid
from stakes.bench.plugins import load_plugins
from stakes.cli_bench import SOME_FAILED
from stakes.errors import ConfigError, RunFolderError
from stakes.files import digest_file
from stakes.opened import open_run

MIXED: dict[str, Any] = {
    "methods": [
        "before",
        {"method": "neggrad", "settings": {"max_steps": 5}},
        {"method": "adv", "settings": ADV},
        {"method": "slow", "settings": {"max_steps": 12}},
    ],
    "k": [2, 3],
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, home: Path, plugin: Path) -> dict[str, str]:
    """The records of the mixed grid, made without any interruption by one process."""
    out = tmp_path_factory.mktemp("whole")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    grid = Grid.model_validate(digits_grid(home, **MIXED))
    report = run_bench(grid, out, registry=load_plugins([plugin]))
    torch.set_num_threads(before)
    assert not report.failed
    assert len(report.finished) == report.fresh == 8
    assert not any((out / "work").iterdir()), "weights are dropped"
    assert {path.suffix for path in (out / "cells").iterdir()} == {".json", ".jsonl"}
    return digests(out)


def start(path: Path, plugin: Path, out: Path, jobs: int) -> subprocess.Popen[str]:
    words = ["bench", path, "--plugins", plugin, "--out", out, "--jobs", jobs]
    return subprocess.Popen(
        [sys.executable, "-c", "from stakes.cli import main; main()", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    """Until the bench is where the test wants it."""
    end = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the bench did not get there"
        time.sleep(0.01)


def caught_in_the_act(out: Path) -> bool:
    """Whether a cell has saved its state after some steps and is still at work."""
    return any(out.glob("work/slow_*/state/job.pt"))


def test_killed_and_resumed_gives_the_same_records(
    write: Write, plugin: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    path, out = write(**MIXED), tmp_path / "out"
    process = start(path, plugin, out, jobs=2)
    wait_for(process, lambda: caught_in_the_act(out))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if children.exists() else []
    process.kill()
    process.communicate()
    finished = {file.name: digest_file(file) for file in (out / "cells").glob("*.json")}
    assert len(finished) < 8
    end = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end, "workers outlive a killed bench"
        time.sleep(0.01)
    report = run_bench(load_grid(path), out, registry=load_plugins([plugin]), jobs=2)
    assert report.fresh == 8 - len(finished)
    assert all(digest_file(out / "cells" / name) == value for name, value in finished.items())
    assert digests(out) == whole, "neither the kill nor the number of workers leaves a trace"


def test_interrupted_workers_save_their_state(
    write: Write, plugin: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    path, out = write(**MIXED), tmp_path / "out"
    process = start(path, plugin, out, jobs=2)
    wait_for(process, lambda: caught_in_the_act(out))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED, err
    assert "Traceback" not in err
    assert caught_in_the_act(out), "the running cell's state is kept"
    run_bench(load_grid(path), out, registry=load_plugins([plugin]))
    assert digests(out) == whole


def test_one_process_interrupted(
    stakes_cli: Any, write: Write, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stakes.bench.board import ConsoleBoard

    path, out = write(methods=[{"method": "slow", "settings": {"max_steps": 6}}]), tmp_path / "out"
    progress = ConsoleBoard.progress

    def pressing(self: Any, task: Any, phase: str, done: int, total: int) -> None:
        progress(self, task, phase, done, total)
        if phase == "unlearn" and done == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(ConsoleBoard, "progress", pressing)
        code, _, err = stakes_cli("bench", path, "--out", out, "--plugins", plugin)
    assert code == cli.INTERRUPTED
    assert "resumes" in err
    assert caught_in_the_act(out)
    code, _, err = stakes_cli("bench", path, "--out", out, "--plugins", plugin)
    assert code == 0, err
    history = next((out / "cells").glob("*.history.jsonl")).read_text().splitlines()
    assert [json.loads(line)["step"] for line in history] == [1, 2, 3, 4, 5, 6]


def test_a_finished_cell_is_never_run_again(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, out = load_grid(write(k=[2, 3])), tmp_path / "out"
    run_bench(grid, out)
    kept = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    monkeypatch.setattr("stakes.bench.workshop.unlearn", None)
    report = run_bench(grid, out, jobs=2)
    assert (len(report.finished), report.fresh) == (2, 0)
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == kept


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_cell_is_told_and_the_rest_goes_on(
    stakes_cli: Any, write: Write, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.setenv("MAY_WORK", str(tmp_path / "yes"))
    path = write(methods=[{"method": "fails", "settings": {"max_steps": 1}}, "before"])
    words = ["bench", path, "--out", tmp_path / "out", "--plugins", plugin, "--json", "--jobs", jobs]
    code, said, err = stakes_cli(*words)
    assert code == SOME_FAILED, err
    assert [name.split("_")[0] for name in said["failed"]] == ["fails"]
    assert "not today" in str(said["failed"])
    assert "1 done, 0 running, 0 left, 1 failed" in err
    error = json.loads(next((tmp_path / "out" / "cells").glob("*.error.json")).read_text())
    assert error["error"] == "RuntimeError"
    assert "mine.py" in error["traceback"]
    if jobs == 2:
        return
    (tmp_path / "yes").write_text("")
    code, said, _ = stakes_cli(*words)
    assert (code, said["fresh"]) == (SOME_FAILED, 0), "what failed is skipped, and told again"
    code, said, _ = stakes_cli(*words, "--retry-failed")
    assert (code, said["fresh"], said["failed"]) == (0, 1, {})
    assert not list((tmp_path / "out" / "cells").glob("*.error.json"))


def test_a_worker_that_dies_costs_its_cell_alone(write: Write, tmp_path: Path) -> None:
    deadly = tmp_path / "deadly.py"
    deadly.write_text(
        "import os\nfrom stakes.config import MethodSettings\nfrom stakes.methods import Method\n"
        "class Deadly(Method[MethodSettings]):\n    name, settings_type = 'deadly', MethodSettings\n"
        "    def run(self, job):\n        os._exit(9)\n        yield {}\n"
    )
    out = tmp_path / "out"
    report = run_bench(
        load_grid(write(methods=["deadly", "before"])), out, registry=load_plugins([deadly]), jobs=2
    )
    assert [name.split("_")[0] for name in report.finished] == ["before"]
    (why,) = report.failed.values()
    assert "exit code 9" in why


def test_not_forgotten_is_a_result(stakes_cli: Any, write: Write, tmp_path: Path) -> None:
    path = write(methods=[{"method": "neggrad", "settings": {"max_steps": 1, "lr": 1e-9}}])
    code, _, err = stakes_cli("bench", path, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    assert not records(tmp_path / "out")["neggrad"].forgotten


def test_what_is_shared_is_made_once(grid_of: Make, tmp_path: Path) -> None:
    rows = [
        STRUCTGUARD,
        {"method": "adv", "settings": ADV},
    ]
    out = tmp_path / "out"
    run_bench(grid_of(methods=rows, k=[2, 3]), out)
    found = BenchFolder(out).records().values()
    assert len(found) == 4
    for record in found:
        phases = {phase.name: phase for phase in record.phases}
        assert phases["probes"].forward_images == 0
        assert phases["evaluate before"].forward_images == 0
    assert len({record.hashes.probes for record in found}) == 2, "one set for each k"
    assert len(list((out / "cache" / "probes").glob("*/*.safetensors"))) == 3


def test_models_are_kept_on_request(grid_of: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_bench(grid_of(keep_models=True), out)
    (kept,) = (out / "work").iterdir()
    assert (kept / "model.safetensors").is_file()
    assert (kept / "record.json").read_bytes() == (out / "cells" / f"{kept.name}.json").read_bytes()
    run_bench(grid_of(), out)
    assert not list((out / "work").iterdir()), "and dropped when no longer asked for"


def test_a_kept_cell_opens_like_a_run(
    write: Write, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model and data are where the grid says, variables of the environment included."""
    monkeypatch.setenv("DIGITS_HOME", str(home))
    data = [
        {
            "name": "digits",
            "source": "${DIGITS_HOME}/data",
            "models": {"name": "r", "path": "${DIGITS_HOME}/model"},
        }
    ]
    run_bench(load_grid(write(data=data, methods=["neggrad"], keep_models=True)), tmp_path / "out")
    (kept,) = (tmp_path / "out" / "work").iterdir()
    opened = open_run(kept)
    assert opened.split.test is not None
    assert opened.split.retain is not None
    monkeypatch.delenv("DIGITS_HOME")
    with pytest.raises(ConfigError, match="DIGITS_HOME"):
        open_run(kept)
    assert open_run(kept, model=str(home / "model"), data=str(home / "data")).record == opened.record


@pytest.mark.parametrize("folder", [False, True])
def test_unlabelled_images_are_measured_on_by_no_row(
    grid_of: Make, home: Path, tmp_path: Path, folder: bool
) -> None:
    data = digits_grid(home)["data"][0]
    data["unlabelled"] = str(home / "data" / "test") if folder else "test:25"
    rows = ["before", STRUCTGUARD | {"label": "without"}, STRUCTGUARD | {"unlabelled": True, "label": "with"}]
    grid = grid_of(data=[data], methods=rows, keep_models=True)
    report = run_bench(grid, tmp_path / "out")
    assert not report.failed
    found = {record.request["row"]: record for record in BenchFolder(tmp_path / "out").records().values()}
    left = 60 if folder else 35
    assert {record.after.test_images for record in found.values()} == {left}
    assert {record.hashes.test_set for record in found.values()} == {found["before"].hashes.test_set}
    used = found["with"].unlabelled
    assert used is not None
    assert used.images == 60 - (0 if folder else 35)
    assert found["without"].unlabelled is None
    assert found["with"].hashes.model_after != found["without"].hashes.model_after
    # A kept cell opens with the test images that it was measured on.
    for row, record in found.items():
        (kept,) = (tmp_path / "out" / "work").glob(f"{row}_*")
        test = open_run(kept).split.test
        assert test is not None
        assert test.fingerprint() == record.hashes.test_set


def test_another_model_at_the_same_path_is_noticed(write: Write, home: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    shutil.copytree(home / "model", mine)
    data = [{"name": "digits", "source": str(home / "data"), "models": ["./mine"]}]
    assert not run_bench(load_grid(write(data=data)), out).failed
    weights = load_file(mine / "model.safetensors")
    weights["fc.bias"] += 0.01
    save_file(weights, mine / "model.safetensors", metadata={"format": "pt"})
    for sizes in ([2], [2, 3]):  # nothing left to do, and a cell
        with pytest.raises(RunFolderError, match="the model of digits/mine"):
            run_bench(load_grid(write(data=data, k=sizes)), out)
    assert not BenchFolder(out).errors()
    (mine / "model.safetensors").write_bytes(b"damaged")
    assert run_bench(load_grid(write(data=data)), out).finished, "what cannot be opened is no other model"


def test_two_benches_in_one_folder(grid_of: Make, tmp_path: Path) -> None:
    with (
        BenchFolder(tmp_path / "out").claimed(),
        pytest.raises(RunFolderError, match="no other process works in"),
    ):
        run_bench(grid_of(), tmp_path / "out")
