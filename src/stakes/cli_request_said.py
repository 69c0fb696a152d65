"""What the commands ``request list`` and ``request run`` print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from stakes.ledger import Ledger, RunReport
    from stakes.ledger.view import Request, View

MUCH = 2.0  # points of test accuracy that are worth a hint


def listing(ledger: Ledger, view: View, asked: list[Request]) -> dict[str, Any]:
    """The requests of a ledger, as JSON."""
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


def print_listing(ledger: Ledger, view: View, asked: list[Request]) -> None:
    """The requests of a ledger, as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    found = listing(ledger, view, asked)
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


def report_json(report: RunReport) -> dict[str, Any]:
    """What a run of requests came to, as JSON."""
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


def print_report(report: RunReport) -> None:
    """What a run of requests came to, a line a batch."""
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
