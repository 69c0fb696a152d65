"""Carrying requests out where something goes wrong: stopped, full disk, damaged states, wrong calls."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ledgerkit import (
    ROWS,
    Amnesiac,
    Solve,
    Stop,
    ask,
    asked_and_done,
    carry_out,
    interrupted,
    kinds,
    new_ledger,
    solve,
    source,
)

from stakes.errors import ConfigError, DataError, OutputError, RunFolderError
from stakes.ledger import Ledger, LedgerError, add_request, verify_ledger
from stakes.ledger.states import ModelStates


def test_a_second_process_is_refused_but_may_ask(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    with ledger.claimed():
        with pytest.raises(RunFolderError, match=r"one at work.*Requests can be added meanwhile"):
            carry_out(ledger)
        assert ask(ledger, ROWS[1]).number == 2
    assert carry_out(ledger).done


def test_a_request_that_arrives_during_a_run_waits(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])

    def arrives(phase: str, done: int, total: int, **_: float) -> None:
        if phase == "evaluate before" and done == 0:
            ask(ledger, ROWS[1])

    report = carry_out(ledger, progress=arrives)
    assert [batch.requests for batch in report.batches] == [(1,)]
    view = ledger.view()
    assert [request.status for request in view.requests.values()] == ["done", "pending"]
    assert view.attempts[1].started.body.known == 1
    assert carry_out(ledger).done


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_stopped_at_every_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    """Whether an event was written or not when the plug is pulled, the same calls lead to the same ledger."""
    uncut = new_ledger(tmp_path / "uncut")
    template = new_ledger(tmp_path / "template")
    for one in (uncut, template):
        for rows in ROWS[:2]:
            ask(one, rows)
    carry_out(uncut, solve(Amnesiac))
    wanted = [(event.body.kind, event.seq) for event in uncut.store.events()]
    cut = Ledger(tmp_path / "cut", factory=template.factory)
    shutil.copytree(template.path, cut.path)
    store = type(cut.store)
    append = store.append

    def pulled(self: Any, *words: Any) -> Any:
        if after:
            append(self, *words)
        raise Stop

    for _ in range(len(wanted) - 3):
        with monkeypatch.context() as patch:
            if after:
                patch.setattr(store, "append", pulled)
            else:
                left = [1]

                def once(self: Any, *words: Any, left: list[int] = left) -> Any:
                    if not left:
                        raise Stop
                    left.pop()
                    return append(self, *words)

                patch.setattr(store, "append", once)
            try:
                carry_out(cut, solve(Amnesiac))
            except Stop:
                continue
            break
    assert [(event.body.kind, event.seq) for event in cut.store.events()] == wanted
    assert cut.view().current == uncut.view().current
    assert cut.view().open_batch is None
    assert verify_ledger(cut, data=source()).ok


def test_other_options_do_not_resume(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    interrupted(ledger)
    assert ledger.view().requests[1].status == "at work"
    with pytest.raises(
        LedgerError, match=r"at work with other options.*'solve' there, 'amnesiac' now.*--abandon"
    ):
        carry_out(ledger, solve(Amnesiac))
    with pytest.raises(LedgerError, match="seed"):
        carry_out(ledger, seed=1)
    report = carry_out(ledger, eval_batch=7)
    assert report.batches[0].runs == (1,)
    assert report.done


def test_an_interrupted_batch_can_be_abandoned(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    interrupted(ledger)
    report = carry_out(ledger, solve(Amnesiac), abandon=True)
    assert report.batches[0].runs == (2,)
    assert report.done
    assert [batch.outcome for batch in ledger.view().batches] == ["abandoned", "done"]
    assert not (ledger.run(1) / "state").exists()


def test_full_disk_while_a_state_is_kept(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(ledger, ROWS[0])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("stakes.ledger.states._link", full)
        with pytest.raises(OutputError, match="full disk"):
            carry_out(ledger)
    assert kinds(ledger)[-1] == "started"
    assert ledger.states.present() == [ledger.view().current], "nothing half is left"
    assert carry_out(ledger).done
    assert len(ledger.view().attempts) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_state_is_never_used(ledger: Ledger, name: str) -> None:
    asked_and_done(ledger)
    ask(ledger, (9,))
    view = ledger.view()
    path = ledger.states.folder(view.current) / name
    content = path.read_bytes()
    if name == "config.json":  # the classes in another order: every image would seem forgotten
        path.write_bytes(content.replace(b"ant", b"xxx").replace(b"bee", b"ant").replace(b"xxx", b"bee"))
    else:
        path.write_bytes(content[:-8] + bytes(8))
    for call in (lambda: carry_out(ledger), lambda: verify_ledger(ledger, data=source())):
        with pytest.raises(LedgerError, match=r"models/\w+ is damaged"):
            call()
    path.write_bytes(content)
    shutil.move(ledger.states.folder(view.current), ledger.path / "elsewhere")
    with pytest.raises(LedgerError, match=r"is not in .*models"):
        carry_out(ledger, abandon=True)


def test_links_are_not_needed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    asked_and_done(ledger)


def test_wrong_calls(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="repair rounds"):
        carry_out(ledger, repair_rounds=-1)
    with pytest.raises(ConfigError, match="both ways"):
        carry_out(ledger, settings={"lr": 1.0})
    with pytest.raises(LedgerError, match="new or empty folder"):
        new_ledger(ledger.path)
    with pytest.raises(LedgerError, match="no ledger"):
        carry_out(Ledger(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="--data"):
        add_request(ledger, "random:3")
    assert isinstance(ledger.states, ModelStates)
    assert solve(Solve).settings.max_steps == 1
