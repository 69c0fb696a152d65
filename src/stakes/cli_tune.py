"""The command ``tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stakes.cli_options import Device, JsonOption, PluginsOption, Precision, SeedOption, print_json

if TYPE_CHECKING:
    from stakes.tune.record import Trial, TuneRecord
    from stakes.tune.request import Tuned

TuneOption = Annotated[
    int | None,
    typer.Option(
        "--tune",
        min=2,
        help="First choose the learning rate (or what the method names) in so many trials of this request, judged on "
        "probes; each takes as long as the run.",
    ),
]

commands = typer.Typer()


@commands.command()
def tune(
    plan: Annotated[
        Path, typer.Argument(help="YAML file: a grid of one data set and model, with trials and search.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder: new, or of the same plan (goes on).")],
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Worker processes; one for each method is the most.")
    ] = 1,
    plugins: PluginsOption = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder for probes [OUT/cache].")] = None,
    seed: SeedOption = 0,
    device: Annotated[Device | None, typer.Option("--device", help="In place of the plan's.")] = None,
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="In place of the plan's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Choose settings for methods without a test image: the same number of trials each, judged on probes."""
    from rich.console import Console

    from stakes.bench.plugins import load_plugins
    from stakes.bench.sharing import advice
    from stakes.cli_bench import with_run
    from stakes.console import live_progress
    from stakes.tune.engine import run_tune
    from stakes.tune.plan import load_plan

    given = {"device": device and device.value, "precision": precision and precision.value}
    wanted = with_run(load_plan(plan), given)
    if hint := advice(jobs, wanted.run.device):
        typer.echo(hint, err=True)
    with live_progress() as progress:
        record = run_tune(
            wanted,
            out,
            registry=load_plugins(plugins or []),
            cache=cache,
            seed=seed,
            jobs=jobs,
            progress=progress,
        )
    if as_json:
        print_json(record.model_dump(mode="json"))
        return
    Console().print(_table(record))
    for name, row in record.rows.items():
        if len(row.trials) < record.trials:
            typer.echo(f"{name}: {len(row.trials)} trials, after which its search has no other settings.")
    typer.echo(f"{out}: a grid takes a choice with tuned: {out} beside the method.")


def search_first(out: Path, *, as_json: bool, **wanted: Any) -> Tuned:
    """The search that ``--tune`` asks for, in the folder of the run, and what it found on the screen.

    Args:
        wanted: of `stakes.tune.request.tune_request`.
    """
    from rich.console import Console

    from stakes.console import live_progress
    from stakes.team_folder import run_folder
    from stakes.tune.request import tune_request

    run_folder(out).refuse_begun()
    with live_progress() as progress:
        tuned = tune_request(out=out, progress=progress, **wanted)
    if not as_json:
        Console().print(_table(tuned.record))
    return tuned


def told_of(tuned: Tuned | None, out: Path) -> dict[str, str]:
    """What a run's record says of the search before it; the hash is that of the file of trials beside the record."""
    if tuned is None:
        return {}
    from stakes.files import digest_file
    from stakes.runs import SEARCH

    digest = digest_file(out / SEARCH)
    return {
        "tuned": f"{tuned.record.trials} trials of this request, judged on probes ({SEARCH}, sha256 {digest})"
    }


def _table(record: TuneRecord) -> Any:
    """Two rows for each method: what it started from, and what was chosen."""
    from rich.table import Table

    table = Table(title=f"{record.trials} trials each", title_justify="left")
    for name in ("", "agreement, %", "forget, %", "settings"):
        table.add_column(name)
    for name, row in record.rows.items():
        table.add_row(name, *_told(row.trials[0]))
        table.add_row("  chosen", *(_told(row.best) if row.best else ("–", "–", "none worked")))
    return table


def _told(trial: Trial) -> tuple[str, str, str]:
    settings = ", ".join(f"{name} {_short(value)}" for name, value in trial.settings.items())
    return _figure(trial.agreement), _figure(trial.forget_accuracy), settings


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
