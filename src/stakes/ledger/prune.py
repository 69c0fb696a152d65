"""Giving up states of the model that nobody needs any more."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from stakes.errors import ConfigError
from stakes.files import removing, sweep
from stakes.ledger.events import Pruned
from stakes.ledger.folder import Ledger
from stakes.ledger.view import Attempt, View


@dataclass(frozen=True)
class PruneReport:
    """Hashes of the states that are left, and of those that went now."""

    kept: tuple[str, ...]
    removed: tuple[str, ...]


def prune_states(ledger: Ledger, keep: int, *, keep_first: bool = False) -> PruneReport:
    """Keep the newest states that were current, and drop every other model: from ``models/`` and from the runs.

    From runs that are over go their snapshots and working states as well, whatever became of the run: weights of steps
    on the way recognise what was to be forgotten.

    Earlier states still recognise what later requests made the model forget, so a deletion is complete only when they
    are gone, here and wherever copies lie. The current state always stays, and so does whatever an interrupted batch
    needs. The event comes first and each folder goes in one step: a process killed on the way leaves no half state,
    and the same call finishes. Records, histories and hashes stay.

    Args:
        keep: how many states to keep, the current one included; at least 1.
        keep_first: keep the first model as well, for ``run_requests(afresh=True)``. It remembers everything.

    Raises:
        ConfigError: fewer than 1.
        RunFolderError: another process is at work on the ledger.
        LedgerError: the ledger is damaged.
        OutputError: a folder cannot be removed.

    Example:
        >>> prune_states(ledger, keep=1).kept  # doctest: +SKIP
        ('3f0c…',)
    """
    if keep < 1:
        raise ConfigError("--keep", expected="1 or more: the current state always stays", got=str(keep))
    with ledger.claimed():
        view = ledger.view()
        needed = _needed(view, keep) | ({view.created.body.model} if keep_first else set())
        kept = [state for state in view.configs if state in needed and state not in view.pruned]
        gone = tuple(sorted(view.configs.keys() - needed - view.pruned))
        if gone:
            ledger.store.append(Pruned, lambda _: Pruned(models=gone))
        for name in ledger.states.present():
            if name not in needed:
                ledger.states.remove(name)
        at_work = view.open_batch.attempts if view.open_batch is not None else []
        for number, attempt in view.attempts.items():
            if attempt not in at_work:
                _clear(ledger.run(number), keep_model=_model(attempt) in needed)
    return PruneReport(tuple(kept), gone)


def _model(attempt: Attempt) -> str | None:
    return attempt.finished.body.model if attempt.finished is not None else None


def _clear(run: Path, *, keep_model: bool) -> None:
    """Drop the weights that a run which is over left in its folder."""
    with removing(f"weights in {run}"):
        sweep(run)
        if not keep_model:
            (run / "model.safetensors").unlink(missing_ok=True)
        for folder in (run / "snapshots", run / "state"):
            if folder.exists():
                shutil.rmtree(folder)


def _needed(view: View, keep: int) -> set[str]:
    needed = set(view.adopted[-keep:]) | {view.current}
    if view.open_batch is not None:
        for attempt in view.open_batch.attempts:
            needed.add(attempt.started.body.base)
            if attempt.finished is not None:
                needed.add(attempt.finished.body.model)
    return needed
