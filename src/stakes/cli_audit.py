"""The commands ``audit`` and ``audit-references``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stakes.cli_inputs import open_sized, training_settings
from stakes.cli_options import (
    SOME_FAILED,
    Device,
    DeviceOption,
    HiddenPrecision,
    JsonOption,
    PickleOption,
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

if TYPE_CHECKING:
    from stakes.audit import AuditReport
    from stakes.data.images import ImageSet
    from stakes.data.sources import Source

commands = typer.Typer()


@commands.command()
def audit(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    attacks: Annotated[
        str | None,
        typer.Option(
            "--attacks",
            help="Some of changes,membership,relearning,linear-probe,distance; left out, all that are possible.",
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            help="Checkpoint that did not see the images, or a folder of audit-references. Any number.",
        ),
    ] = None,
    retrained: Annotated[
        list[str] | None,
        typer.Option("--retrained", help="Checkpoint trained without the forget set. Any number."),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Where the data is now, if it moved.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Where the original checkpoint is now, if it moved.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, such as membership.unseen=5000.")
    ] = None,
    allow_pickle: PickleOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Attack an unlearned model (always in fp32): what is still there, in numbers, and what that does not show.

    Exit 7: an attack that --attacks names could not be carried out; it says why.
    """
    from stakes.config import parse_assignments

    del precision
    report = carried_out(
        run,
        attacks=[name.strip() for name in attacks.split(",")] if attacks is not None else None,
        reference=reference or [],
        retrained=retrained or [],
        settings=parse_assignments(assignments or []),
        seed=seed,
        device=device.value,
        data=data,
        model=model,
        allow_pickle=allow_pickle,
    )
    if as_json:
        print_json(_as_json(report))
    else:
        show_audit(report)
    if attacks is not None and report.skipped:
        raise typer.Exit(SOME_FAILED)


def carried_out(run: Path, **call: Any) -> AuditReport:
    """The audit of a run folder, with its progress shown."""
    from stakes.audit import audit as attack
    from stakes.console import live_progress

    with live_progress() as progress:
        return attack(run, progress=progress, **call)


@commands.command(name="audit-references")
def audit_references(
    data: SourceOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the models.")],
    arch: Annotated[str, typer.Option("--arch", help="Architecture; best that of the audited model.")],
    models: Annotated[int, typer.Option("--models", min=1, help="How many; best an even number.")] = 2,
    without: Annotated[
        Path | None,
        typer.Option(
            "--without",
            help="Run folder: train on everything but its forget set instead of on halves, for --retrained.",
        ),
    ] = None,
    stem: StemOption = None,
    size: SizeOption = None,
    preset: RecipeOption = "own",
    assignments: SetOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Train models to compare with: on random halves of the training split, or on all but a forget set."""
    from stakes.audit import train_references
    from stakes.console import live_progress

    settings = training_settings(preset, precision.value, assignments)
    source = open_sized(data, size)
    with live_progress() as progress:
        folders = train_references(
            source,
            out,
            architecture=arch,
            settings=settings,
            models=models,
            options={"stem": stem} if stem else {},
            preset=preset,
            seed=seed,
            device=device.value,
            without=_forget_set(without, source) if without is not None else None,
            progress=progress,
        )
    use = "--reference" if without is None else "--retrained"
    say(
        {"models": [str(folder) for folder in folders]},
        as_json,
        f"{len(folders)} models; use them with: stakes audit RUN {use} {out}",
    )


def _forget_set(run: Path, source: Source) -> ImageSet:
    """The images that a run forgot, found again in the data."""
    from stakes.data.forget import split_forget
    from stakes.errors import DataError
    from stakes.records import Record

    record = Record.load(run / "record.json")
    size = (source.train or source.test).size  # type: ignore[union-attr]
    split = split_forget(
        record.request.get("forget", ""), source, class_names=source.class_names, size=size, seed=record.seed
    )
    if split.forget.fingerprint() != record.hashes.forget_set:
        raise DataError(f"forget set of {run}", expected="the one of its record", got="another in this data")
    return split.forget


def _as_json(report: AuditReport) -> dict[str, Any]:
    return {
        "sections": {name: section.model_dump(mode="json") for name, section in report.sections.items()},
        "skipped": report.skipped,
        "seconds": report.seconds,
        "notes": list(report.notes),
        "page": str(report.page),
    }


def show_audit(report: AuditReport) -> None:
    """What each attack found, its limit and its cost, and where the page is."""
    for name, section in report.sections.items():
        passes = (
            f"{section.settings['images forward']:,} images forward, "
            f"{section.settings['images backward']:,} backward, {report.seconds[name]:.1f} s"
        )
        typer.echo(f"{name}: {section.sentence}\n  limit: {section.limit}\n  cost: {passes}\n")
    for name, reason in report.skipped.items():
        typer.echo(f"{name}: skipped: {reason}.\n")
    for note in report.notes:
        typer.echo(note)
    typer.echo(f"report: {report.page}")
