"""Trials in worker processes: one of a row at a time, since the next one is suggested by those before."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stakes.bench.plugins import load_plugins
from stakes.bench.pool import end_with_parent
from stakes.errors import StakesError
from stakes.progress import Progress
from stakes.tune.plan import TunePlan
from stakes.tune.record import Trial
from stakes.tune.search import Search
from stakes.tune.trials import Trials


@dataclass(frozen=True)
class Order:
    """What a worker has to know; it travels between processes."""

    plan: TunePlan
    plugins: tuple[Path, ...]
    cache: Path


def carry_out_with(order: Order, search: Search, *, jobs: int, progress: Progress) -> None:
    """Carry out what is left of a search with ``jobs`` processes.

    Raises:
        StakesError: a worker process died, or what a trial raised.
        KeyboardInterrupt: interrupted; the trials that were under way are lost.
    """
    import torch

    threads = max(1, torch.get_num_threads() // jobs)
    with _pool(order, jobs, threads) as pool:
        under_way: dict[Future[Trial], str] = {}
        while rows := search.open_rows():
            for row in rows:
                if row not in under_way.values():
                    under_way[pool.submit(_carry_out, row, search.suggestion(row))] = row
            ended, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                try:
                    trial = future.result()
                except BrokenProcessPool as lost:
                    raise StakesError(
                        "a worker process of the search died",
                        got="no word from it; out of memory?",
                        fix="Make the same call again, with fewer --jobs: finished trials are kept.",
                    ) from lost
                search.keep(under_way.pop(future), trial)
                progress("trials", search.done, search.whole)


@contextmanager
def _pool(order: Order, jobs: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that are gone at the end, however it comes."""
    others = set(multiprocessing.active_children())
    # Spawned, not forked: threads and CUDA do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(order, threads))
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        # The pool's own thread joins them. Joined from here as well, the slower of two may take a dead one for alive.
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


_trials: Trials | None = None  # what a worker knows between two trials


def _begin(order: Order, threads: int) -> None:
    """A worker's first act."""
    global _trials
    import torch

    # Ctrl-C in a terminal goes to all processes; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _trials = Trials(order.plan, load_plugins(order.plugins), order.cache)


def _carry_out(row: str, settings: dict[str, Any]) -> Trial:
    if _trials is None:
        raise StakesError("a worker has not begun")
    return _trials.carry_out(row, settings)
