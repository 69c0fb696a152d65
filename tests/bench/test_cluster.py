"""A real Ray cluster of this machine: the same records as without it, whatever dies."""

from __future__ import annotations

import collections
import json
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchkit import PLUGIN, Make, digests, digits_grid

from stakes.bench.cluster import Cluster, _joined
from stakes.bench.engine import run_bench
from stakes.bench.folder import BenchFolder
from stakes.bench.grid import Grid
from stakes.bench.plugins import Registry, load_plugins
from stakes.errors import ConfigError, MissingExtraError

TATTLE = """

class Tattle(Slow):
    name = "tattle"

    def run(self, job):
        log, who = Path(os.environ["TATTLE"]), f"{len(job.forget)}"
        with log.open("a") as file:
            print("begins", who, os.getpid(), job.step, file=file)
        yield from super().run(job)
        with log.open("a") as file:
            print("ends", who, os.getpid(), job.step, file=file)


class Deadly(Slow):
    name = "deadly"

    def run(self, job):
        os._exit(9)
        yield {}
"""
MIXED: dict[str, Any] = {
    "methods": [
        "before",
        {"method": "neggrad", "settings": {"max_steps": 3}},
        {"method": "tattle", "settings": {"max_steps": 25}},
    ],
    "k": [2, 3],
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    path = tmp_path_factory.mktemp("plugin") / "tattle.py"
    path.write_text(PLUGIN + TATTLE)
    return load_plugins([path])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the tattling method says what it does; workers inherit the variable."""
    with pytest.MonkeyPatch.context() as patched:
        path = tmp_path_factory.mktemp("log") / "tattle.log"
        patched.setenv("TATTLE", str(path))
        yield path


@pytest.fixture(scope="module")
def cluster(log: Path) -> Iterator[Cluster]:
    """Two CPUs of this machine, for all tests here."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    wanted = Cluster(retries=1)
    with _joined(wanted, jobs=2):
        yield wanted


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, home: Path, registry: Registry, log: Path
) -> tuple[dict[str, str], dict[str, bytes]]:
    """Records and histories of the local engine."""
    out = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    report = run_bench(Grid.model_validate(digits_grid(home, **MIXED)), out, registry=registry)
    torch.set_num_threads(threads)
    assert not report.failed
    log.unlink()
    return digests(out), histories(out)


def histories(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "cells").glob("*.history.jsonl")}


def when(ready: Callable[[], bool], do: Callable[[], None]) -> threading.Thread:
    """Do something once, from a thread, when the bench is where the test wants it."""

    def watch() -> None:
        end = time.monotonic() + 120
        while not ready():
            if time.monotonic() > end:
                return
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_killed_worker_loses_nothing_and_nothing_runs_twice(
    cluster: Cluster,
    grid_of: Make,
    registry: Registry,
    log: Path,
    whole: tuple[dict[str, str], dict[str, bytes]],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    killed: list[int] = []

    def kill() -> None:
        killed.append(int(log.read_text().split()[2]))
        os.kill(killed[0], signal.SIGKILL)

    watch = when(lambda: any(out.glob("work/tattle_*/state/job.pt")), kill)
    report = run_bench(grid_of(**MIXED), out, registry=registry, jobs=2, cluster=cluster)
    watch.join()
    assert killed
    assert not report.failed
    assert (digests(out), histories(out)) == whole, "the same as the local engine"
    said = [line.split() for line in log.read_text().splitlines()]
    begun = collections.Counter(k for word, k, *_ in said if word == "begins")
    again = [line for line in said if line[0] == "begins" and begun[line[1]] == 2]
    assert sorted(begun.values()) == [1, 2], "one cell was begun again, and no other"
    assert int(again[0][2]) == killed[0] != int(again[1][2])
    assert int(again[1][3]) > 0, "it went on from its last saved state"
    assert collections.Counter(k for word, k, *_ in said if word == "ends") == {"2": 1, "3": 1}
    kept = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert run_bench(grid_of(**MIXED), out, registry=registry, cluster=cluster).fresh == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == kept


def test_interrupted_workers_save_their_state(
    cluster: Cluster,
    grid_of: Make,
    registry: Registry,
    whole: tuple[dict[str, str], dict[str, bytes]],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    watch = when(
        lambda: any(out.glob("work/tattle_*/state/job.pt")), lambda: os.kill(os.getpid(), signal.SIGINT)
    )
    with pytest.raises(KeyboardInterrupt):
        run_bench(grid_of(**MIXED), out, registry=registry, jobs=2, cluster=cluster)
    watch.join()
    assert any(out.glob("work/tattle_*/state/job.pt")), "the running cell's state is kept"
    assert len(BenchFolder(out).records()) < len(whole[0])
    run_bench(grid_of(**MIXED), out, registry=registry, jobs=2, cluster=cluster)
    assert (digests(out), histories(out)) == whole


def test_a_cell_that_always_kills_its_worker_fails_alone(
    cluster: Cluster, grid_of: Make, registry: Registry, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = run_bench(grid_of(methods=["deadly", "before"]), out, registry=registry, cluster=cluster)
    assert [name.split("_")[0] for name in report.finished] == ["before"]
    (why,) = report.failed.values()
    assert "its worker died 2 times" in why
    error = json.loads(next((out / "cells").glob("*.error.json")).read_text())
    assert error["error"] == "WorkerLost"


def test_more_than_the_cluster_has(cluster: Cluster, grid_of: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gpus-per-cell"):
        run_bench(grid_of(), tmp_path / "out", cluster=Cluster(gpus=64))
    with pytest.raises(ConfigError, match="CPUs above 0"):
        Cluster(cpus=0)


def test_what_is_started_here_is_for_here_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def init(**options: Any) -> None:
        asked.update(options, usage=os.environ["RAY_USAGE_STATS_ENABLED"])

    fake = types.SimpleNamespace(
        is_initialized=lambda: False, init=init, shutdown=lambda: asked.update(over=1)
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    with _joined(Cluster(cpus=2), jobs=3):
        assert asked["usage"] == "0"
        assert asked["include_dashboard"] is False
        assert asked["_node_ip_address"] == "127.0.0.1"
        assert asked["num_cpus"] == 6
    assert asked["over"]
    with _joined(Cluster("10.0.0.1:6379"), jobs=3):
        assert asked["address"] == "10.0.0.1:6379"


def test_without_ray(grid_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"stakes\[ray\]"):
        run_bench(grid_of(), tmp_path / "out", cluster=Cluster())


def test_an_address_needs_the_engine(stakes_cli: Any, tmp_path: Path) -> None:
    code, _, err = stakes_cli("bench", tmp_path / "grid.yaml", "--address", "auto", "--out", tmp_path / "out")
    assert code == ConfigError.exit_code
    assert "--engine ray" in err
