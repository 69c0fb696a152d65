"""kill -9 at random moments: the same call goes on, and ends where an undisturbed one ends."""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from pathlib import Path

import pytest
from doubles import Linear
from ledgerkit import ROWS, Amnesiac, ask, carry_out, new_ledger, solve, source

from stakes.files import digest
from stakes.ledger import Ledger, verify_ledger
from stakes.records import Record

KILLS = 6


def work(path: str, begun: str) -> None:
    """What the process that is killed does."""
    Path(begun).touch()
    carry_out(Ledger(Path(path), factory=Linear), solve(Amnesiac))


def outcome(ledger: Ledger) -> tuple[object, ...]:
    """What must not depend on kills."""
    view = ledger.view()
    records = [Record.load(ledger.run(number) / "record.json") for number in view.attempts]
    # What was asked names the folder of the ledger.
    runs = [record.model_copy(update={"request": {}}).digest() for record in records]
    weights = [digest((ledger.run(n) / "model.safetensors").read_bytes()) for n in view.attempts]
    return view.current, [request.status for request in view.requests.values()], runs, weights


@pytest.mark.skipif(sys.platform == "win32", reason="no fork server")
def test_killed_at_random_moments(tmp_path: Path) -> None:
    ledgers = [new_ledger(tmp_path / name) for name in ("uncut", "cut")]
    for ledger in ledgers:
        for rows in ROWS:
            ask(ledger, rows)
    began = time.monotonic()
    carry_out(ledgers[0], solve(Amnesiac))
    whole = time.monotonic() - began
    # One server imports everything once; its children start in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stakes.api", "stakes.ledger", "doubles", "ledgerkit"])
    draws = random.Random(0)
    killed = 0
    for number in range(KILLS):
        begun = tmp_path / f"begun {number}"
        child = context.Process(target=work, args=(str(ledgers[1].path), str(begun)))
        child.start()
        while not begun.exists() and child.is_alive():
            time.sleep(0.01)
        # A tenth at most: on a machine that was busy before and is not now, the work takes a fraction of that.
        time.sleep(draws.uniform(0, whole / 10))
        child.kill()
        child.join()
        killed += child.exitcode == -9
        ledgers[1].view()  # whole at any moment
        child.close()
    assert killed >= KILLS // 2
    carry_out(ledgers[1], solve(Amnesiac))
    assert outcome(ledgers[1]) == outcome(ledgers[0])
    assert verify_ledger(ledgers[1], data=source()).ok
    assert not [path for path in ledgers[1].states.path.iterdir() if path.name.startswith(".")]
