"""Which of a grid's networks have no BatchNorm: a preset may set something else there, and cells are named by it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stakes.bench.grid import Grid
from stakes.bench.plugins import Registry
from stakes.errors import StakesError
from stakes.layer_statistics import kept
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


def look(grid: Grid, registry: Registry | None = None, *, fetch: bool = True) -> Networks:
    """Open the models of a grid one after the other, if the settings of any row hang on them.

    Why one cannot be opened is left to what needs it.

    Args:
        fetch: whether a model may be downloaded from a hub for it.

    Raises:
        ConfigError: a method that is not known.
    """
    if not _asked(grid, registry or Registry()):
        return Networks()
    without, unseen = set(), []
    for path in dict.fromkeys(model.path for entry in grid.data for model in entry.models):
        try:
            place = grid.locate(path)
            if not fetch and not Path(place).exists():
                unseen.append(path)
            elif not kept(load_checkpoint(place)):
                without.add(path)
        except StakesError:
            unseen.append(path)
    return Networks(frozenset(without), tuple(unseen))


def _asked(grid: Grid, registry: Registry) -> bool:
    """Whether a preset of a row sets something else for networks without BatchNorm."""
    kinds = [(registry.find(entry.method), entry.preset) for entry in grid.methods]
    return any((preset or kind.default_preset) in kind.without_batchnorm for kind, preset in kinds)
