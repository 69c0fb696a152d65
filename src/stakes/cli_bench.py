"""The commands ``bench`` and ``table``.

Exit codes of ``bench`` beside those of the command line: 0 every cell has its record, forgotten or not, since both are
results; 7 some cells failed; 130 interrupted (the same command goes on where it was).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from stakes.cli_options import (
    SOME_FAILED,
    Device,
    HiddenDevice,
    HiddenPrecision,
    HiddenSeed,
    JsonOption,
    PluginsOption,
    Precision,
)

if TYPE_CHECKING:
    from stakes.bench.cost import GridCost
    from stakes.bench.engine import Report
    from stakes.bench.grid import Grid

G = TypeVar("G", bound="Grid")
commands = typer.Typer()


class Layout(StrEnum):
    """What a table looks like."""

    table2 = "table2"
    table3 = "table3"
    table4 = "table4"
    table5 = "table5"
    table6 = "table6"
    plain = "plain"


class Format(StrEnum):
    """How a table is written."""

    markdown = "markdown"
    latex = "latex"
    html = "html"


class Engine(StrEnum):
    """Who carries out the cells."""

    local = "local"
    ray = "ray"


@commands.command()
def bench(
    grid: Annotated[Path, typer.Argument(help="YAML file: data, models, methods, k, seeds.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder: new, or of the same grid (goes on).")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Worker processes.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells and their cost in image passes; run nothing.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed before.")
    ] = False,
    plugins: PluginsOption = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder for probes and predictions [OUT/cache].")
    ] = None,
    retain_sample: Annotated[
        int | None, typer.Option("--retain-sample", min=1, help="In place of the grid's.")
    ] = None,
    unlabelled_most: Annotated[
        int | None, typer.Option("--unlabelled-most", min=1, help="In place of the grid's.")
    ] = None,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep the run folder of every cell, weights included.")
    ] = False,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Only this seed of the grid.")] = None,
    engine: Annotated[
        Engine, typer.Option("--engine", help="local: processes of this machine; ray: a Ray cluster.")
    ] = Engine.local,
    address: Annotated[
        str | None, typer.Option("--address", help="Of a Ray cluster; without it one is started here.")
    ] = None,
    cpus_per_cell: Annotated[
        float, typer.Option("--cpus-per-cell", help="CPUs (and threads) of a cell on the Ray cluster.")
    ] = 1,
    gpus_per_cell: Annotated[
        float, typer.Option("--gpus-per-cell", help="GPUs of a cell on the Ray cluster.")
    ] = 0,
    retries: Annotated[
        int,
        typer.Option("--retries", min=0, help="How often a cell is tried again after its worker died (ray)."),
    ] = 3,
    device: Annotated[Device | None, typer.Option("--device", help="In place of the grid's.")] = None,
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="In place of the grid's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a grid of unlearnings; finished cells stay, failed ones are told. Exit 7: some cells failed."""
    from stakes.bench.board import ConsoleBoard
    from stakes.bench.cells import expand
    from stakes.bench.cluster import Cluster
    from stakes.bench.cost import grid_cost
    from stakes.bench.engine import run_bench
    from stakes.bench.grid import load_grid
    from stakes.bench.networks import look
    from stakes.bench.plugins import load_plugins
    from stakes.bench.sharing import advice
    from stakes.errors import ConfigError

    if address is not None and engine is Engine.local:
        raise ConfigError("--address", expected="--engine ray", got="--engine local")
    cluster = Cluster(address, cpus_per_cell, gpus_per_cell, retries) if engine is Engine.ray else None
    registry = load_plugins(plugins or [])
    given = {
        "device": device and device.value,
        "precision": precision and precision.value,
        "retain_sample": retain_sample,
        "unlabelled_most": unlabelled_most,
    }
    wanted = with_run(load_grid(grid), given)
    wanted = wanted.model_copy(update={"keep_models": wanted.keep_models or keep_models})
    if dry_run:
        seen = look(wanted, expand(wanted, registry, seed=seed), fetch=False)
        cells = expand(wanted, registry, seed=seed, unnormalised=seen.unnormalised)
        _print_cost(grid_cost(wanted, cells), as_json)
        if seen.unseen:
            typer.echo(f"Taken for networks with BatchNorm, unseen: {', '.join(seen.unseen)}", err=True)
        return
    if out is None:
        raise ConfigError(
            "bench", expected="--out DIR", got="none", fix="Or --dry-run to see what it would do."
        )
    if cluster is None and (hint := advice(jobs, wanted.run.device)):
        typer.echo(hint, err=True)
    report = run_bench(
        wanted,
        out,
        registry=registry,
        jobs=jobs,
        cache=cache,
        retry_failed=retry_failed,
        seed=seed,
        board=ConsoleBoard(),
        cluster=cluster,
    )
    _say_report(report, as_json)
    if report.failed:
        raise typer.Exit(SOME_FAILED)


@commands.command()
def table(
    folder: Annotated[list[Path], typer.Argument(help="Folder of a bench; several make one table.")],
    layout: Annotated[
        Layout, typer.Option("--layout", help="One of the paper's Tables 2 to 6, or a line a cell.")
    ] = Layout.plain,
    rows: Annotated[
        str | None,
        typer.Option("--rows", help="Names of rows to show, with commas between; all where left out."),
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option("--k", help="Sizes of forget sets to show, any number.")
    ] = None,
    kind: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.markdown,
    out: Annotated[Path | None, typer.Option("--out", help="File to write instead of stdout.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it inside JSON on stdout.")] = False,
    seed: HiddenSeed = 0,
    device: HiddenDevice = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
) -> None:
    """Render the records of a bench: mean ± standard deviation over seeds, the published figure beside ours."""
    from stakes.bench.failures import left_failed
    from stakes.bench.folder import BenchFolder, together
    from stakes.bench.render import render
    from stakes.bench.sheet import picked, sheets
    from stakes.files import write_bytes

    del seed, device, precision
    found = [BenchFolder(path) for path in folder]
    records = together(found)
    wanted = [name.strip() for name in rows.split(",")] if rows is not None else None
    failed = len(left_failed(found, records, wanted, k))
    records = picked(records, wanted, k)
    text = render(sheets(records, layout.value, failed=failed), layout.value, kind.value)
    if out is not None:
        write_bytes(out, text.encode())
    if as_json:
        shown = {"records": sorted(records), "text": text, "file": str(out) if out else None}
        typer.echo(json.dumps(shown, indent=1, sort_keys=True, ensure_ascii=False))
    elif out is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(str(out))


def with_run(grid: G, given: Mapping[str, Any]) -> G:
    """The grid with what the command line gives in place of its run settings; None stands for nothing."""
    from stakes.config import RunSettings, build

    changed = {key: value for key, value in given.items() if value is not None}
    return grid.model_copy(update={"run": build(RunSettings, grid.run.model_dump() | changed)})


def _say_report(report: Report, as_json: bool) -> None:
    """What a bench did."""
    if as_json:
        found = {
            "out": str(report.out),
            "cells": list(report.cells),
            "finished": list(report.finished),
            "fresh": report.fresh,
            "failed": report.failed,
        }
        typer.echo(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False))
    else:
        typer.echo(
            f"{len(report.finished)} of {len(report.cells)} cells finished, {report.fresh} of them now."
        )
        for cell, why in report.failed.items():
            typer.echo(f"failed: {cell}: {why}")
        if report.failed:
            typer.echo("Try those again with --retry-failed.")


def _print_cost(cost: GridCost, as_json: bool) -> None:
    if as_json:
        found = {
            "cells": [
                {
                    "cell": one.cell,
                    "most_steps": one.steps,
                    "unlearn": [one.unlearn.forward, one.unlearn.backward],
                    "evaluate": [one.evaluate.forward, one.evaluate.backward],
                }
                for one in cost.cells
            ],
            "shared": {name: [passes.forward, passes.backward] for name, passes in cost.shared.items()},
            "total": [cost.total.forward, cost.total.backward],
        }
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    width = max(len(name) for name in [*cost.shared, *(one.cell for one in cost.cells)])
    typer.echo(f"{'shared, once':<{width}}  {'':>9}  {'forward':>17}  {'backward':>17}")
    for name, passes in cost.shared.items():
        typer.echo(f"{name:<{width}}  {'':>9}  {passes.forward:>17,}  {passes.backward:>17,}")
    typer.echo(f"\n{'cell, at most':<{width}}  {'steps':>9}  {'forward':>17}  {'backward':>17}")
    for one in cost.cells:
        own = one.unlearn + one.evaluate
        typer.echo(f"{one.cell:<{width}}  {one.steps:>9,}  {own.forward:>17,}  {own.backward:>17,}")
    total = cost.total
    typer.echo(
        f"\n{len(cost.cells)} cells, at most {total.forward:,} images forward, {total.backward:,} backward."
    )
    typer.echo("Most methods stop at the step that forgets, long before their limit.")
