"""What a grid costs, in images passed through the network, before anything is run: upper bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from stakes.bench.cells import Cell
from stakes.bench.grid import PROTOTYPES, DataEntry, Facts, Grid
from stakes.config import RunSettings
from stakes.data.folders import images_under
from stakes.data.sources import open_source
from stakes.data.unlabelled import number_of
from stakes.errors import DataError
from stakes.methods import Job, Method
from stakes.methods.retreat import HALVINGS


@dataclass(frozen=True)
class Passes:
    """Images sent forward and backward."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: int) -> Passes:
        return Passes(self.forward * times, self.backward * times)


@dataclass(frozen=True)
class CellCost:
    """Most that a cell can cost by itself, beside what it shares.

    Attributes:
        steps: the limit of the settings; most methods stop once the forget set is forgotten.
        unlearn: steps, what comes before them, and tests whether to stop.
        schedule: steps that come before the first such test; 0 where it comes at once.
        scheduled: as ``unlearn``, if it ends with them.
        evaluate: measuring the unlearned model.
    """

    cell: str
    steps: int
    unlearn: Passes
    evaluate: Passes
    schedule: int
    scheduled: Passes


class Costed(Protocol):
    """What a cost hangs on beside the data: a cell, or one request."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def method(self) -> Method[Any]:
        """Configured."""

    @property
    def k(self) -> int:
        """Size of the forget set."""

    @property
    def run(self) -> RunSettings:
        """How it is carried out."""


@dataclass(frozen=True)
class GridCost:
    """The cells, and what they share: names of probe sets and of original models with their passes."""

    cells: tuple[CellCost, ...]
    shared: dict[str, Passes]

    @property
    def total(self) -> Passes:
        """All together."""
        own = (cost.unlearn + cost.evaluate for cost in self.cells)
        return sum([*own, *self.shared.values()], Passes())


def grid_cost(grid: Grid, cells: Sequence[Cell]) -> GridCost:
    """Count the passes of a grid.

    - Probes: k · N_adv · iterations forward and backward, once for each model, probe settings and seed, at the largest
      k, since the smaller sets are part of it. Inverted ones: a number of their own, once for each k as well.
    - The original model: every image once.
    - A cell: its steps by their limit, and the unlearned model on all images measured.

    Sizes come from ``facts`` of the grid, or from the data where the grid has none. A method from outside is counted
    by its batches; what it does before its steps is not known.

    Raises:
        DataError: no facts, and no data.
    """
    facts = {entry.name: _facts(grid, entry) for entry in grid.data}
    shared: dict[str, Passes] = {}
    for cell in cells:
        known, run = _known(facts, cell), cell.run
        name = f"original model {cell.problem}"
        _raise(shared, name, Passes(known.test_images + (0 if run.retain_sample else known.train_images)))
        if run.retain_sample is not None:
            # Each k and seed has a sample of its own.
            sample = min(known.train_images, run.retain_sample + cell.k)
            _raise(shared, f"{name}, k {cell.k}, seed {run.seed}", Passes(sample))
        if cell.probes_key is not None:
            probes = cell.method.settings.probes
            images = probes.passes(cell.k)
            name = f"probes {cell.probes_key} of {cell.problem}, seed {run.seed}"
            _raise(shared, name, Passes(images, images))
    costs = (
        cell_cost(cell, _known(facts, cell), prototypes=cell.entry.anchors == PROTOTYPES) for cell in cells
    )
    return GridCost(tuple(costs), shared)


def _raise(shared: dict[str, Passes], name: str, passes: Passes) -> None:
    found = shared.get(name, Passes())
    shared[name] = passes if passes.forward > found.forward else found


def _known(facts: Mapping[str, Facts], cell: Cell) -> Facts:
    """The sizes of a cell's data, with unlabelled images where its row trains on them."""
    found = facts[cell.data.name]
    used = min(found.unlabelled, cell.run.unlabelled_most) if cell.entry.unlabelled else 0
    return found.model_copy(update={"unlabelled": used})


def _facts(grid: Grid, entry: DataEntry) -> Facts:
    """The sizes that an entry states, or those found in its data."""
    found = entry.facts or _look(grid, entry.source)
    if entry.unlabelled is None or found.unlabelled:
        return found
    if (taken := number_of(entry.unlabelled)) is not None:
        left = max(0, found.test_images - taken)
        return found.model_copy(update={"unlabelled": taken, "test_images": left})
    folder = Path(grid.locate(entry.unlabelled, strict=False))
    if not folder.is_dir():
        raise DataError(
            f"unlabelled images of {entry.name} in grid {grid.name}",
            expected="a folder with image files",
            got=f"nothing at {folder}",
            fix="To count without them, say how many there are: facts: {…, unlabelled: N}.",
        )
    return found.model_copy(update={"unlabelled": len(images_under(folder, folder))})


def _look(grid: Grid, source: str) -> Facts:
    found = open_source(grid.locate(source))
    images = found.train or found.test
    size = images.size if images is not None else (3, 1, 1)
    return Facts(
        train_images=len(found.train) if found.train is not None else 1,
        test_images=len(found.test) if found.test is not None else 0,
        classes=len(found.class_names),
        image_size=size,
    )


def cell_cost(cell: Costed, facts: Facts, *, prototypes: bool = False) -> CellCost:
    """The most that one unlearning costs beside probes and the original model's answers.

    Args:
        prototypes: whether its anchors come from the features of the retained images.
    """
    sizes = _Sizes(cell, facts)
    setup: Passes = _SETUP.get(cell.method.name, lambda _: Passes())(sizes)
    step: Passes = _STEP.get(cell.method.name, _by_batches)(sizes)
    retain = facts.train_images - cell.k
    if prototypes:
        setup += Passes(retain)
    if cell.run.retain_sample is not None:
        retain = min(retain, cell.run.retain_sample)

    def ended(steps: int) -> Passes:
        return setup + step * steps + Passes(_testing(sizes, steps))

    schedule = sizes.settings.schedule(sizes.settings.batches(cell.k), sizes.steps)
    return CellCost(
        cell=cell.id,
        steps=sizes.steps,
        unlearn=ended(sizes.steps),
        evaluate=Passes(facts.test_images + max(0, retain) + cell.k),
        schedule=schedule,
        scheduled=ended(schedule),
    )


class _Sizes:
    """The sizes of a cell's job."""

    def __init__(self, cell: Costed, facts: Facts) -> None:
        self.settings: Any = cell.method.settings
        self.needs = cell.method.needs
        self.k, self.facts, self.run, self.method = cell.k, facts, cell.run, cell.method
        self.retain = max(1, facts.train_images - cell.k)
        self.probes = self.settings.probes.number(cell.k) + facts.unlabelled
        known = _STEPS.get(cell.method.name)
        self.steps = known(self) if known else cell.method.total_steps(self._job())

    def _job(self) -> Job[Any]:
        """A job with sizes only: all that `Method.total_steps` may look at."""
        nothing = cast(Any, None)
        return Job(
            original=nothing,
            model=nothing,
            forget=cast(Any, _Counted(self.k, self.facts.classes)),
            settings=self.settings,
            probes=cast(Any, _Counted(self.probes, self.facts.classes)) if "probes" in self.needs else None,
            retain=cast(Any, _Counted(self.retain, self.facts.classes)) if "retain" in self.needs else None,
        )


class _Counted:
    """So many images of classes in turn, without pixels."""

    def __init__(self, count: int, classes: int) -> None:
        self.labels = torch.arange(count) % classes

    def __len__(self) -> int:
        return len(self.labels)


def _testing(sizes: _Sizes, steps: int) -> int:
    """Passes to see whether it is forgotten: at every step at most all forget images after a first batch of them."""
    k, run = sizes.k, sizes.run
    measured = steps // run.measure_every * k
    if not sizes.method.stops_when_forgotten:
        return measured
    return measured + (steps + 1) * (k + min(k, run.eval_batch))


def _by_batches(sizes: _Sizes) -> Passes:
    """A step that sees one batch of each set that the method needs."""
    images = min(sizes.settings.forget_batch, sizes.k)
    if "probes" in sizes.needs:
        images += min(sizes.settings.probe_batch, sizes.probes)
    if "retain" in sizes.needs:
        images += min(getattr(sizes.settings, "retain_batch", sizes.settings.forget_batch), sizes.retain)
    return Passes(images, images)


def _fisher(sizes: _Sizes) -> Passes:
    batch = sizes.settings.probe_batch if "probes" in sizes.needs else sizes.settings.retain_batch
    images = min(batch, sizes.probes if "probes" in sizes.needs else sizes.retain)
    return Passes((1 + sizes.facts.classes) * images, sizes.facts.classes * images)


def _mixed(sizes: _Sizes) -> Passes:
    """A step of methods that draw one batch from several sets."""
    images: int = sizes.settings.forget_batch
    return Passes(images, images)


def _lotus(sizes: _Sizes) -> Passes:
    """The original model answers too."""
    images: int = sizes.settings.forget_batch
    return Passes(2 * images, images)


def _lotus_epochs(sizes: _Sizes) -> Passes:
    """Forget accuracy at the start of every epoch."""
    return Passes(sizes.settings.max_epochs * sizes.k)


def _structguard(sizes: _Sizes) -> Passes:
    settings = sizes.settings
    used = min(settings.importance_probes or sizes.probes, sizes.probes)
    importance = used if settings.reg_weight else 0
    curvature = sizes.probes if settings.precondition != "none" else 0
    following = sizes.probes if settings.recalibrate else 0
    back = (1 + HALVINGS) * sizes.k if settings.retreat is not None else 0
    return Passes(sizes.probes + importance + curvature + following + back, importance)


def _structguard_step(sizes: _Sizes) -> Passes:
    """Copies of the forget images are sent along; on probes that are mixed anew the original model answers too."""
    settings = sizes.settings
    probes = min(settings.probe_batch, sizes.probes)
    forget = min(settings.forget_batch, sizes.k)
    images = forget + settings.copies(forget, settings.batches(sizes.k)) + probes
    return Passes(images + (probes if settings.probe_mixing else 0), images)


def _amun(sizes: _Sizes) -> Passes:
    """Every radius up to the whole pixel cube, though nearly all images leave in the first few."""
    settings = sizes.settings
    cube = math.sqrt(math.prod(sizes.facts.image_size))
    radii = 1 + max(0, math.ceil(math.log2(cube / settings.radius)))
    images = sizes.k * (settings.attack_steps * radii + 1)
    return Passes(images, images)


def _shrink(sizes: _Sizes) -> Passes:
    steps = 1 if sizes.settings.attack == "fgsm" else sizes.settings.iterations
    return Passes(sizes.k * (steps + 1), sizes.k * steps)


def _unsir(sizes: _Sizes) -> Passes:
    images = min(sizes.k, sizes.facts.classes) * sizes.settings.noise_images * sizes.settings.noise_steps
    return Passes(images, images)


def _unsir_steps(sizes: _Sizes) -> int:
    """Counted without labels: sorting those of a million images by class takes longer than the rest."""
    settings, classes = sizes.settings, sizes.facts.classes
    kept = min(sizes.retain, settings.retain_per_class * classes)
    noisy = min(sizes.k, classes) * settings.noise_images * settings.noise_repeats + kept
    epoch = -(-noisy // settings.forget_batch) + -(-kept // settings.forget_batch)
    limit: int = settings.max_epochs * epoch
    return min(limit, settings.max_steps or limit)


def _forget_once(sizes: _Sizes) -> Passes:
    """The weight importance of L2UL, the mask of SalUn."""
    return Passes(sizes.k, sizes.k)


_STEPS: dict[str, Callable[[_Sizes], int]] = {"unsir": _unsir_steps}
_STEP: dict[str, Callable[[_Sizes], Passes]] = {
    "structguard": _structguard_step,
    "fisher": _fisher,
    "unsir": _mixed,
    "amun": _mixed,
    "lotus": _lotus,
}
_SETUP: dict[str, Callable[[_Sizes], Passes]] = {
    "structguard": _structguard,
    "l2ul": _forget_once,
    "salun": _forget_once,
    "amun": _amun,
    "boundary-shrink": _shrink,
    "unsir": _unsir,
    "lotus": _lotus_epochs,
}
