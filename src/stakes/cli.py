"""The command line: parse, call, print.

Exit codes: 0 done (and, for ``unlearn``, forgotten); 1 a defect in stakes; 2 bad input or settings; 3 the forget set
is not forgotten; 4 output cannot be written; 5 a service or hub cannot be reached; 6 numbers went astray; 7 some cells
of a ``bench`` failed, or an attack that ``audit --attacks`` names was not carried out; 8 ``request verify``: the model
is not the ledger's, or forgotten images are recognised; 130 interrupted (the same command resumes).
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from stakes import (
    __version__,
    cli_analyse,
    cli_audit,
    cli_bench,
    cli_lacuna,
    cli_methods,
    cli_push,
    cli_report,
    cli_request,
    cli_speed,
    cli_tune,
    cli_unlearn,
)
from stakes.cli_inputs import open_sized, training_settings
from stakes.cli_options import (
    AttributesOption,
    DataOption,
    Device,
    DeviceOption,
    EncoderOption,
    JsonOption,
    Precision,
    PrecisionOption,
    RecipeOption,
    SeedOption,
    SetOption,
    SizeOption,
    SourceOption,
    StemOption,
    print_json,
    say,
)
from stakes.cli_processes import one_voice
from stakes.errors import ConfigError, DataError, StakesError

# Typer's own complaints about words on the command line; the class behind BadParameter has moved between versions.
_USAGE: Any = typer.BadParameter.__mro__[2]
INTERRUPTED = 130

app = typer.Typer(
    name="stakes",
    help="Make a trained image classifier forget named training images, and keep the rest.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 2 bad input, 3 not forgotten, 4 cannot write, 5 no network, 6 not finite, "
    "7 some cells of a bench failed or a named attack was not carried out, 8 a ledger does not verify, "
    "130 interrupted (the same command resumes).",
)
app.add_typer(cli_unlearn.commands)
app.add_typer(cli_analyse.commands)
app.add_typer(cli_audit.commands)
app.add_typer(cli_methods.commands)
app.add_typer(cli_bench.commands)
app.add_typer(cli_tune.commands)
app.add_typer(cli_speed.commands)
app.add_typer(cli_lacuna.commands)
app.add_typer(cli_push.commands)
app.add_typer(cli_report.commands)
app.add_typer(cli_request.commands)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"stakes {__version__}")
        raise typer.Exit


@app.callback()
def _everything(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    # What --help says of all of it stands above; a docstring would take its place.
    del version


@app.command()
def pretrain(
    data: SourceOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint.")],
    arch: Annotated[str, typer.Option("--arch", help="Architecture.")] = "resnet18",
    stem: StemOption = None,
    size: SizeOption = None,
    preset: RecipeOption = "own",
    assignments: SetOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Train a BEFORE model. An interrupted training resumes at its last epoch."""
    from stakes.console import live_progress
    from stakes.training import train_checkpoint

    settings = training_settings(preset, precision.value, assignments)
    source = open_sized(data, size)
    with live_progress() as progress:
        record = train_checkpoint(
            source,
            out,
            architecture=arch,
            options={"stem": stem} if stem else {},
            preset=preset,
            settings=settings,
            seed=seed,
            device=device.value,
            progress=progress,
        )
    last = record["history"][-1]
    shown = "unknown" if last["test_accuracy"] is None else f"{last['test_accuracy']:.2f} %"
    say(record, as_json, f"{out}: test accuracy {shown} after {len(record['history'])} epochs")


@app.command()
def anchors(
    out: Annotated[Path, typer.Option("--out", help="Safetensors file to write.")],
    classes: Annotated[
        Path | None, typer.Option("--classes", help="Text file, one class name a line.")
    ] = None,
    data: DataOption = None,
    attributes: AttributesOption = None,
    llm: Annotated[
        str | None, typer.Option("--llm", help="Model of an OpenAI-compatible endpoint (OPENAI_API_KEY).")
    ] = None,
    encoder: EncoderOption = "minilm",
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Build semantic anchors from attributes of the classes (always on the CPU in fp32, without randomness)."""
    from stakes.anchors import build_anchors
    from stakes.data.sources import open_source

    del seed, device, precision
    if (classes is None) == (data is None):
        raise ConfigError(
            "anchors", expected="--classes FILE or --data SRC", got="both" if classes else "neither"
        )
    names = _class_list(classes) if classes else open_source(str(data)).class_names
    made = build_anchors(names, attributes=attributes, llm=llm, encoder=encoder)
    made.save(out)
    result = {
        "file": str(out),
        "classes": list(made.class_names),
        "width": made.width,
        "hash": made.fingerprint(),
    }
    say(result, as_json, f"{out}: {len(made.class_names)} anchors of width {made.width}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("stakes-demo"),
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """The whole path on scikit-learn's handwritten digits: train, anchors, probes, forget 16 images, measure."""
    from stakes.console import live_progress, print_record, print_what_is_unknown
    from stakes.demo import run_demo

    with live_progress() as progress:
        record, run = run_demo(
            out, seed=seed, device=device.value, precision=precision.value, progress=progress
        )
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        print_record(record)
        print_what_is_unknown(record, run)
        typer.echo(f"model: {run / 'model.safetensors'}\nreport: {run / 'report.html'}")
    if not record.forgotten:
        raise typer.Exit(cli_unlearn.NOT_FORGOTTEN)


def main() -> None:
    """Entry point: errors of users become one message and an exit code, never a traceback."""
    code = 0
    with _kept_off_the_disk_cache():
        try:
            with one_voice():
                outcome = app(standalone_mode=False)
            code = outcome if isinstance(outcome, int) else 0
            if code == INTERRUPTED:  # typer turns Ctrl-C into an exit of its own
                raise KeyboardInterrupt
        except StakesError as error:
            told = getattr(error, "told_by_main", False)
            code = error.exit_code if told else _complain(str(error), error.exit_code)
        except (KeyboardInterrupt, typer.Abort):
            code = _complain("Interrupted. The same command resumes.", INTERRUPTED)
        except typer.Exit as leave:
            code = leave.exit_code
        except _USAGE as error:
            error.show()
            code = error.exit_code
    sys.exit(code)


def _complain(message: str, code: int) -> int:
    if "--json" in sys.argv:
        print_json({"error": message, "exit_code": code})
    typer.echo(f"stakes: {message}", err=True)
    return code


@contextlib.contextmanager
def _kept_off_the_disk_cache() -> Iterator[None]:
    """Fork-safe tokenizers without their warning; a temporary home for what libraries would leave behind."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory(prefix="stakes-mpl-") as folder:
        os.environ.setdefault("MPLCONFIGDIR", folder)
        yield


def _class_list(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--classes {file}", expected="a text file, one class name a line", got=str(error)
        ) from None
    return tuple(line.strip() for line in lines if line.strip())
