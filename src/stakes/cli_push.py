"""The command ``push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stakes.cli_options import (
    Device,
    HiddenDevice,
    HiddenPrecision,
    HiddenSeed,
    JsonOption,
    Precision,
    say,
)

commands = typer.Typer()


@commands.command()
def push(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    repo_id: Annotated[str | None, typer.Argument(help="Repository on the hub: OWNER/NAME.")] = None,
    to_folder: Annotated[
        Path | None, typer.Option("--to-folder", help="Write the files there; upload nothing.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="A repository that is made is public, not private.")
    ] = False,
    as_json: JsonOption = False,
    seed: HiddenSeed = 0,
    device: HiddenDevice = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
) -> None:
    """Upload model, config and card of a run to the Hugging Face hub, and nothing else (token: HF_TOKEN)."""
    from stakes.errors import ConfigError
    from stakes.push import FILES, export_run, push_run

    del seed, device, precision
    if (repo_id is None) == (to_folder is None):
        raise ConfigError(
            "push", expected="REPO_ID or --to-folder DIR", got="neither" if repo_id is None else "both"
        )
    where = push_run(run, repo_id, public=public) if repo_id else str(export_run(run, Path(str(to_folder))))
    say({"files": list(FILES), "where": where}, as_json, f"{where}: {', '.join(FILES)}")
