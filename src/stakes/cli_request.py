"""The commands ``request init``, ``add``, ``list``, ``run``, ``verify``, ``export`` and ``prune``.

Exit codes beside those of the command line: ``run`` 3 where some request is not done; ``verify`` 8 where the model is
not the ledger's, or recognises what was forgotten.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stakes.cli_inputs import choose_anchors, preset_label
from stakes.cli_options import (
    AnchorsOption,
    AttributesOption,
    DataOption,
    Device,
    DeviceOption,
    EncoderOption,
    ForgetOption,
    HiddenDevice,
    HiddenPrecision,
    HiddenSeed,
    JsonOption,
    MethodOption,
    ModelOption,
    PickleOption,
    Precision,
    PrecisionOption,
    PresetOption,
    RetainSampleOption,
    SeedOption,
    SetOption,
    UnlabelledMostOption,
    UnlabelledOption,
    print_json,
    say,
)
from stakes.cli_request_said import listing, print_listing, print_report, report_json

NOT_DONE = 3
CAME_BACK = 8
commands = typer.Typer(
    name="request", help="Deletion requests over years, in a ledger beside the model.", no_args_is_help=True
)

LedgerArgument = Annotated[Path, typer.Argument(help="Folder of the ledger.")]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", help="Folder with images that the data lack (CLASS subfolders).")
]


@commands.command()
def init(
    ledger: LedgerArgument,
    model: ModelOption,
    data: DataOption = None,
    keep_images: Annotated[
        bool,
        typer.Option("--keep-images", help="Keep the images to forget, so that verifying needs no data."),
    ] = False,
    allow_pickle: PickleOption = False,
    seed: HiddenSeed = 0,
    device: HiddenDevice = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Make a ledger for a deployed model."""
    from stakes.ledger import create_ledger

    del seed, device, precision
    made = create_ledger(ledger, model, data=data, keep_images=keep_images, allow_pickle=allow_pickle)
    state = made.view().current
    say({"ledger": str(ledger), "model": state}, as_json, f"{ledger}: a ledger for the model {state[:12]}…")


@commands.command()
def add(
    ledger: LedgerArgument,
    forget: ForgetOption,
    data: DataOption = None,
    requester: Annotated[
        str | None,
        typer.Option("--requester", help="Who asked; kept as a keyed hash. '-' reads it from stdin."),
    ] = None,
    note: Annotated[str, typer.Option("--note", help="Kept as it stands: no names here.")] = "",
    seed: SeedOption = 0,
    device: HiddenDevice = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Take a request down. Nothing is unlearned yet."""
    from stakes.ledger import add_request, open_ledger

    del device, precision
    who = sys.stdin.readline() if requester == "-" else requester
    added = add_request(open_ledger(ledger), forget, data=data, requester=who, note=note, seed=seed)
    result = {
        "request": added.number,
        "at": added.at,
        "images": added.images,
        "again": {str(number): count for number, count in added.again.items()},
    }
    line = f"request {added.number}: {added.images} images, pending"
    for number, count in added.again.items():
        line += f"\n{count} of them are in request {number} too"
    say(result, as_json, line)


@commands.command("list")
def list_requests(
    ledger: LedgerArgument,
    requester: Annotated[
        str | None, typer.Option("--requester", help="Only requests of whom; '-' reads it from stdin.")
    ] = None,
    seed: HiddenSeed = 0,
    device: HiddenDevice = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Show all requests, the current model and the states that are kept."""
    from stakes.ledger import open_ledger
    from stakes.ledger.requester import hashed, read_key

    del seed, device, precision
    opened = open_ledger(ledger)
    view = opened.view()
    asked = list(view.requests.values())
    if requester is not None:
        name = sys.stdin.readline() if requester == "-" else requester
        wanted = hashed(name, read_key(opened.key, view.created.body.key_check))
        asked = [request for request in asked if request.asked.body.requester == wanted]
    if as_json:
        print_json(listing(opened, view, asked))
    else:
        print_listing(opened, view, asked)


@commands.command()
def run(
    ledger: LedgerArgument,
    data: DataOption = None,
    images: ImagesOption = None,
    together: Annotated[bool, typer.Option("--together", help="All pending requests as one.")] = False,
    afresh: Annotated[
        bool,
        typer.Option("--afresh", help="From the first model, with the images of all requests that are done."),
    ] = False,
    reference_first: Annotated[
        bool | None,
        typer.Option(
            "--reference-first/--reference-current",
            help="Whose answers the model is to keep. Default: the first one's, if it was not pruned.",
            show_default=False,
        ),
    ] = None,
    unlabelled: UnlabelledOption = None,
    unlabelled_most: UnlabelledMostOption = None,
    anchors_file: AnchorsOption = None,
    attributes: AttributesOption = None,
    encoder: EncoderOption = "minilm",
    method: MethodOption = "structguard",
    preset: PresetOption = None,
    assignments: SetOption = None,
    repair_rounds: Annotated[
        int, typer.Option("--repair-rounds", min=0, help="Most repairs of what came back, for each batch.")
    ] = 3,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Give up a batch that was interrupted, and begin it anew.")
    ] = False,
    retain_sample: RetainSampleOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Carry out the pending requests, check all earlier ones, repair what came back. Exit 3: some are not done."""
    from stakes.config import parse_assignments
    from stakes.console import live_progress
    from stakes.ledger import open_ledger, run_requests
    from stakes.methods import find_method
    from stakes.report.page import write_page

    configured = find_method(method).configure(preset, parse_assignments(assignments or []))
    settings: dict[str, Any] = {} if unlabelled_most is None else {"unlabelled_most": unlabelled_most}
    opened = open_ledger(ledger)
    names = opened.view().created.body.class_names
    anchors = choose_anchors("anchors" in configured.needs, names, anchors_file, attributes, encoder)
    with live_progress() as progress:
        report = run_requests(
            opened,
            data=data,
            images=images,
            together=together,
            afresh=afresh,
            reference_first=reference_first,
            unlabelled=unlabelled,
            anchors=anchors,
            method=configured,
            preset=preset_label(preset or configured.default_preset, bool(assignments)),
            repair_rounds=repair_rounds,
            abandon=abandon,
            progress=progress,
            seed=seed,
            device=device.value,
            precision=precision.value,
            retain_sample=retain_sample,
            **settings,
        )
    for batch in report.batches:
        for number in batch.runs:
            write_page(opened.run(number))
    if as_json:
        print_json(report_json(report))
    else:
        print_report(report)
    if not report.done:
        raise typer.Exit(NOT_DONE)


@commands.command()
def verify(
    ledger: LedgerArgument,
    model: Annotated[
        str | None,
        typer.Option("--model", help="The deployed checkpoint; left out, the ledger's current state."),
    ] = None,
    data: DataOption = None,
    images: ImagesOption = None,
    head: Annotated[
        str | None, typer.Option("--head", help="Hash that an earlier verification gave: must be there.")
    ] = None,
    allow_pickle: PickleOption = False,
    seed: HiddenSeed = 0,
    device: DeviceOption = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Measure the deployed model against all that was ever forgotten. Exit 8: another model, or something came back."""
    from stakes.console import live_progress
    from stakes.ledger import open_ledger, verify_ledger

    del seed, precision
    with live_progress() as progress:
        found = verify_ledger(
            open_ledger(ledger),
            model=model,
            data=data,
            images=images,
            head=head,
            device=device.value,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    result = {
        "ok": found.ok,
        "problems": found.problems(),
        "model": found.model,
        "expected": found.expected,
        "checked": list(found.checked),
        "recognised": {str(number): list(names) for number, names in found.recognised.items()},
        "pending": list(found.pending),
        "clock_went_backwards_at": list(found.backwards),
        "head": found.head,
    }
    total = sum(found.images.values())
    line = f"requests: {len(found.checked)}, images: {total}; none is recognised by the model {found.model[:12]}…"
    if not found.ok:
        line = "VERIFICATION FAILED"
        for problem in found.problems():
            typer.echo(f"stakes: {problem}", err=True)
    pending = f"\npending, so not covered: {', '.join(map(str, found.pending))}" if found.pending else ""
    say(result, as_json, f"{line}{pending}\nhead: {found.head}")
    if not found.ok:
        raise typer.Exit(CAME_BACK)


@commands.command()
def export(
    ledger: LedgerArgument,
    number: Annotated[int, typer.Argument(help="Number of the request.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write; Markdown goes beside it.")],
    seed: HiddenSeed = 0,
    device: HiddenDevice = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Write the audit trail of one request: hashes, times, runs, figures, checks; no images, no names."""
    from stakes.ledger import export_request, open_ledger

    del seed, device, precision
    files = export_request(open_ledger(ledger), number, out)
    say({"files": [str(file) for file in files]}, as_json, "\n".join(map(str, files)))


@commands.command()
def prune(
    ledger: LedgerArgument,
    keep: Annotated[int, typer.Option("--keep", min=1, help="States to keep, the current one included.")],
    keep_first: Annotated[
        bool, typer.Option("--keep-first", help="Keep the first model as well, for run --afresh.")
    ] = False,
    seed: HiddenSeed = 0,
    device: HiddenDevice = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Drop earlier states of the model; they remember what was forgotten since."""
    from stakes.ledger import open_ledger, prune_states

    del seed, device, precision
    report = prune_states(open_ledger(ledger), keep, keep_first=keep_first)
    result = {"kept": list(report.kept), "removed": list(report.removed)}
    say(result, as_json, f"{len(report.removed)} states removed, {len(report.kept)} kept")
