"""Carrying out a grid: what is finished stays, what failed is told, the rest is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from stakes.bench.board import Board, QuietBoard
from stakes.bench.cells import expand
from stakes.bench.cluster import Cluster, work_on
from stakes.bench.folder import BenchFolder
from stakes.bench.grid import Grid
from stakes.bench.networks import look
from stakes.bench.plugins import Registry
from stakes.bench.pool import work_with
from stakes.bench.schedule import Schedule, Task, plan
from stakes.bench.workshop import Order, Workshop, refuse_other_models


@dataclass(frozen=True)
class Report:
    """How a bench ended.

    Attributes:
        cells: names of all cells.
        finished: those with a record; ``fresh`` of them were carried out just now.
        failed: those without, and why.
    """

    out: Path
    cells: tuple[str, ...]
    finished: tuple[str, ...]
    fresh: int
    failed: dict[str, str]


def run_bench(
    grid: Grid,
    out: Path,
    *,
    registry: Registry | None = None,
    jobs: int = 1,
    cache: Path | None = None,
    retry_failed: bool = False,
    seed: int | None = None,
    board: Board | None = None,
    cluster: Cluster | None = None,
) -> Report:
    """Carry out the cells of a grid that are not finished.

    A cell that fails is written down and the others go on. A call that was interrupted or killed goes on where it
    was when made again. Not forgotten is a result, no failure.

    Args:
        out: the folder of the bench; see `BenchFolder`.
        registry: methods by name, for those from outside.
        jobs: worker processes; 1 works in this process. The threads of torch are divided among them, and their
            number can change the rounding of sums: with ``OMP_NUM_THREADS=1`` the records are the same for
            any ``jobs``.
        cache: folder for probes and predictions; None: the grid's, or ``out/cache``.
        retry_failed: try again what failed before; otherwise it is only told.
        seed: only the cells of that seed.
        board: told how far the work is.
        cluster: carry the cells out on a Ray cluster instead of in processes of this machine; with the same number of
            threads the records are the same.

    Raises:
        ConfigError, DataError: the grid is wrong or its files are missing, before any work is done.
        RunFolderError: another bench works in ``out``, or finished cells of other models are there.
        OutputError: the disk is full or not writable.
        KeyboardInterrupt: interrupted, after the running cells saved their state.
    """
    registry, board = registry or Registry(), board or QuietBoard()
    blind = expand(grid, registry, seed=seed)
    grid.check_places()
    unnormalised = look(grid, blind).unnormalised
    cells = expand(grid, registry, seed=seed, unnormalised=unnormalised)
    folder = BenchFolder(out)
    places = cache or (Path(grid.locate(grid.cache)) if grid.cache else out / "cache")
    with folder.claimed():
        refuse_other_models(grid, cells, folder)
        for cell in cells:
            if folder.finished(cell.id) and not grid.keep_models:
                folder.tidy(cell.id)
        finished = {cell.id for cell in cells if folder.finished(cell.id)}
        skipped = {} if retry_failed else {cell.id: e for cell in cells if (e := folder.error(cell.id))}
        todo = [cell.id for cell in cells if cell.id not in finished and cell.id not in skipped]
        # Preparations look at all seeds' cells of the grid, so that a part of it makes the same.
        whole = cells if seed is None else expand(grid, registry, unnormalised=unnormalised)
        schedule = Schedule(plan(whole, todo))
        order = Order(grid, out.resolve(), places.resolve(), registry.files, tuple(todo), unnormalised)
        with board.showing(cells, folder, todo, skipped, max(1, jobs)):
            if cluster is not None and todo:
                work_on(order, schedule, board, cluster=cluster, jobs=max(1, min(jobs, len(todo))))
            elif jobs <= 1 or len(todo) <= 1:
                _work_here(Workshop(order), schedule, board)
            else:
                threads = max(1, torch.get_num_threads() // jobs)
                work_with(order, schedule, board, jobs=min(jobs, len(todo)), threads=threads)
        done = tuple(cell.id for cell in cells if folder.finished(cell.id))
        failed = {cell.id: e for cell in cells if (e := folder.error(cell.id))}
    return Report(out, tuple(cell.id for cell in cells), done, len(set(done) - finished), failed)


def _work_here(workshop: Workshop, schedule: Schedule, board: Board) -> None:
    """Task by task in this process."""
    while (task := schedule.next()) is not None:
        board.started(task)
        error = workshop.attempt(task, _reporting(board, task))
        schedule.end(task)
        board.ended(task, error)


def _reporting(board: Board, task: Task) -> Callable[..., None]:
    def report(phase: str, done: int, total: int, **figures: float) -> None:
        board.progress(task, phase, done, total)

    return report
