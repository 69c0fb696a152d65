"""The command ``analyse``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stakes.cli_options import (
    DataOption,
    Device,
    DeviceOption,
    HiddenPrecision,
    JsonOption,
    PickleOption,
    Precision,
    SeedOption,
    print_json,
)

if TYPE_CHECKING:
    from stakes.analyses import Analysed

commands = typer.Typer()


@commands.command()
def analyse(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            help="Some of retrieval, class-level, collapse, milestones, consistency, anchors, radar, gradcam, "
            "streisand; with commas.",
        ),
    ] = None,
    data: DataOption = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The original checkpoint, where it has moved.")
    ] = None,
    anchors_file: Annotated[
        Path | None, typer.Option("--anchors", help="Anchors to look from, in place of the run's.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, any number; see docs/analyses.md.")
    ] = None,
    allow_pickle: PickleOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Tasks and analyses of the paper on a finished run: sections and figures, and its page anew (always in fp32)."""
    from stakes.analyses import AnalysisSettings
    from stakes.analyses import analyse as call
    from stakes.config import parse_assignments
    from stakes.console import live_progress
    from stakes.report.page import write_page

    del precision
    settings = AnalysisSettings().with_overrides({"seed": seed} | parse_assignments(assignments or []))
    names = None if only is None else [name.strip() for name in only.split(",") if name.strip()]
    with live_progress() as progress:
        found = call(
            run,
            only=names,
            data=data,
            model=model,
            anchors=anchors_file,
            settings=settings,
            device=device.value,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    page = write_page(run)
    if as_json:
        print_json(
            {
                "run": str(run),
                "sections": [section.model_dump(mode="json") for section in found.sections],
                "skipped": {one.name: one.reason for one in found.skipped},
            }
        )
    else:
        _print(found)
        typer.echo(f"sections and figures: {run / 'analyses'}\nreport: {page}")


def _print(found: Analysed) -> None:
    for section in found.sections:
        typer.echo(f"{section.title}: {section.sentence}")
    for one in found.skipped:
        typer.echo(f"skipped {one.name}: {one.reason}")
