"""Where the work of a bench is done, in this process or in a worker: models and data opened once, cell by cell."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stakes.api import unlearn
from stakes.bench.cells import Cell, expand
from stakes.bench.folder import BenchFolder, problem_of
from stakes.bench.grid import Grid
from stakes.bench.opening import Opening
from stakes.bench.plugins import load_plugins
from stakes.bench.schedule import Task
from stakes.data.forget import ForgetSplit
from stakes.errors import ConfigError, OutputError, RunFolderError, StakesError
from stakes.evaluator import Evaluator
from stakes.inverted_store import build_inverted
from stakes.models.checkpoint import load_checkpoint
from stakes.models.classifier import Classifier
from stakes.probe_store import ProbeStore
from stakes.progress import Progress, silent
from stakes.runtime import repeatable, resolve_device


@dataclass(frozen=True)
class Order:
    """All that a worker needs to know; small, and made of plain things, since it travels between processes."""

    grid: Grid
    out: Path
    cache: Path
    plugins: tuple[Path, ...]
    cells: tuple[str, ...]
    unnormalised: frozenset[str] = frozenset()


class Workshop:
    """Carries out tasks."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.folder = BenchFolder(order.out)
        cells = expand(order.grid, load_plugins(order.plugins), unnormalised=order.unnormalised)
        self.cells = {cell.id: cell for cell in cells}
        if not self.cells.keys() >= set(order.cells):
            raise ConfigError(
                "the cells of this grid are others now",
                expected="the code that the bench was started with",
                got="a changed one",
                fix="Make the same call again.",
            )
        self.opening = Opening(order.grid, order.cache)
        self._known: dict[str, tuple[str, str | None]] = {}

    def attempt(self, task: Task, progress: Progress = silent) -> str | None:
        """Carry out a task; None, or why it failed.

        A failure of a cell is written down. One of a preparation is left to the cells, which do that work
        themselves where it is not there.

        Raises:
            OutputError: nothing can be written, so nothing can go on.
            KeyboardInterrupt: interrupted; what was done is kept.
        """
        try:
            self._carry_out(task, progress)
        except OutputError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a cell raises, the others go on
            message = f"{type(error).__name__}: {error}"
            if task.kind == "cell":
                trace = "" if isinstance(error, StakesError) else traceback.format_exc()
                problem = self.cells[task.name].problem
                self.folder.fail(task.name, type(error).__name__, str(error), trace, problem)
            return message
        return None

    def _carry_out(self, task: Task, progress: Progress) -> None:
        cells = [self.cells[name] for name in task.cells]
        device = resolve_device(cells[0].run.device)
        with repeatable(device):
            if task.kind == "cell":
                self._unlearn(cells[0], progress)
            elif task.kind == "before":
                self._measure(cells, device, progress)
            else:
                self._probe(cells, device, progress)

    def _unlearn(self, cell: Cell, progress: Progress) -> None:
        if self.folder.finished(cell.id):
            return
        classifier, split = self.opening.problem(cell)
        self._refuse_changed(cell, classifier, split)
        result = unlearn(
            classifier,
            split,
            anchors=self.opening.anchors(cell, classifier, split),
            method=cell.method,
            preset=cell.preset,
            out=self.folder.work(cell.id),
            cache=self.order.cache,
            request=cell.request,
            progress=progress,
            **cell.run.model_dump(),
        )
        self.folder.finish(cell.id, result.record, keep_model=self.order.grid.keep_models)

    def _measure(self, cells: Sequence[Cell], device: torch.device, progress: Progress) -> None:
        """Put the original model's answers for all images of these cells into the cache."""
        run = cells[0].run
        evaluator = Evaluator(
            run.eval_batch, device, run.seed, run.retain_sample, self.order.cache, progress=progress
        )
        # Whatever k, the images are the same ones, unless the retained ones are a sample: each k has its own.
        by_k = {cell.k: cell for cell in cells}
        for k in sorted(by_k) if run.retain_sample is not None else [max(by_k)]:
            classifier, split = self.opening.problem(by_k[k])
            evaluator.figures(classifier.clone().eval().to(device), split, "evaluate before", cached=True)

    def _probe(self, cells: Sequence[Cell], device: torch.device, progress: Progress) -> None:
        """Make the probes of the largest forget set; those of the smaller ones are part of it.

        Cells with inverted probes come here with one k alone.
        """
        largest = max(cells, key=lambda cell: cell.k)
        classifier, split = self.opening.problem(largest)
        run = largest.run
        settings = largest.method.settings.probes
        original = classifier.clone().eval().requires_grad_(False).to(device)
        common: dict[str, Any] = {
            "seed": run.seed,
            "device": device,
            "precision": run.precision,
            "progress": progress,
        }
        if settings.kind == "inverted":
            build_inverted(self.order.cache, original, split.forget, settings, **common)
            return
        store = ProbeStore(self.order.cache)
        store.build(original, split.forget, settings, chunk=run.probe_chunk, **common)

    def _refuse_changed(self, cell: Cell, classifier: Classifier, split: ForgetSplit) -> None:
        """Cells of one folder share model and data by content, not by path alone."""
        if cell.problem not in self._known:
            for record in self.folder.records().values():
                problem = problem_of(record)
                self._known[problem] = (record.hashes.model_before, record.hashes.test_set)
        test = split.test.fingerprint() if split.test is not None else None
        now = (classifier.fingerprint(), test)
        if self._known.setdefault(cell.problem, now) != now:
            what = "model" if self._known[cell.problem][0] != now[0] else "test split"
            raise _another(what, cell.problem, self.folder)


def refuse_other_models(grid: Grid, cells: Sequence[Cell], folder: BenchFolder) -> None:
    """Make sure that what a bench finished is of the models that its grid leads to now, though nothing be left to do.

    A model that cannot be opened is left to the cells that need it, and so are the data: reading a whole test split
    only to tell of finished cells can take longer than a cell.

    Raises:
        RunFolderError: a model is another one.
    """
    known = {problem_of(record): record.hashes.model_before for record in folder.records().values()}
    for problem, cell in {cell.problem: cell for cell in cells if cell.problem in known}.items():
        try:
            now = load_checkpoint(grid.locate(cell.model.path)).fingerprint()
        except StakesError:
            continue
        if now != known[problem]:
            raise _another("model", problem, folder)


def _another(what: str, problem: str, folder: BenchFolder) -> RunFolderError:
    return RunFolderError(
        f"the {what} of {problem}",
        expected=f"the one that finished cells of {folder.path} were measured on",
        got="another",
        fix="Choose another --out.",
    )
