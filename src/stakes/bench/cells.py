"""The cells of a grid: one unlearning each, with a name that says which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stakes.bench.grid import DataEntry, Grid, MethodEntry, ModelEntry
from stakes.bench.plugins import Registry
from stakes.config import QUIET, RunSettings, dotted
from stakes.data.unlabelled import held_back
from stakes.errors import ConfigError
from stakes.files import digest_json
from stakes.inputs import refuse_unlabelled
from stakes.methods import Method
from stakes.tune.record import TuneRecord


@dataclass(frozen=True)
class Cell:
    """One unlearning of a grid.

    Attributes:
        id: ``row_kK_sSEED-hash``; the hash is that of ``request`` with all resolved settings.
        method: configured and ready.
        preset: as the record will name it.
        run: with the cell's seed.
        request: what was asked, for the record; places as the grid writes them.
    """

    id: str
    data: DataEntry
    model: ModelEntry
    entry: MethodEntry
    method: Method[Any]
    preset: str | None
    k: int
    run: RunSettings
    request: dict[str, Any]

    @property
    def problem(self) -> str:
        """What cells with the same data and model have in common (of their records: `problem_of`)."""
        return f"{self.data.name}/{self.model.name}"

    @property
    def probes_key(self) -> str | None:
        """The same for cells whose probes come from one set; None where the method uses none."""
        if "probes" not in self.method.needs:
            return None
        settings = self.method.settings.probes
        shared = [self.problem, settings.model_dump(mode="json"), self.run.seed, self.run.precision]
        if settings.kind == "inverted":
            # They start from mixtures of the whole forget set: those of a smaller one are no part of them.
            shared.append(self.k)
        return digest_json(shared)[:12]


def expand(
    grid: Grid,
    registry: Registry | None = None,
    *,
    seed: int | None = None,
    unnormalised: frozenset[str] = frozenset(),
) -> list[Cell]:
    """All cells: data by data, model by model, seed by seed, k by k, and methods innermost.

    Args:
        registry: where names of methods are looked up.
        seed: only the cells of that seed.
        unnormalised: paths of models without BatchNorm (`stakes.bench.networks`).

    Raises:
        ConfigError: an unknown method, preset, or setting; or nothing is left to do.
    """
    registry = registry or Registry()
    ready = [(entry, configured(grid, entry, registry)) for entry in grid.methods]
    cells = [
        _cell(grid, data, model, entry, method, k, one, registry, model.path not in unnormalised)
        for data in grid.data
        for model in data.models
        for one in _union(grid.seeds, [entry.seeds for entry in grid.methods])
        for k in _union(grid.k, [entry.k for entry in grid.methods])
        for entry, method in ready
        if k in (entry.k or grid.k) and one in (entry.seeds or grid.seeds) and seed in (None, one)
    ]
    if not cells:
        raise ConfigError(f"seed {seed}", expected=f"a seed of grid {grid.name}", got="no cell with it")
    return cells


def configured(grid: Grid, entry: MethodEntry, registry: Registry) -> Method[Any]:
    """The method of a row, ready.

    Raises:
        ConfigError: an unknown method, preset or setting, or anchors for a method without.
        RunFolderError: the search that its settings are to come from cannot be read, or has none for it.
    """
    chosen: dict[str, Any] = {}
    if entry.tuned is not None:
        chosen = TuneRecord.load(Path(grid.locate(entry.tuned))).chosen(entry.method, entry.preset)
    kind = registry.find(entry.method)
    both = dotted(kind.settings_type, chosen) | dotted(kind.settings_type, entry.settings)
    method = kind.configure(entry.preset, both)
    if entry.anchors is not None and "anchors" not in method.needs:
        raise ConfigError(
            f"anchors of row {entry.row}", expected="a method that uses anchors", got=entry.method
        )
    if entry.unlabelled:
        refuse_unlabelled(method, f"row {entry.row}")
    return method


def _cell(
    grid: Grid,
    data: DataEntry,
    model: ModelEntry,
    entry: MethodEntry,
    method: Method[Any],
    k: int,
    seed: int,
    registry: Registry,
    batchnorm: bool,
) -> Cell:
    method = method.for_images(k, batchnorm=batchnorm, unlabelled=entry.unlabelled)
    wanted = entry.anchors or data.anchors
    request = {
        "data": data.name,
        "source": data.source,
        "model": model.name,
        "checkpoint": model.path,
        "forget": f"random:{k}",
        "k": k,
        "row": entry.row,
        "published": data.published,
    }
    if "anchors" in method.needs:
        request["anchors"] = wanted if isinstance(wanted, str) else wanted.model_dump(mode="json")
    if entry.unlabelled:
        request["unlabelled"] = data.unlabelled
    elif data.unlabelled is not None and held_back(data.unlabelled):
        request["held_back"] = data.unlabelled
    if entry.method in registry.digests:
        request["plugin"] = registry.digests[entry.method]
    run = grid.run.model_copy(update={"seed": seed})
    quiet = QUIET if entry.unlabelled else {*QUIET, "unlabelled_most"}
    resolved = request | {
        "method": entry.method,
        "settings": method.settings.model_dump(mode="json"),
        "run": run.model_dump(mode="json", exclude=quiet),
    }
    # The columns to print beside it are no part of what is computed.
    del resolved["published"]
    name = f"{entry.row}_k{k}_s{seed}-{digest_json(resolved)[:8]}"
    preset = entry.preset or method.default_preset
    return Cell(name, data, model, entry, method, preset, k, run, request)


def _union(first: Sequence[int], others: Sequence[Sequence[int] | None]) -> list[int]:
    """All of them, in order of first mention."""
    return list(dict.fromkeys([*first, *(one for more in others for one in more or ())]))
