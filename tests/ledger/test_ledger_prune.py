"""Pruning drops whole states, and never one that is needed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ledgerkit import ROWS, Amnesiac, Lame, ask, asked_and_done, carry_out, solve, source

from stakes.errors import ConfigError, OutputError
from stakes.evaluator import Evaluator
from stakes.ledger import Ledger, prune_states, verify_ledger
from stakes.models import load_checkpoint


def weights(ledger: Ledger) -> set[str]:
    """Hashes of all models under the ledger, wherever they lie."""
    found = ledger.path.rglob("model.safetensors")
    return {load_checkpoint(path.parent, factory=ledger.factory).fingerprint() for path in found}


def test_keeps_the_newest(ledger: Ledger) -> None:
    asked_and_done(ledger)
    states = ledger.view().adopted
    assert weights(ledger) == set(states)
    report = prune_states(ledger, keep=2)
    assert set(report.kept) == set(states[-2:]) == weights(ledger)
    assert set(report.removed) == set(states[:2])
    assert prune_states(ledger, keep=2).removed == ()
    assert prune_states(ledger, keep=5).removed == ()
    prune_states(ledger, keep=1)
    assert weights(ledger) == {ledger.view().current}
    assert verify_ledger(ledger, data=source()).ok
    ask(ledger, (9,))
    assert carry_out(ledger).done
    with pytest.raises(ConfigError, match="always stays"):
        prune_states(ledger, keep=0)


def test_candidates_go_whatever_their_age(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    carry_out(ledger, solve(Amnesiac))
    ask(ledger, ROWS[1])
    carry_out(ledger, solve(Amnesiac), repair_rounds=0)
    view = ledger.view()
    assert len(weights(ledger)) == 3
    assert len(prune_states(ledger, keep=9).removed) == 1
    assert weights(ledger) == set(view.adopted)
    carry_out(ledger, solve(Lame))
    prune_states(ledger, keep=1)
    assert weights(ledger) == {view.current}


def test_an_interrupted_batch_keeps_what_it_needs(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    ask(ledger, ROWS[1])

    def stop(phase: str, done: int, total: int, **_: float) -> None:
        if phase == "check" and len(ledger.view().attempts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(ledger, progress=stop)
    prune_states(ledger, keep=1)
    assert len(weights(ledger)) == 2
    assert carry_out(ledger).done


def test_killed_on_the_way_leaves_nothing_half(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_and_done(ledger)
    states = ledger.view().adopted

    def fail(path: Path, **_: object) -> None:
        next(Path(path).iterdir()).unlink()
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fail)
        with pytest.raises(OutputError, match="cannot remove"):
            prune_states(ledger, keep=1)
    visible = {path.name for path in ledger.states.path.iterdir() if not path.name.startswith(".")}
    assert visible == set(states) - {min(set(states[:-1]))}
    assert all(len(list(ledger.states.folder(name).iterdir())) == 2 for name in visible)
    prune_states(ledger, keep=1)
    assert ledger.states.present() == [states[-1]]
    assert weights(ledger) == {states[-1]}


def test_nothing_of_a_run_that_was_given_up_stays(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was killed when its model was written and its record was not: no event says which model it is."""
    ask(ledger, ROWS[0])
    assert carry_out(ledger).done
    ask(ledger, ROWS[1])
    measure = Evaluator.figures

    def stop(self: Evaluator, model: Any, split: Any, phase: str, **more: Any) -> Any:
        if phase == "evaluate after":
            raise KeyboardInterrupt
        return measure(self, model, split, phase, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "figures", stop)
        with pytest.raises(KeyboardInterrupt):
            carry_out(ledger, solve(Amnesiac))
    left = ledger.run(2)
    half = left / ".model.safetensors.abcdefgh"
    half.mkdir()
    prune_states(ledger, keep=1)
    assert (left / "model.safetensors").exists(), "the batch may go on"
    assert carry_out(ledger, abandon=True).done
    prune_states(ledger, keep=1)
    assert not (left / "model.safetensors").exists()
    assert not half.exists()
    assert weights(ledger) == {ledger.view().current}


def test_weights_of_steps_on_the_way_go(ledger: Ledger) -> None:
    for rows in ROWS:
        ask(ledger, rows)
    assert carry_out(ledger, solve(steps=2), milestones=True).done
    assert list(ledger.path.glob("runs/*/snapshots/*"))
    prune_states(ledger, keep=1)
    assert not list(ledger.path.glob("runs/*/snapshots"))
    assert verify_ledger(ledger, data=source()).ok
