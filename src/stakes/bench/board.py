"""What a bench shows while it works: cells done, running, left, failed, and how long it still takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stakes.bench.cells import Cell
from stakes.bench.folder import BenchFolder
from stakes.bench.schedule import Task


class Board:
    """Counts tasks and estimates; what it shows is up to `show` and `tell`."""

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}
        self.left: list[str] = []
        self.done = self.jobs = 0
        self.failed: dict[str, str] = {}
        self.running: dict[str, tuple[float, str]] = {}
        self._seconds: dict[str, list[float]] = {}

    @contextmanager
    def showing(
        self,
        cells: Sequence[Cell],
        folder: BenchFolder,
        todo: Sequence[str],
        failed: Mapping[str, str],
        jobs: int,
    ) -> Iterator[None]:
        """Show the bench inside the block."""
        self.cells = {cell.id: cell for cell in cells}
        self.left, self.failed, self.jobs = list(todo), dict(failed), jobs
        records = {name: record for name, record in folder.records().items() if name in self.cells}
        self.done = len(records)
        for name, record in records.items():
            seconds = sum(phase.seconds for phase in record.phases)
            self._seconds.setdefault(self.cells[name].entry.row, []).append(seconds)
        yield

    def started(self, task: Task) -> None:
        """A task begins."""
        if task.kind == "cell":
            self.left.remove(task.name)
        self.running[task.name] = (time.monotonic(), "")
        self.show()

    def progress(self, task: Task, phase: str, done: int, total: int) -> None:
        """A task goes on."""
        if task.name in self.running:
            self.running[task.name] = (self.running[task.name][0], f"{phase} {done}/{total}")
            self.show()

    def ended(self, task: Task, error: str | None) -> None:
        """A task is over."""
        started, _ = self.running.pop(task.name)
        seconds = time.monotonic() - started
        if task.kind == "cell" and error is None:
            self.done += 1
            self._seconds.setdefault(self.cells[task.name].entry.row, []).append(seconds)
        elif task.kind == "cell":
            self.failed[task.name] = error or ""
        self.tell(f"{task.name}: {'failed: ' + error if error else f'done in {seconds:.1f} s'}")
        self.show()

    def remaining(self) -> float | None:
        """Seconds that the cells left will take, by the mean of their row, or of all; None while nothing is known."""
        known = [seconds for row in self._seconds.values() for seconds in row]
        if not known:
            return None
        overall = statistics.fmean(known)
        means = {row: statistics.fmean(seconds) for row, seconds in self._seconds.items()}
        waiting = [means.get(self.cells[name].entry.row, overall) for name in self.left]
        now = time.monotonic()
        begun = [
            max(0.0, means.get(self.cells[name].entry.row, overall) - (now - started))
            for name, (started, _) in self.running.items()
            if name in self.cells
        ]
        return (sum(waiting) + sum(begun)) / max(1, self.jobs)

    def summary(self) -> str:
        """One line."""
        seconds = self.remaining()
        estimate = "" if seconds is None else f", about {_clock(seconds)} to go"
        running = sum(name in self.cells for name in self.running)
        return (
            f"{self.done} done, {running} running, {len(self.left)} left, {len(self.failed)} failed{estimate}"
        )

    def show(self) -> None:
        """Refresh what is seen."""

    def tell(self, line: str) -> None:
        """Say what happened."""


class QuietBoard(Board):
    """Shows nothing: the default in Python."""


class ConsoleBoard(Board):
    """Lines on stderr; in a terminal also what runs now, below them."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True)
        self._live: Live | None = None

    @contextmanager
    def showing(
        self,
        cells: Sequence[Cell],
        folder: BenchFolder,
        todo: Sequence[str],
        failed: Mapping[str, str],
        jobs: int,
    ) -> Iterator[None]:
        """Show the bench inside the block."""
        with super().showing(cells, folder, todo, failed, jobs):
            self.tell("bench")
            if not self.console.is_terminal:
                yield
                return
            with Live(console=self.console, refresh_per_second=4, transient=True) as self._live:
                yield

    def show(self) -> None:
        """Refresh the lines about what runs."""
        if self._live is not None:
            lines = [f"  {name}  {note}" for name, (_, note) in self.running.items()]
            self._live.update(Text("\n".join([self.summary(), *lines]), overflow="ellipsis"))

    def tell(self, line: str) -> None:
        """A line that stays, with the count."""
        self.console.print(
            f"{line}\n  {self.summary()}", highlight=False, markup=False, emoji=False, soft_wrap=True
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
