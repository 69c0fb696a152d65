"""The audit trail of one request: hashes, times, runs, figures and checks; no image and no name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stakes.errors import ConfigError
from stakes.files import digest, write_bytes, write_json
from stakes.ledger.audited import findings
from stakes.ledger.events import Asked, Body, Checked, Event, Finished, Settled, Started
from stakes.ledger.folder import Ledger
from stakes.ledger.view import Batch, View
from stakes.records import Figures

LIMIT = (
    '"Forgotten" means that the model misclassified the exact images when it was measured. It does not show that a '
    "membership attack fails, nor that the images cannot be learned again; earlier states of the model and other "
    "copies of it are not covered."
)


def audit_trail(ledger: Ledger, number: int) -> dict[str, Any]:
    """All that the ledger knows about one request, as JSON-able values.

    Left out, since they may tell who asked: the requester's hash, the note, and the path by which the images were
    named. Each event comes with its place in the chain of hashes and the hash of its body.

    Raises:
        LedgerError: no such request, or the ledger is damaged.

    Example:
        >>> audit_trail(ledger, 1)["status"]  # doctest: +SKIP
        'done'
    """
    events = ledger.store.events()
    view = ledger.view()
    request = view.request(number)
    asked = request.asked
    return {
        "schema_version": 1,
        "ledger": view.created.body.ledger,
        "request": number,
        "status": request.status,
        "asked": asked.at,
        "named_by": asked.body.spec.partition(":")[0] or "images",
        "images": list(request.images),
        "done": request.done.at if request.done else None,
        "batches": [_batch(ledger, batch, number) for batch in view.batches if _takes_part(batch, number)],
        "checks": [_check(event, number, len(request.images)) for event in request.checks],
        "original_model": view.created.body.model,
        "current_model": view.current,
        "clock_went_backwards_at": view.backwards,
        "chain": {
            "events": [_link(event) for event in events if _concerns(event, view, number)],
            "head": view.head,
            "length": len(events),
        },
        "limit": LIMIT,
    }


def export_request(ledger: Ledger, number: int, out: str | Path) -> tuple[Path, Path]:
    """Write the audit trail of a request as JSON, and readably as Markdown beside it.

    Args:
        out: file to write; ends in ``.json``, or the suffix is added.

    Returns:
        Both files.

    Raises:
        LedgerError: no such request, or the ledger is damaged.
        OutputError: they cannot be written.
    """
    out = Path(out)
    if out.suffix == ".md":
        raise ConfigError("--out", expected="the name of the JSON file", got=str(out), fix="End it in .json.")
    target = out if out.suffix == ".json" else out.with_name(out.name + ".json")
    trail = audit_trail(ledger, number)
    write_json(target, trail)
    page = target.with_suffix(".md")
    write_bytes(page, markdown(trail).encode())
    return target, page


def markdown(trail: dict[str, Any]) -> str:
    """The trail for people."""
    status = f"done on {trail['done']}" if trail["done"] else trail["status"]
    lines = [
        f"# Request {trail['request']}",
        "",
        f"Asked on {trail['asked']}: forget {len(trail['images'])} images. Status: {status}.",
        "",
        "## Runs",
        "",
        "| run | for requests | method | images | forget accuracy | test accuracy | result |",
        "|---|---|---|---|---|---|---|",
    ]
    for batch in trail["batches"]:
        lines += [_run_line(run) for run in batch["runs"]]
        lines += [
            f"| | {_listed(batch['requests'])} | | | | | **{batch['outcome'] or 'at work'}** {batch['at'] or ''} |"
        ]
    lines += [
        *_audits(trail),
        "",
        "## Checks",
        "",
        "| when | model | images recognised | made |",
        "|---|---|---|---|",
        *(
            f"| {check['at']} | `{check['model'][:12]}` | {check['recognised']} of {check['images']} "
            f"| {'after run ' + str(check['run']) if check['run'] else 'verification'} |"
            for check in trail["checks"]
        ),
        "",
        "## Hashes",
        "",
        f"- ledger: `{trail['ledger']}`, {trail['chain']['length']} events, newest `{trail['chain']['head']}`",
        f"- original model: `{trail['original_model']}`",
        f"- current model: `{trail['current_model']}`",
        *(f"- image: `{name}`" for name in trail["images"]),
        "",
        "## Events",
        "",
        "| number | when | what | hash |",
        "|---|---|---|---|",
        *(
            f"| {event['seq']} | {event['at']} | {event['kind']} | `{event['hash']}` |"
            for event in trail["chain"]["events"]
        ),
        "",
    ]
    if trail["clock_went_backwards_at"]:
        lines += [
            f"The clock went backwards at events {_listed(trail['clock_went_backwards_at'])}; "
            "their order is that of their numbers.",
            "",
        ]
    return "\n".join([*lines, trail["limit"], ""])


def _audits(trail: dict[str, Any]) -> list[str]:
    """What attacks on the model after each run found, of all images that the run was to forget."""
    runs = [run for batch in trail["batches"] for run in batch["runs"]]
    lines = [
        f"- run {run['run']}, {found['attack']}: {found['finding']} *Limit: {found['limit']}*"
        for run in runs
        for found in run["audit"]
    ]
    none = "Not audited: how far the forgetting goes beyond exactly these images is unknown."
    return ["", "## Audit", "", *(lines or [none])]


def _run_line(run: dict[str, Any]) -> str:
    before, after = run["before"], run["after"]
    kind = f"repair {run['round']}" if run["round"] else "own"
    name = f"{run['method']} ({run['preset']})" if run["preset"] else run["method"]
    ended = "forgotten" if run["forgotten"] else "not forgotten" if after else "interrupted"
    return (
        f"| {run['run']} ({kind}) | {_listed(run['forgets_requests'])} | {name} "
        f"| {after['forget_images'] if after else ''} | {_change(before, after, 'forget_accuracy')} "
        f"| {_change(before, after, 'test_accuracy')} | {ended} |"
    )


def _change(before: dict[str, Any] | None, after: dict[str, Any] | None, name: str) -> str:
    if before is None or after is None:
        return ""
    shown = ["unknown" if one[name] is None else f"{one[name]:.2f} %" for one in (before, after)]
    return " → ".join(shown)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _batch(ledger: Ledger, batch: Batch, number: int) -> dict[str, Any]:
    return {
        "requests": list(batch.requests),
        "outcome": batch.outcome,
        "at": batch.settled.at if batch.settled else None,
        "came_back_and_repaired": list(batch.came_back) if batch.outcome == "done" else [],
        "runs": [
            _run(attempt.started, attempt.finished) | {"audit": _audit(ledger, attempt.finished)}
            for attempt in batch.attempts
            if number in {*attempt.started.body.forget, *batch.requests}
        ],
    }


def _takes_part(batch: Batch, number: int) -> bool:
    """Whether the request was carried out in the batch, or repaired in it."""
    return number in batch.requests or any(number in one.started.body.forget for one in batch.attempts)


def _run(started: Event[Started], finished: Event[Finished] | None) -> dict[str, Any]:
    def figures(found: Figures | None) -> dict[str, Any] | None:
        return found.model_dump(mode="json") if found is not None else None

    begun, ended = started.body, finished.body if finished else None
    return {
        "run": begun.run,
        "round": begun.round,
        "forgets_requests": list(begun.forget),
        "started": started.at,
        "finished": finished.at if finished else None,
        "method": begun.options.method,
        "preset": begun.options.preset,
        "settings": begun.options.settings,
        "seed": begun.options.run.get("seed"),
        "model_before": begun.base,
        "model_after": ended.model if ended else None,
        "forgotten": ended.forgotten if ended else None,
        "before": figures(ended.before if ended else None),
        "after": figures(ended.after if ended else None),
        "steps": ended.steps if ended else None,
        "stop_reason": ended.stop_reason if ended else None,
        "record": ended.record if ended else None,
    }


def _audit(ledger: Ledger, finished: Event[Finished] | None) -> list[dict[str, str]]:
    return findings(ledger, finished.body.run, finished.body.model) if finished else []


def _check(event: Event[Checked], number: int, images: int) -> dict[str, Any]:
    hits = event.body.recognised.get(number, ())
    return {
        "at": event.at,
        "model": event.body.model,
        "run": event.body.run,
        "images": images,
        "recognised": len(hits),
        "recognised_images": list(hits),
    }


def _link(event: Event[Body]) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "at": event.at,
        "kind": event.body.kind,
        "body": digest(event.body.text()),
        "previous": event.previous,
        "hash": event.hash,
    }


def _concerns(event: Event[Body], view: View, number: int) -> bool:
    body = event.body
    if isinstance(body, Asked):
        return body.request == number
    if isinstance(body, (Started, Settled, Checked)):
        return number in body.requests or (isinstance(body, Started) and number in body.forget)
    if isinstance(body, Finished):
        return _concerns(view.attempts[body.run].started, view, number)
    return False
