"""Two processes on one folder: the second is refused, whatever the first one's end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import faultkit
import pytest

from stakes.errors import OutputError, RunFolderError
from stakes.locks import alone
from stakes.runs import RunFolder

HOLDER = """
import sys, time
from pathlib import Path
from stakes.locks import alone
with alone(Path(sys.argv[1]), what="it", fix=""):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(lock: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    other = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


def test_the_second_process_is_refused_until_the_first_has_died(tmp_path):
    faultkit.run(tmp_path)
    (tmp_path / "run" / "record.json").unlink()
    other = hold(tmp_path / "run" / "state" / "lock")
    try:
        before = faultkit.contents(tmp_path / "run")
        with pytest.raises(
            RunFolderError, match=r"run: expected a folder that no other process works in.*--out"
        ):
            faultkit.run(tmp_path)
        assert faultkit.contents(tmp_path / "run") == before, "it touched nothing"
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
    assert faultkit.run(tmp_path).record.steps == 4, "a lock file that is left behind locks nothing"


def test_a_finished_run_is_read_while_another_process_holds_it(tmp_path):
    first = faultkit.run(tmp_path)
    with RunFolder(tmp_path / "run").alone():
        assert faultkit.run(tmp_path).record == first.record


def test_two_threads_exclude_each_other(tmp_path):
    refused: list[BaseException] = []

    def progress(phase: str, done: int, total: int, **figures: float) -> None:
        if phase == "unlearn" and done == 2:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    def second() -> None:
        try:
            faultkit.run(tmp_path)
        except RunFolderError as error:
            refused.append(error)

    faultkit.run(tmp_path, progress=progress)
    assert len(refused) == 1


def test_nothing_is_left_in_a_finished_folder(tmp_path):
    faultkit.run(tmp_path)
    assert not (tmp_path / "run" / "state").exists()


def test_the_lock_is_given_back_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone(tmp_path / "lock", what="it", fix=""):
            raise ZeroDivisionError


def test_waits_as_long_as_it_is_told(tmp_path):
    def release() -> None:
        time.sleep(0.2)
        held.__exit__(None, None, None)

    held = alone(tmp_path / "lock", what="it", fix="")
    held.__enter__()
    thread = threading.Thread(target=release)
    thread.start()
    with alone(tmp_path / "lock", what="it", fix="", wait=60):
        pass
    thread.join()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(OutputError, match="cannot lock it"),
        alone(tmp_path / "file" / "lock", what="it", fix=""),
    ):
        pass


def test_what_a_killed_write_left_is_swept_up(tmp_path):
    faultkit.run(tmp_path)
    (tmp_path / "run" / "record.json").unlink()
    for name in (".model.safetensors.ab12_xyz", "state/.job.pt.00000000"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "half").write_bytes(b"x")
    (tmp_path / "run" / ".mine").mkdir()
    faultkit.run(tmp_path)
    assert sorted(path.name for path in (tmp_path / "run").glob(".*")) == [".mine"]


def test_in_a_shared_cache_only_what_is_old_is_swept_up(tmp_path):
    faultkit.run(tmp_path)
    (probes,) = (tmp_path / "cache" / "probes").iterdir()
    next(probes.iterdir()).unlink()
    for name, age in ((".a.safetensors.00000000", 4000), (".b.safetensors.00000000", 10)):
        (probes / name).mkdir()
        os.utime(probes / name, (time.time() - age,) * 2)
    faultkit.run(tmp_path, out=tmp_path / "other")
    assert [path.name for path in probes.glob(".*")] == [".b.safetensors.00000000"]
