"""Where the work of a bench is done, in this process or in a worker: models and data opened once, cell by cell."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stakes.anchors import Anchors, build_anchors
from stakes.anchors.prototypes import visual_prototypes
from stakes.api import unlearn
from stakes.bench.cells import Cell, expand
from stakes.bench.folder import BenchFolder
from stakes.bench.grid import Grid
from stakes.bench.plugins import load_plugins
from stakes.bench.schedule import Task
from stakes.data.forget import ForgetSplit, split_forget
from stakes.data.sources import Source, open_source
from stakes.errors import ConfigError, DataError, OutputError, RunFolderError, StakesError
from stakes.evaluator import Evaluator
from stakes.inverted_store import build_inverted
from stakes.models.checkpoint import load_checkpoint
from stakes.models.classifier import Classifier
from stakes.probe_store import ProbeStore
from stakes.progress import Progress, silent
from stakes.runtime import resolve_device


@dataclass(frozen=True)
class Order:
    """All that a worker needs to know; small, and made of plain things, since it travels between processes."""

    grid: Grid
    out: Path
    cache: Path
    plugins: tuple[Path, ...]
    cells: tuple[str, ...]


@dataclass
class _Opened:
    """A model and its data, of the problem worked on last."""

    problem: str
    classifier: Classifier
    source: Source


class Workshop:
    """Carries out tasks. Models and data of one problem at a time are held in memory."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.folder = BenchFolder(order.out)
        self.cells = {cell.id: cell for cell in expand(order.grid, load_plugins(order.plugins))}
        if not self.cells.keys() >= set(order.cells):
            raise ConfigError(
                "the cells of this grid are others now",
                expected="the code that the bench was started with",
                got="a changed one",
                fix="Make the same call again.",
            )
        self._opened: _Opened | None = None
        self._anchors: dict[str, Anchors] = {}
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
                self.folder.fail(task.name, type(error).__name__, str(error), trace)
            return message
        return None

    def _carry_out(self, task: Task, progress: Progress) -> None:
        cells = [self.cells[name] for name in task.cells]
        if task.kind == "cell":
            self._unlearn(cells[0], progress)
        elif task.kind == "before":
            self._measure(cells, progress)
        else:
            self._probe(cells, progress)

    def _unlearn(self, cell: Cell, progress: Progress) -> None:
        if self.folder.finished(cell.id):
            return
        classifier, split = self._open(cell)
        self._refuse_changed(cell, classifier, split)
        result = unlearn(
            classifier,
            split,
            anchors=self._anchors_of(cell, classifier, split) if "anchors" in cell.method.needs else None,
            method=cell.method,
            preset=cell.preset,
            out=self.folder.work(cell.id),
            cache=self.order.cache,
            request=cell.request,
            progress=progress,
            **cell.run.model_dump(),
        )
        self.folder.finish(cell.id, result.record, keep_model=self.order.grid.keep_models)

    def _measure(self, cells: Sequence[Cell], progress: Progress) -> None:
        """Put the original model's answers for all images of these cells into the cache."""
        run = cells[0].run
        device = resolve_device(run.device)
        evaluator = Evaluator(
            run.eval_batch, device, run.seed, run.retain_sample, self.order.cache, progress=progress
        )
        # Whatever k, the images are the same ones, unless the retained ones are a sample: each k has its own.
        by_k = {cell.k: cell for cell in cells}
        for k in sorted(by_k) if run.retain_sample is not None else [max(by_k)]:
            classifier, split = self._open(by_k[k])
            evaluator.figures(classifier.clone().eval().to(device), split, "evaluate before", cached=True)

    def _probe(self, cells: Sequence[Cell], progress: Progress) -> None:
        """Make the probes of the largest forget set; those of the smaller ones are part of it.

        Cells with inverted probes come here with one k alone.
        """
        largest = max(cells, key=lambda cell: cell.k)
        classifier, split = self._open(largest)
        run = largest.run
        device, settings = resolve_device(run.device), largest.method.settings.probes
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

    def _open(self, cell: Cell) -> tuple[Classifier, ForgetSplit]:
        grid = self.order.grid
        if self._opened is None or self._opened.problem != cell.problem:
            self._opened = None  # frees the memory first
            classifier = load_checkpoint(grid.locate(cell.model.path))
            source = open_source(grid.locate(cell.data.source), size=classifier.input_size)
            self._opened = _Opened(cell.problem, classifier, source)
        classifier, source = self._opened.classifier, self._opened.source
        split = split_forget(
            f"random:{cell.k}",
            source,
            class_names=classifier.class_names,
            size=classifier.input_size,
            seed=cell.run.seed,
        )
        return classifier, split

    def _anchors_of(self, cell: Cell, classifier: Classifier, split: ForgetSplit) -> Anchors:
        if cell.entry.anchors == "prototypes":
            if split.retain is None:
                raise DataError(f"prototypes for {cell.id}", expected="a retain set", got="none")
            device = resolve_device(cell.run.device)
            original = classifier.clone().eval().to(device)
            return visual_prototypes(original, split.retain, batch=cell.run.eval_batch, device=device)
        if cell.problem not in self._anchors:
            grid, wanted = self.order.grid, cell.data.anchors
            if isinstance(wanted, str):
                found = Anchors.load(Path(grid.locate(wanted)))
            else:
                attributes = grid.locate(wanted.attributes) if wanted.attributes else None
                found = build_anchors(classifier.class_names, attributes=attributes, encoder=wanted.encoder)
            self._anchors[cell.problem] = found.for_classes(classifier.class_names)
        return self._anchors[cell.problem]

    def _refuse_changed(self, cell: Cell, classifier: Classifier, split: ForgetSplit) -> None:
        """Cells of one folder share model and data by content, not by path alone."""
        if cell.problem not in self._known:
            for record in self.folder.records().values():
                problem = f"{record.request.get('data')}/{record.request.get('model')}"
                self._known[problem] = (record.hashes.model_before, record.hashes.test_set)
        test = split.test.fingerprint() if split.test is not None else None
        now = (classifier.fingerprint(), test)
        if self._known.setdefault(cell.problem, now) != now:
            what = "model" if self._known[cell.problem][0] != now[0] else "test split"
            raise RunFolderError(
                f"the {what} of {cell.problem}",
                expected=f"the one that finished cells of {self.folder.path} were measured on",
                got="another",
                fix="Choose another --out.",
            )
