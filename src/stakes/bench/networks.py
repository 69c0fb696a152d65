"""Which of a grid's networks have no BatchNorm: a preset may set something else there, and cells are named by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stakes.bench.cells import Cell
from stakes.bench.grid import Grid
from stakes.errors import StakesError
from stakes.layer_statistics import keeps_statistics
from stakes.models.checkpoint import load_checkpoint


@dataclass(frozen=True)
class Networks:
    """What was seen of them, by their paths as the grid writes them.

    Attributes:
        unnormalised: those without BatchNorm layers that keep statistics.
        unseen: those that could not be opened, or were not fetched; taken for such with BatchNorm.
    """

    unnormalised: frozenset[str] = frozenset()
    unseen: tuple[str, ...] = ()


def look(grid: Grid, cells: Sequence[Cell], *, fetch: bool = True) -> Networks:
    """Open the models of cells, one after the other, where the settings of any hang on it.

    Why one cannot be opened is left to what needs it.

    Args:
        cells: of the grid, named as if all networks had BatchNorm.
        fetch: whether a model may be downloaded from a hub for it.
    """
    without, unseen = set(), []
    for path in dict.fromkeys(cell.model.path for cell in cells if _hangs_on_it(cell)):
        try:
            place = grid.locate(path)
            if not fetch and not Path(place).exists():
                unseen.append(path)
            elif not keeps_statistics(load_checkpoint(place)):
                without.add(path)
        except StakesError:
            unseen.append(path)
    return Networks(frozenset(without), tuple(unseen))


def _hangs_on_it(cell: Cell) -> bool:
    """Whether the settings of a cell would be others without BatchNorm."""
    return (
        cell.method.for_images(cell.k, batchnorm=False, unlabelled=cell.entry.unlabelled) is not cell.method
    )
