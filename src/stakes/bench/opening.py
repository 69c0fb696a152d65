"""The models, data and anchors that a grid names, opened once for the cells of one problem after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stakes.anchors import Anchors, build_anchors
from stakes.anchors.prototypes import visual_prototypes
from stakes.bench.cells import Cell
from stakes.bench.grid import PROTOTYPES, AnchorSource, Grid
from stakes.data.forget import ForgetSplit, split_forget
from stakes.data.sources import Source, open_source
from stakes.data.unlabelled import held_back
from stakes.errors import AnchorError, DataError
from stakes.files import digest_file, digest_json, private_folder
from stakes.models.checkpoint import load_checkpoint
from stakes.models.classifier import Classifier
from stakes.runtime import resolve_device

# Raised when what is built changes, so that an older cache is not mistaken for it.
_BUILDING = "anchors/1"


@dataclass
class _Opened:
    """A model and its data, of the problem worked on last."""

    problem: str
    classifier: Classifier
    source: Source


class Opening:
    """Opens what cells need. Models and data of one problem at a time are held in memory.

    Anchors that have to be encoded are kept under ``cache``: loading the encoder takes longer than many a cell.
    """

    def __init__(self, grid: Grid, cache: Path) -> None:
        self.grid, self.cache = grid, cache
        self._opened: _Opened | None = None
        self._anchors: dict[tuple[str, str], Anchors] = {}

    def problem(self, cell: Cell) -> tuple[Classifier, ForgetSplit]:
        """The model of a cell, and its request with the sets to measure on."""
        grid = self.grid
        if self._opened is None or self._opened.problem != cell.problem:
            self._opened = None  # frees the memory first
            classifier = load_checkpoint(grid.locate(cell.model.path))
            source = open_source(
                grid.locate(cell.data.source), size=classifier.input_size, class_names=classifier.class_names
            )
            self._opened = _Opened(cell.problem, classifier, source)
        classifier, source = self._opened.classifier, self._opened.source
        split = split_forget(
            f"random:{cell.k}",
            source,
            class_names=classifier.class_names,
            size=classifier.input_size,
            seed=cell.run.seed,
            unlabelled=self._unlabelled(cell),
        )
        return classifier, split if cell.entry.unlabelled else replace(split, unlabelled=None)

    def _unlabelled(self, cell: Cell) -> str | None:
        """Where unlabelled images come from; those of the test split are taken out of it for every row."""
        given = cell.data.unlabelled
        if given is None or held_back(given):
            return given
        return self.grid.locate(given) if cell.entry.unlabelled else None

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
                found = self._encoded(classifier.class_names, wanted)
            self._anchors[key] = found.for_classes(classifier.class_names)
        return self._anchors[key]

    def _encoded(self, class_names: Sequence[str], wanted: AnchorSource) -> Anchors:
        """Anchors by an encoder; found again by class names, the attributes' bytes and the encoder's name."""
        attributes = self.grid.locate(wanted.attributes) if wanted.attributes else None
        given = digest_file(Path(attributes)) if attributes and Path(attributes).is_file() else None
        key = digest_json([_BUILDING, list(class_names), given, wanted.encoder])
        path = self.cache / "anchors" / f"{key[:32]}.safetensors"
        with contextlib.suppress(AnchorError):  # none there, or a damaged one
            return Anchors.load(path)
        found = build_anchors(class_names, attributes=attributes, encoder=wanted.encoder)
        private_folder(path.parent)
        found.save(path)
        return found
