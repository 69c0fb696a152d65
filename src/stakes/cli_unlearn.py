"""The commands ``unlearn`` and ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stakes.cli_audit import carried_out, show_audit
from stakes.cli_inputs import choose_anchors, open_problem, preset_label
from stakes.cli_options import (
    AnchorsOption,
    AttributesOption,
    DataOption,
    Device,
    DeviceOption,
    DryRunOption,
    EncoderOption,
    ForgetOption,
    JsonOption,
    MethodOption,
    ModelOption,
    PickleOption,
    Precision,
    PrecisionOption,
    PresetOption,
    ReferenceOption,
    RetainSampleOption,
    SeedOption,
    SetOption,
    TrackOption,
    UnlabelledMostOption,
    UnlabelledOption,
    print_json,
)
from stakes.cli_processes import alone_for, speaks
from stakes.cli_tune import TuneOption, search_first, told_of

if TYPE_CHECKING:
    from stakes.data.forget import ForgetSplit
    from stakes.methods import Method
    from stakes.models.classifier import Classifier

NOT_FORGOTTEN = 3
commands = typer.Typer()


@commands.command()
def unlearn(
    model: ModelOption,
    forget: ForgetOption,
    out: Annotated[Path, typer.Option("--out", help="Run folder: new, or of the same request (resumes).")],
    data: DataOption = None,
    reference: ReferenceOption = None,
    unlabelled: UnlabelledOption = None,
    unlabelled_most: UnlabelledMostOption = None,
    anchors_file: AnchorsOption = None,
    attributes: AttributesOption = None,
    encoder: EncoderOption = "minilm",
    method: MethodOption = "structguard",
    preset: PresetOption = None,
    assignments: SetOption = None,
    tune: TuneOption = None,
    retain_sample: RetainSampleOption = None,
    milestones: Annotated[
        bool,
        typer.Option("--milestones", help="Keep the weights when 50, 80, 95 and 100 % are misclassified."),
    ] = False,
    audit: Annotated[
        bool,
        typer.Option("--audit", help="Then say how far the forgetting goes, as `stakes audit` does."),
    ] = False,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder for probes and predictions.")] = None,
    dry_run: DryRunOption = False,
    track: TrackOption = None,
    allow_pickle: PickleOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Forget images: probes, unlearning, and a model measured as it was saved."""
    from stakes.api import unlearn as call
    from stakes.config import parse_assignments
    from stakes.console import live_progress, print_record, print_what_is_unknown
    from stakes.methods import find_method
    from stakes.models.checkpoint import load_checkpoint
    from stakes.processes import current
    from stakes.records import Record
    from stakes.report.page import write_page
    from stakes.tracking import tracking

    if audit:
        alone_for("--audit", "Leave it out, and run stakes audit afterwards, in one process.")
    given = parse_assignments(assignments or [])
    configured = find_method(method).configure(preset, given)
    classifier, split, source = open_problem(
        model, data, forget, seed, unlabelled=unlabelled, allow_pickle=allow_pickle
    )
    settings: dict[str, Any] = {
        "seed": seed,
        "device": device.value,
        "precision": precision.value,
        "retain_sample": retain_sample,
        "milestones": milestones,
    }
    if unlabelled_most is not None:
        settings["unlabelled_most"] = unlabelled_most
    if dry_run:
        _say_estimate(classifier, split, configured, settings, out, cache, as_json, tune or 0)
        if audit and not as_json:
            typer.echo("The audit comes on top.")
        return
    kept = load_checkpoint(reference, allow_pickle=allow_pickle) if reference is not None else None
    needed = "anchors" in configured.needs
    anchor_set = choose_anchors(needed, classifier.class_names, anchors_file, attributes, encoder)
    tuned = None
    if tune is not None:
        tuned = search_first(
            out,
            as_json=as_json,
            model=classifier,
            split=split,
            method=method,
            preset=preset,
            settings=given,
            trials=tune,
            reference=kept,
            anchors=anchor_set,
            cache=cache,
            **settings,
        )
        configured = tuned.method
    changed = bool(assignments) or (tuned is not None and tuned.changed)
    shown = {
        "method": method,
        "preset": preset,
        "seed": seed,
        "settings": configured.settings.model_dump(mode="json"),
    }
    with (
        tracking((track or []) if speaks() else [], folder=out, config=shown) as tracked,
        live_progress(quiet=not speaks()) as progress,
    ):
        result = call(
            classifier,
            split,
            reference=kept,
            anchors=anchor_set,
            method=configured,
            preset=preset_label(preset or configured.default_preset, changed),
            out=out,
            cache=cache,
            request={"model": model, "data": data, "forget": forget, "note": source.note if source else ""}
            | ({} if reference is None else {"reference": reference})
            | ({} if unlabelled is None else {"unlabelled": unlabelled})
            | told_of(tuned, out),
            progress=tracked.following(progress),
            **settings,
        )
        tracked.final(result.record)
    page = current().from_main(lambda: write_page(out))
    record = result.record
    if not as_json:
        print_record(record)
        typer.echo(f"model: {out / 'model.safetensors'}\nreport: {page}")
    if audit:
        found = carried_out(out, seed=seed, device=device.value, allow_pickle=allow_pickle)
        record = Record.load(out / "record.json")
        if not as_json:
            show_audit(found)
    elif not as_json:
        print_what_is_unknown(record, out)
    if as_json:
        print_json(record.model_dump(mode="json"))
    if not record.forgotten:
        raise typer.Exit(NOT_FORGOTTEN)


def _say_estimate(
    classifier: Classifier,
    split: ForgetSplit,
    method: Method[Any],
    settings: dict[str, Any],
    out: Path,
    cache: Path | None,
    as_json: bool,
    trials: int,
) -> None:
    from rich.console import Console

    from stakes.api import default_cache
    from stakes.config import RunSettings, build
    from stakes.console import estimate_tables
    from stakes.estimate import estimate

    run = build(RunSettings, settings)
    found = estimate(classifier, split, method, run, out=out, cache=cache or default_cache(), trials=trials)
    if as_json:
        print_json(found.to_json())
        return
    for shown in estimate_tables(found):
        Console().print(shown)


@commands.command()
def evaluate(
    model: ModelOption,
    forget: ForgetOption,
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file to write.")] = None,
    retain_sample: RetainSampleOption = None,
    unlabelled: Annotated[
        str | None,
        typer.Option("--unlabelled", help="test:N, where a run was given that: they are not measured on."),
    ] = None,
    allow_pickle: PickleOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Measure test, retain and forget accuracy of a checkpoint or a run (always in fp32)."""
    from rich.console import Console

    from stakes.api import evaluate as call
    from stakes.console import figures_table, live_progress
    from stakes.data.unlabelled import held_back
    from stakes.errors import DataError
    from stakes.files import write_json

    if unlabelled is not None and not held_back(unlabelled):
        raise DataError(
            "--unlabelled of evaluate",
            expected="test:N, images of the test split to leave out",
            got=repr(unlabelled),
            fix="Leave it out: images from elsewhere are not measured on.",
        )
    classifier, split, _ = open_problem(
        model, data, forget, seed, unlabelled=unlabelled, allow_pickle=allow_pickle
    )
    with live_progress(quiet=not speaks()) as progress:
        figures = call(
            classifier,
            split,
            progress=progress,
            seed=seed,
            device=device.value,
            precision=precision.value,
            retain_sample=retain_sample,
        )
    result = {
        "model": model,
        "forget": forget,
        "seed": seed,
        "figures": figures.model_dump(mode="json"),
        "hashes": {"model": classifier.fingerprint(), "forget_set": split.forget.fingerprint()},
    }
    if out is not None and speaks():
        write_json(out, result)
    if as_json:
        print_json(result)
    else:
        Console().print(figures_table([(model, figures)]))
