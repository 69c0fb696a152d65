"""What the command line shows: progress with an estimate on stderr, tables on stdout."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from stakes.progress import Progress as ProgressCall
from stakes.progress import silent
from stakes.records import Figures, Record
from stakes.report.arrangement import audited

if TYPE_CHECKING:
    from stakes.estimate import Estimate

_SHOWN = {"loss": "loss {:.3f}", "forget_accuracy": "forget {:.1f} %", "test_accuracy": "test {:.1f} %"}

MUCH = 1.0  # points of accuracy lost that are worth a hint


@contextmanager
def live_progress(*, quiet: bool = False) -> Iterator[ProgressCall]:
    """Bars for each phase, with how long it still takes; plain lines where stderr is no terminal."""
    console = Console(stderr=True)
    if quiet:
        yield silent
        return
    if not console.is_terminal:
        yield _plain(console)
        return
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int, **figures: float) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total, figures="")
            shown = "  ".join(text.format(figures[name]) for name, text in _SHOWN.items() if name in figures)
            bars.update(tasks[phase], completed=done, total=total)
            if shown:
                bars.update(tasks[phase], figures=shown)

        yield report


def _plain(console: Console) -> ProgressCall:
    """One line a phase and tenth of it: for logs."""
    last: dict[str, int] = {}

    def report(phase: str, done: int, total: int, **figures: float) -> None:
        tenth = 10 * done // max(total, 1)
        if last.get(phase) == tenth:
            return
        last[phase] = tenth
        shown = "  ".join(text.format(figures[name]) for name, text in _SHOWN.items() if name in figures)
        console.print(f"{phase}: {done}/{total}  {shown}".rstrip(), highlight=False)

    return report


def figures_table(rows: Sequence[tuple[str, Figures]], title: str = "") -> Table:
    """Accuracies in percent, a row for each classifier."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("test", "retain", "forget"):
        table.add_column(f"{name} accuracy", justify="right")
    for label, figures in rows:
        values = (figures.test_accuracy, figures.retain_accuracy, figures.forget_accuracy)
        table.add_row(label, *(_percent(value) for value in values))
    return table


def cost_table(record: Record) -> Table:
    """Seconds and image passes of each phase."""
    table = Table(title="cost", title_justify="left")
    table.add_column("phase")
    for name in ("seconds", "images forward", "images backward"):
        table.add_column(name, justify="right")
    for phase in record.phases:
        table.add_row(
            phase.name, f"{phase.seconds:.1f}", f"{phase.forward_images:,}", f"{phase.backward_images:,}"
        )
    return table


def estimate_tables(found: Estimate) -> list[Table | str]:
    """Passes and time by phase, then disk and memory by what takes them."""
    phases = Table(title=f"at most, by one process on {found.device}", title_justify="left")
    phases.add_column("phase")
    for name in ("images forward", "images backward", "time"):
        phases.add_column(name, justify="right")
    for name, phase in found.phases.items():
        phases.add_row(name, f"{phase.forward:,}", f"{phase.backward:,}", _duration(phase.seconds))
    phases.add_row("together", "", "", _duration(found.seconds))
    space = Table(title="bytes", title_justify="left")
    space.add_column("")
    space.add_column("at most", justify="right")
    for title, parts in (("disk", found.disk), ("memory", found.memory)):
        for name, size in parts.items():
            space.add_row(f"{title}: {name}", _size(size))
        space.add_row(f"{title}, together", _size(sum(parts.values())))
    lines: list[Table | str] = [phases, space]
    lines.append(_steps_said(found))
    for place, free in found.free.items():
        lines.append(f"free where {place} goes: {_size(free)}")
    if sum(found.disk.values()) > min(found.free.values()):
        lines.append("That is less than may be needed.")
    return lines


def _steps_said(found: Estimate) -> str:
    if not found.schedule:
        return f"unlearn: up to {found.steps:,} steps; most methods stop once all is forgotten, long before."
    whole = _duration(found.scheduled_seconds)
    return (
        f"unlearn: a schedule of {found.schedule:,} steps, and up to {found.steps:,} until all is forgotten. "
        f"A run that ends with its schedule takes {whole} together."
    )


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _size(count: int) -> str:
    for unit, power in (("GB", 9), ("MB", 6)):
        if count >= 10**power:
            return f"{count / 10**power:,.1f} {unit}"
    return f"{count / 1000:,.1f} kB"


def print_record(record: Record) -> None:
    """The record as tables, verdict first."""
    console = Console()
    console.print(record.verdict, style="bold green" if record.forgotten else "bold red")
    console.print(figures_table([("before", record.before), ("after", record.after)]))
    preset = f", preset {record.preset}" if record.preset else ""
    console.print(
        f"method {record.method}{preset}, seed {record.seed}; {record.steps} steps, {record.stop_reason}"
    )
    if record.unlabelled is not None:
        used = record.unlabelled
        console.print(f"held to its answers on probes and on {used.said}{used.left_out}")
        if used.likeness:
            console.print(used.likeness)
        if record.unlabelled.agrees:
            console.print(record.unlabelled.agrees)
    if record.already_misclassified:
        console.print(f"{record.already_misclassified} of the images were misclassified before already.")
    console.print(cost_table(record))
    for note in record.notes:
        console.print(f"note: {note}")
    if hint := forget_all(record) or keep_more(record):
        console.print(hint, markup=False, highlight=False)


def print_what_is_unknown(record: Record, folder: Path) -> None:
    """Of a run that nobody audited: what its verdict leaves open, and the command that says more."""
    if not record.forgotten or audited(record.analyses):
        return
    console = Console()
    console.print(
        "Not audited: these very images are misclassified; whether altered copies of them are as well, and what "
        "else is left of them, is unknown. It is measured by"
    )
    console.print(f"  stakes audit {shlex.quote(str(folder))}", markup=False, highlight=False, soft_wrap=True)


def forget_all(record: Record) -> str:
    """What may help a run that stopped at its limit with images left; else nothing."""
    if record.forgotten or record.stop_reason != "step limit":
        return ""
    limit = "max_steps" if record.settings.get("max_steps") == record.steps else "max_epochs"
    ways = [f"more steps (--set {limit}={2 * int(record.settings[limit])})"]
    if rate := record.settings.get("lr"):
        ways.append(f"larger ones (--set lr={2 * rate:g})")
    found = f"More may be forgotten with {' or '.join(ways)}, in a new run folder."
    if record.request.get("tuned"):
        return found
    return f"{found} Or with settings chosen on this request: --tune 8."


def keep_more(record: Record) -> str:
    """What would let a model keep more, where it lost much and had no more than probes to go by; else nothing."""
    lost = [
        first - last
        for first, last in (
            (record.before.test_accuracy, record.after.test_accuracy),
            (record.before.retain_accuracy, record.after.retain_accuracy),
        )
        if first is not None and last is not None
    ]
    if record.hashes.probes is None or record.unlabelled is not None or max(lost, default=0.0) < MUCH:
        return ""
    found = "It may keep more with images that need no labels: name a folder of them with --unlabelled."
    if record.request.get("tuned"):
        return found
    return f"{found} Or with a learning rate chosen on this request, in eight trials as long as this run: --tune 8."


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} %"
