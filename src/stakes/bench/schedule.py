"""What is to be done, in which order, and what waits for what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stakes.bench.cells import Cell

Kind = Literal["before", "probes", "cell"]


@dataclass(frozen=True)
class Task:
    """A piece of work: a cell, or what many cells share.

    Attributes:
        name: of a cell, its id.
        cells: the cells that it serves.
        needs: names of tasks that come first.
    """

    name: str
    kind: Kind
    cells: tuple[str, ...]
    needs: frozenset[str] = frozenset()


def plan(cells: Sequence[Cell], todo: Iterable[str]) -> list[Task]:
    """The tasks of the cells still to be done.

    The original model's answers, and the probes of the largest k, come before the cells that use them. So each
    is made once and in the same batches, whatever the number of workers and the order of cells: in other batches
    it would round otherwise.

    Args:
        cells: all cells of the grid.
        todo: names of those to be carried out.
    """
    wanted, tasks, before = set(todo), dict[str, Task](), dict[str, str]()
    for cell in cells:
        if cell.id not in wanted:
            continue
        needs = set()
        name = f"before of {cell.problem}, seed {cell.run.seed}"
        if name not in tasks:
            served = tuple(
                one.id for one in cells if (one.problem, one.run.seed) == (cell.problem, cell.run.seed)
            )
            # One after the other: another seed has the same images, only split otherwise.
            earlier = frozenset({before[cell.problem]} if cell.problem in before else ())
            tasks[name] = Task(name, "before", served, earlier)
            before[cell.problem] = name
        needs.add(name)
        if cell.probes_key is not None:
            name = f"probes {cell.probes_key} of {cell.problem}, seed {cell.run.seed}"
            if name not in tasks:
                served = tuple(one.id for one in cells if one.probes_key == cell.probes_key)
                tasks[name] = Task(name, "probes", served)
            needs.add(name)
        tasks[cell.id] = Task(cell.id, "cell", (cell.id,), frozenset(needs))
    return list(tasks.values())


@dataclass
class Schedule:
    """Hands out tasks whose needs are met, in order."""

    tasks: list[Task]
    running: dict[str, Task] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def next(self) -> Task | None:
        """The next task, now running; None where all that is left waits for what runs, or nothing is left."""
        for at, task in enumerate(self.tasks):
            if task.needs <= self.done:
                self.running[task.name] = self.tasks.pop(at)
                return task
        return None

    def end(self, task: Task) -> None:
        """A task is over, well or not: what waits for it may start, since cells can do the shared work too."""
        del self.running[task.name]
        self.done.add(task.name)

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return not self.tasks and not self.running
