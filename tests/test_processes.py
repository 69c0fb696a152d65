"""Two processes with gloo on the CPU do what one does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import processes_job
import tinydigits
from stakes import cli_processes
from stakes.errors import ConfigError
from stakes.launcher import launched
from stakes.processes import Processes, check_precision, current, spread, spreading, start
from stakes.records import Record
from stakes.runs import RunFolder
from stakes.team_folder import TeamFolder, run_folder

TOLERANCE = 1e-5
"""Between one process and two: largest difference of a weight, and of a loss. docs/scale.md states it."""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one process, which is this one."""
    out = tmp_path_factory.mktemp("one")
    processes_job.put_down(out)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (out / "process.json").write_text(json.dumps(processes_job.together(out)))
    finally:
        torch.set_num_threads(threads)
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], str]:
    """The same by two processes: their folder, what each of them says, and what was printed."""
    out = tmp_path_factory.mktemp("two")
    processes_job.put_down(out)
    tests = Path(__file__).parent
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(tests / "processes_job.py"), str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    said = [out / "process0.json", out / "process1.json"]
    assert all(path.is_file() for path in said), done.stderr
    return out, [json.loads(path.read_text()) for path in said], done.stdout


def furthest(one: Path, two: Path) -> float:
    """The largest difference between two models' weights and statistics."""
    first, second = (load_file(path / "model.safetensors") for path in (one, two))
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def furthest_loss(first: list[dict[str, float]], second: list[dict[str, float]]) -> float:
    assert [row.keys() for row in first] == [row.keys() for row in second]
    return max(abs(row[name] - other[name]) for row, other in zip(first, second, strict=True) for name in row)


@pytest.mark.parametrize("name", processes_job.METHODS)
def test_two_processes_equal_one(one: Path, two: tuple[Path, list[dict[str, Any]], str], name: str) -> None:
    folder, said, _ = two
    alone = json.loads((one / "process.json").read_text())[name]
    assert furthest(one / name, folder / name) < TOLERANCE
    assert furthest(one / name, folder / name) < 0.1 * moved(one / name), "far less than the steps themselves"
    both = said[0][name]
    assert furthest_loss(both["history"], alone["history"]) < TOLERANCE
    assert both["costs"] == alone["costs"], "counts are those of one process"
    records = [Record.load(path / name / "record.json") for path in (one, folder)]
    assert records[0].before == records[1].before
    assert records[0].after == records[1].after
    assert records[0].hashes.probes == records[1].hashes.probes


def moved(run: Path) -> float:
    """How far the unlearning went from the original."""
    now, origin = load_file(run / "model.safetensors"), tinydigits.digits_model("resnet10").exported_state()
    return max(float((now[name] - value).abs().max()) for name, value in origin.items())


def test_all_processes_hold_the_same_model(two: tuple[Path, list[dict[str, Any]], str]) -> None:
    _, (first, second), _ = two
    assert {key: value for key, value in first.items() if key != "sum"} == {
        key: value for key, value in second.items() if key != "sum"
    }
    assert first["sum"] == second["sum"] == 1 + 2
    assert first["gathered"] == [0, 1, 2, 3, 4]


def test_probes_are_the_same_bytes(one: Path, two: tuple[Path, list[dict[str, Any]], str]) -> None:
    made = [
        {str(file.relative_to(out)): file.read_bytes() for file in out.glob("cache/probes/*/*.safetensors")}
        for out in (one, two[0])
    ]
    assert made[0] == made[1]
    assert len(made[0]) == 5 + 1, "one file for each image, and a batch of inverted ones"


def test_statistics_of_half_a_batch_would_be_noticed(
    one: Path, two: tuple[Path, list[dict[str, Any]], str]
) -> None:
    """The negative control: BatchNorm that looks at its own share alone is another method."""
    assert furthest(one / "structguard", two[0] / "unsynchronised") > 10 * TOLERANCE


def test_every_image_is_measured_once(two: tuple[Path, list[dict[str, Any]], str]) -> None:
    from stakes.api import evaluate

    alone = evaluate(*processes_job.problem(two[0]), **processes_job.RUN)
    assert two[1][0]["figures"] == alone.model_dump()
    assert (alone.test_images, alone.retain_images, alone.forget_images) == (60, 100, 5)


def test_a_signal_to_one_stops_all_and_resumes_to_the_same(
    two: tuple[Path, list[dict[str, Any]], str],
) -> None:
    _, (said, _), _ = two
    assert said["kept"]
    assert said["resumed"]["model"] == said["structguard"]["model"]
    assert said["resumed"]["history"] == said["structguard"]["history"]


def test_what_one_refuses_all_refuse(two: tuple[Path, list[dict[str, Any]], str]) -> None:
    _, said, _ = two
    assert all("another request" in one["refused"] for one in said)


def test_dropout_draws_apart(two: tuple[Path, list[dict[str, Any]], str]) -> None:
    assert two[1][0]["dropout"] == [True, True]


def test_the_command_line_speaks_once(two: tuple[Path, list[dict[str, Any]], str]) -> None:
    folder, _, printed = two
    record = json.loads(printed)  # a second voice would make it two documents
    assert record == json.loads((folder / "cli" / "record.json").read_text())
    assert (folder / "cli" / "report.html").is_file()


def by_hand(words: list[str], port: str) -> list[tuple[int, str, str]]:
    """Two processes with what Open MPI tells each of them, for machines without MPI."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "stakes", *words],
            env=os.environ
            | {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(number), "OMP_NUM_THREADS": "1"}
            | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": str(number)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=150) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_processes_of_mpi_work_together(
    one: Path, two: tuple[Path, list[dict[str, Any]], str], tmp_path: Path
) -> None:
    first, second = by_hand(processes_job.words(one, tmp_path / "run"), free_port())
    assert first[0] == second[0], (first, second)
    record = json.loads(first[1])
    assert not second[1], "one of them speaks"
    assert furthest(tmp_path / "run", two[0] / "cli") < TOLERANCE
    assert record["after"] == json.loads(two[2])["after"]


@pytest.mark.skipif(
    not shutil.which("mpirun"), reason="accelerate launch starts CPU processes by MPI: no mpirun"
)
def test_accelerate_launches_processes(
    one: Path, two: tuple[Path, list[dict[str, Any]], str], tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=2\n")
    launch = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--main_process_port", free_port(), "--mpirun_hostfile", str(hosts)]
    done = subprocess.run(
        [*launch, "-m", "stakes", *processes_job.words(one, tmp_path / "run")],
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert (tmp_path / "run" / "record.json").is_file(), done.stderr
    assert furthest(tmp_path / "run", two[0] / "cli") < TOLERANCE


def test_alone_everything_is_as_it_was(tmp_path: Path) -> None:
    alone = Processes()
    rows = torch.arange(3)
    assert alone.gather(rows, 3) is rows
    assert alone.reduce(rows) is rows
    assert [alone.agree(answer) for answer in (True, False)] == [True, False]
    assert alone.share(7) == slice(0, 7)
    assert launched() == 1
    with spread():
        assert spreading() is None
    assert type(run_folder(tmp_path)) is RunFolder
    assert start("cpu") == current() == alone


def test_shares_cover_every_row_once() -> None:
    for total in range(12):
        for count in range(1, 6):
            rows = [i for at in range(count) for i in range(total)[Processes(at, count).share(total)]]
            assert rows == list(range(total))


def test_a_team_folder_does_all_that_a_run_folder_does() -> None:
    public = {name for name, value in vars(RunFolder).items() if callable(value) and not name.startswith("_")}
    assert public == {name for name in vars(TeamFolder) if not name.startswith("_")}


def test_a_launcher_may_not_say_another_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    check_precision("bf16")
    with pytest.raises(ConfigError, match="--precision bf16"):
        check_precision("fp32")


def test_commands_that_take_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["stakes", "pretrain"])
    with pytest.raises(ConfigError, match="one process"), cli_processes.one_voice():
        pass
    with pytest.raises(ConfigError, match="mps"):
        start("mps")


def test_the_package_can_be_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    monkeypatch.setattr(sys, "argv", ["stakes", "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("stakes", run_name="__main__")
    assert left.value.code == 0
    assert "unlearn" in capsys.readouterr().out
