"""The models, data and anchors that a grid names, opened once for the cells of one problem after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stakes.anchors import Anchors, build_anchors
from stakes.anchors.prototypes import visual_prototypes
from stakes.bench.cells import Cell
from stakes.bench.grid import PROTOTYPES, Grid
from stakes.data.forget import ForgetSplit, split_forget
from stakes.data.sources import Source, open_source
from stakes.errors import DataError
from stakes.models.checkpoint import load_checkpoint
from stakes.models.classifier import Classifier
from stakes.runtime import resolve_device


@dataclass
class _Opened:
    """A model and its data, of the problem worked on last."""

    problem: str
    classifier: Classifier
    source: Source


class Opening:
    """Opens what cells need. Models and data of one problem at a time are held in memory."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._opened: _Opened | None = None
        self._anchors: dict[tuple[str, str], Anchors] = {}

    def problem(self, cell: Cell) -> tuple[Classifier, ForgetSplit]:
        """The model of a cell, and its request with the sets to measure on."""
        grid = self.grid
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

    def anchors(self, cell: Cell, classifier: Classifier, split: ForgetSplit) -> Anchors | None:
        """The anchors of a cell; None where its method uses none."""
        if "anchors" not in cell.method.needs:
            return None
        wanted = cell.entry.anchors or cell.data.anchors
        if wanted == PROTOTYPES:
            if split.retain is None:
                raise DataError(f"prototypes for {cell.id}", expected="a retain set", got="none")
            device = resolve_device(cell.run.device)
            original = classifier.clone().eval().to(device)
            return visual_prototypes(original, split.retain, batch=cell.run.eval_batch, device=device)
        key = (cell.problem, str(wanted))
        if key not in self._anchors:
            if isinstance(wanted, str):
                found = Anchors.load(Path(self.grid.locate(wanted)))
            else:
                attributes = self.grid.locate(wanted.attributes) if wanted.attributes else None
                found = build_anchors(classifier.class_names, attributes=attributes, encoder=wanted.encoder)
            self._anchors[key] = found.for_classes(classifier.class_names)
        return self._anchors[key]
