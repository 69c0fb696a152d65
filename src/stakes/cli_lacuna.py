"""The command ``lacuna``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stakes.cli_options import (
    Device,
    HiddenDevice,
    HiddenPrecision,
    JsonOption,
    Precision,
    SeedOption,
    say,
)

commands = typer.Typer()


@commands.command()
def lacuna(
    source: Annotated[Path, typer.Argument(help="Your VGGFace2: a folder of images for each person.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for train.parquet and test.parquet.")],
    identities: Annotated[int, typer.Option("--identities", help="10 or 100 people.")] = 10,
    least: Annotated[
        int, typer.Option("--least", min=2, help="Different images that a person must have.")
    ] = 500,
    test_images: Annotated[
        int, typer.Option("--test-images", min=1, help="Of each person, for the test.")
    ] = 100,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    device: HiddenDevice = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
) -> None:
    """Build Lacuna-10 or Lacuna-100 from VGGFace2. For one seed they share neither a person nor an image."""
    from stakes.config import build
    from stakes.console import live_progress
    from stakes.data.lacuna import LacunaSettings, build_lacuna

    del device, precision
    asked = {"identities": identities, "seed": seed, "least": least, "test_images": test_images}
    with live_progress() as progress:
        told = build_lacuna(source, out, build(LacunaSettings, asked), progress=progress)
    line = f"{out}: {len(told['people'])} people, {told['train_images']} training and {told['test_images']} test images"
    say(told, as_json, line)
