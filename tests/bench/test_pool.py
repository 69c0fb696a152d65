"""Workers of a bench that is interrupted: none is waited for that waits itself."""

from __future__ import annotations

import multiprocessing
import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from stakes.bench.pool import _Crew, _Worker


def test_a_worker_that_ctrl_c_reached_too_late_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its last safe point it ends its task as if nothing had come, and waits for the next."""
    ended: list[Any] = []
    told: list[Any] = []
    schedule = SimpleNamespace(end=ended.append, tasks=[])
    board = SimpleNamespace(ended=lambda task, problem: None)
    crew = _Crew(None, schedule, board, threads=1)  # type: ignore[arg-type]
    ours, theirs = multiprocessing.Pipe()
    process = SimpleNamespace(pid=1, join=lambda: None)
    crew.workers.append(_Worker(process, ours, task="cell", ready=True))  # type: ignore[arg-type]
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append(pid))

    def late() -> None:
        theirs.send(("ended", None))
        if theirs.poll(20):
            told.append(theirs.recv())
        theirs.close()

    worker = threading.Thread(target=late)
    worker.start()
    crew.dismiss()
    worker.join()
    assert (signals, ended, told) == ([1], ["cell"], [None])
    assert not crew.workers
