"""The commands ``request init``, ``add``, ``list``, ``run``, ``verify``, ``export`` and ``prune``.

Exit codes beside those of the command line: ``run`` 3 where some request is not done; ``verify`` 8 where the model is
not the ledger's, or recognises what was forgotten.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from stakes.ledger import Ledger, RunReport
    from stakes.ledger.view import Request, View

NOT_DONE = 3
MUCH = 2.0  # points of test accuracy that are worth a hint
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
        print_json(_listing(opened, view, asked))
    else:
        _print_listing(opened, view, asked)


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
        bool,
        typer.Option(
            "--reference-first",
            help="Hold the model to the answers of the first one, not of the current one.",
        ),
    ] = False,
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
            preset=preset_label(preset or configured.default_preset, assignments),
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
        print_json(_report(report))
    else:
        _print_report(report)
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
    line = (
        f"{len(found.checked)} requests, {total} images: none is recognised by the model {found.model[:12]}…"
    )
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


def _listing(ledger: Ledger, view: View, asked: list[Request]) -> dict[str, Any]:
    return {
        "ledger": view.created.body.ledger,
        "model": view.current,
        "folder": str(ledger.states.folder(view.current)),
        "states": [state for state in view.adopted if state not in view.pruned],
        "head": view.head,
        "clock_went_backwards_at": view.backwards,
        "requests": [
            {
                "request": request.number,
                "asked": request.asked.at,
                "images": len(request.images),
                "spec": request.asked.body.spec,
                "note": request.asked.body.note,
                "status": request.status,
                "done": request.done.at if request.done else None,
                "tries": [batch.outcome or "at work" for batch in request.tries],
                "checks": len(request.checks),
                "last_check": request.checks[-1].at if request.checks else None,
                "last_recognised": len(request.checks[-1].body.recognised.get(request.number, ()))
                if request.checks
                else None,
            }
            for request in asked
        ],
    }


def _print_listing(ledger: Ledger, view: View, asked: list[Request]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    found = _listing(ledger, view, asked)
    table = Table()
    for name in ("request", "asked", "images", "status", "tries", "last check", "recognised then", "note"):
        table.add_column(name)
    for row in found["requests"]:
        table.add_row(
            str(row["request"]),
            row["asked"],
            str(row["images"]),
            row["status"],
            ", ".join(row["tries"]),
            row["last_check"] or "",
            "" if row["last_recognised"] is None else str(row["last_recognised"]),
            escape(row["note"]),
        )
    Console().print(table)
    typer.echo(f"current model: {found['folder']}\nstates kept: {len(found['states'])}")
    if found["clock_went_backwards_at"]:
        typer.echo("The clock went backwards at times; requests are in the order of their arrival.")


def _report(report: RunReport) -> dict[str, Any]:
    return {
        "done": report.done,
        "model": report.model,
        "folder": str(report.folder),
        "first": report.first.model_dump(mode="json") if report.first else None,
        "batches": [
            {
                "requests": list(batch.requests),
                "outcome": batch.outcome,
                "came_back": list(batch.came_back),
                "recognised": {str(number): len(names) for number, names in batch.recognised.items()},
                "runs": list(batch.runs),
                "before": batch.before.model_dump(mode="json") if batch.before else None,
                "after": batch.after.model_dump(mode="json") if batch.after else None,
            }
            for batch in report.batches
        ],
    }


def _print_report(report: RunReport) -> None:
    for batch in report.batches:
        line = f"request {', '.join(map(str, batch.requests))}: {batch.outcome}"
        if batch.came_back:
            line += f"; brought back {', '.join(map(str, batch.came_back))}"
        if len(batch.runs) > 1:
            line += f"; {len(batch.runs) - 1} repairs"
        if batch.before and batch.after and batch.after.test_accuracy is not None:
            line += f"; test accuracy {batch.before.test_accuracy:.2f} → {batch.after.test_accuracy:.2f} %"
        typer.echo(line)
    if not report.batches:
        typer.echo("nothing is pending")
    if not report.done:
        typer.echo("Requests that are not done stay pending, and the current model stays as it was.")
    if (lost := _since_first(report)) is not None:
        start, now = lost
        line = f"since the first model: test accuracy {start:.2f} → {now:.2f} %"
        if start - now > MUCH:
            line += "; next time --afresh, which does not add up, if the first model is still there"
        typer.echo(line)
    typer.echo(f"current model: {report.folder}")


def _since_first(report: RunReport) -> tuple[float, float] | None:
    """Test accuracy of the first model and of the current one, where the last run began with another than the first."""
    last = next((batch for batch in reversed(report.batches) if batch.outcome == "done"), None)
    if report.first is None or last is None or last.before is None or last.after is None:
        return None
    start, begun, now = (one.test_accuracy for one in (report.first, last.before, last.after))
    return None if start is None or now is None or begun == start else (start, now)
