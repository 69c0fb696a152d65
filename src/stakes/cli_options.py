"""Options that more than one command takes, and how a command speaks."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Precision(StrEnum):
    """Number format of network passes while probes are made and steps are taken."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


SOME_FAILED = 7
"""Exit code of a command that did a part of what it was asked for by name."""
MAX_SEED = 2**63 - 1
"""The largest that PyTorch's generators take on every platform."""
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed of everything drawn at random.")
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute.")]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="fp32, bf16 or fp16; measuring is fp32.")
]
# Commands that draw nothing or compute nothing take these all the same: every command has them.
HiddenSeed = Annotated[int, typer.Option("--seed", hidden=True)]
HiddenDevice = Annotated[Device, typer.Option("--device", hidden=True)]
HiddenPrecision = Annotated[Precision, typer.Option("--precision", hidden=True)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="Folder with train/test.parquet, image folder, hub id, or 'digits'."),
]
SourceOption = Annotated[str, typer.Option("--data", help="Folder, image folder, hub id, or 'digits'.")]
ModelOption = Annotated[
    str, typer.Option("--model", help="Checkpoint (file or folder), run folder, or hub id.")
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        "--reference",
        help="Checkpoint whose answers are to be kept: for a model that forgot before, the one from before that.",
    ),
]
ForgetOption = Annotated[
    str,
    typer.Option(
        "--forget", help="files:LIST, indices:LIST, class:NAME, random:K or images:DIR (CLASS subfolders)."
    ),
]
PluginsOption = Annotated[
    list[Path] | None,
    typer.Option("--plugins", help="Python file with methods of your own. It is run. Any number."),
]
AttributesOption = Annotated[
    Path | None, typer.Option("--attributes", help="JSON file: class names, each with a list of attributes.")
]
AnchorsOption = Annotated[
    Path | None,
    typer.Option("--anchors", help="Anchors as safetensors, for presets that align and for analyses."),
]
EncoderOption = Annotated[
    str, typer.Option("--encoder", help="minilm (offline), clip-vit-b-32, siglip, sbert, or a model's name.")
]
UnlabelledOption = Annotated[
    str | None,
    typer.Option(
        "--unlabelled",
        help="Folder of images without labels, like those the model sees, to go on answering on as now; or test:N.",
    ),
]
UnlabelledMostOption = Annotated[
    int | None,
    typer.Option("--unlabelled-most", min=1, help="Take at most that many of them, drawn by seed [4096]."),
]
MethodOption = Annotated[str, typer.Option("--method", help="Name of the method.")]
PresetOption = Annotated[str | None, typer.Option("--preset", help="Named settings of the method.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="key=value, any number.")]
StemOption = Annotated[
    str | None, typer.Option("--stem", help="imagenet, cifar, or cifar-maxpool (the paper's).")
]
SizeOption = Annotated[int | None, typer.Option("--size", min=1, help="Side of the images in pixels.")]
RecipeOption = Annotated[str, typer.Option("--preset", help="own, published, or demo.")]
PickleOption = Annotated[
    bool, typer.Option("--allow-pickle", help="Accept .pt/.pth/.bin checkpoints, loaded weights-only.")
]
RetainSampleOption = Annotated[
    int | None,
    typer.Option("--retain-sample", min=1, help="Measure retain accuracy on that many images."),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Say image passes, time, disk and memory; run nothing."),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option("--track", help="tensorboard, wandb, mlflow or trackio, any number; see extra 'track'."),
]


def say(result: Any, as_json: bool, line: str) -> None:
    """Print the result as JSON, or one line for people."""
    if as_json:
        print_json(result)
    else:
        typer.echo(line)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    typer.echo(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))
