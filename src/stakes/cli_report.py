"""The commands ``show`` and ``compare``: finished runs, read and never changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stakes.cli_options import (
    Device,
    HiddenDevice,
    HiddenPrecision,
    HiddenSeed,
    JsonOption,
    Precision,
    print_json,
)

if TYPE_CHECKING:
    from stakes.report.compare import Compared

EmbedOption = Annotated[
    bool,
    typer.Option(
        "--embed-images", help="Put images of the forget set into the page. They may be personal data."
    ),
]
commands = typer.Typer()


@commands.command()
def show(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: JsonOption = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    embed_images: EmbedOption = False,
    seed: HiddenSeed = 0,
    device: HiddenDevice = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
) -> None:
    """Show the record of a run as a table, and what its analyses found; write or open its page."""
    from stakes.console import print_record, print_what_is_unknown
    from stakes.records import Record
    from stakes.report.arrangement import arranged
    from stakes.report.section import sections

    del seed, device, precision
    record = Record.load(run / "record.json")
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        print_record(record)
        print_what_is_unknown(record, run)
        for _, members in arranged(sections(run)):
            for section in members:
                typer.echo(f"{section.title}: {section.sentence}")
    if not (open_page or embed_images):
        return
    from stakes.report.page import write_page

    page = write_page(run, embed_images=embed_images)
    if not as_json:
        typer.echo(f"report: {page}")
    if open_page:
        typer.launch(page.absolute().as_uri())


@commands.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, two or more.")],
    out: Annotated[Path | None, typer.Option("--out", help="HTML file to write.")] = None,
    as_json: JsonOption = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser (with --out).")
    ] = False,
    embed_images: EmbedOption = False,
    seed: HiddenSeed = 0,
    device: HiddenDevice = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
) -> None:
    """Put runs side by side: accuracies, costs, curves, and every number of their analyses, on one page."""
    from stakes.errors import ConfigError
    from stakes.report.compare import comparison, differences, open_runs, write_comparison

    del seed, device, precision
    if out is None and (open_page or embed_images):
        raise ConfigError(
            "compare", expected="--out FILE for the page to open or to put images into", got="none"
        )
    found = open_runs(runs)
    if out is not None:
        write_comparison(found, out, embed_images=embed_images)
    if as_json:
        print_json(comparison(found) | {"file": str(out) if out else None})
    else:
        _print_comparison(found)
        if out is not None:
            typer.echo(f"page: {out}")
    for text in differences(found):
        typer.echo(f"warning: {text}", err=True)
    if open_page and out is not None:
        typer.launch(out.absolute().as_uri())


def _print_comparison(runs: list[Compared]) -> None:
    from rich.console import Console

    from stakes.console import figures_table

    rows = [(f"before {run.key}", run.record.before) for run in runs]
    if len({row[1] for row in rows}) == 1:
        rows = [("before", rows[0][1])]
    rows += [(f"{run.key} {run.name} ({run.record.method})", run.record.after) for run in runs]
    Console().print(figures_table(rows))
