"""The page of a run: one self-contained file that reaches for nothing outside itself."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stakes.files import write_bytes
from stakes.records import Record
from stakes.report.arrangement import arranged, audit_of, audited
from stakes.report.card import write_card
from stakes.report.curves import Curve, Row, accuracy_points, accuracy_svg, loss_curves, loss_svg
from stakes.report.figures import ACCURACIES, accuracy_row, price
from stakes.report.formatting import duration, flat, shown
from stakes.report.markup import render
from stakes.report.pictures import Picture, picture
from stakes.report.reproduce import reproduction
from stakes.report.section import Section, Table, folder_of, sections
from stakes.runs import RunFolder

_STOPS = {
    "forgotten": "every image to forget was misclassified",
    "already forgotten": "every image to forget was misclassified from the start",
    "step limit": "the limit of steps was reached",
    "finished": "the method was through",
}


@dataclass(frozen=True)
class SectionView:
    """A section with its figures read; ``doubtful`` where file and record hold other numbers."""

    section: Section
    pictures: tuple[Picture, ...]
    settings: list[tuple[str, str]]
    doubtful: bool


def write_page(folder: Path, embed_images: bool = False) -> Path:
    """Write ``report.html`` and the model card ``README.md`` of a finished run, and give the page's path.

    Args:
        embed_images: also show figures with images of the forget set. They may be personal data: without this
            the page holds none.

    Raises:
        RunFolderError: the folder holds no finished run, or a damaged section.
        OutputError: the page cannot be written.
    """
    path = folder / "report.html"
    write_bytes(path, render_page(folder, embed_images=embed_images).encode())
    write_card(folder)
    return path


def render_page(folder: Path, *, embed_images: bool = False) -> str:
    """The page of a run folder as HTML. All that comes from data or user is escaped."""
    record = Record.load(folder / "record.json")
    found = sections(folder)
    personal = sum(figure.personal for one in found for figure in one.figures)
    groups = [
        (title, [section_view(folder, record, member, embed_images=embed_images) for member in members])
        for title, members in arranged(found)
    ]
    return render(
        "run.html.j2",
        record=record,
        made=moment(record.created),
        price=price(record.before, record.after, record.unlabelled),
        audit=audit_of(found),
        audited=audited(section.name for section in found),
        to_audit=f"stakes audit {shlex.quote(str(folder))}",
        asked=_asked(record),
        done=_done(record),
        accuracies=[accuracy_row(name, record.before, record.after) for name in ACCURACIES],
        groups=groups,
        personal=embed_images and personal > 0,
        left_out=0 if embed_images else personal,
        with_images=f"stakes show --embed-images --open {shlex.quote(str(folder))}",
        without_images=f"stakes show --open {shlex.quote(str(folder))}",
        costs=_costs(record),
        again=reproduction(record, folder),
        hashes=[(key.replace("_", " "), value) for key, value in _hashes(record).items() if value],
        settings=listing(record.settings),
        run=listing(record.run),
        request=[(key, str(value)) for key, value in sorted(record.request.items()) if value],
        **_curves(record, RunFolder(folder).history()),
    )


def section_view(folder: Path, record: Record, section: Section, *, embed_images: bool) -> SectionView:
    """A section as it stands on a page."""
    where = folder_of(folder)
    return SectionView(
        section,
        tuple(picture(where, figure, embed_images=embed_images) for figure in section.figures),
        [(key, shown(value)) for key, value in section.settings.items()],
        record.analyses.get(section.name) != section.numbers,
    )


def moment(created: str) -> str:
    """A time stamp as people write it.

    Example:
        >>> moment("2026-11-24T10:53:45+00:00")
        '24 November 2026, 10:53 UTC'
    """
    try:
        when = datetime.datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".rstrip()


def listing(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Settings under dotted keys, with their exact values."""
    return [(key, str(value)) for key, value in sorted(flat(settings).items())]


def _hashes(record: Record) -> dict[str, str | None]:
    used = {} if record.unlabelled is None else {"unlabelled_images": record.unlabelled.hash}
    return record.hashes.model_dump() | used


def _asked(record: Record) -> list[tuple[str, str]]:
    request = record.request
    rows = [
        ("forget", f"{record.after.forget_images:,} images ({request.get('forget') or 'given in Python'})"),
        (
            "of the data",
            request.get("data") or ("none were given" if request.get("forget") else "given in Python"),
        ),
        ("in the model", request.get("model") or "given in Python"),
        ("note", request.get("note") or ""),
    ]
    return [(key, str(value)) for key, value in rows if value]


def _done(record: Record) -> list[tuple[str, str]]:
    seconds = sum(phase.seconds for phase in record.phases)
    rows = [
        ("method", record.method + (f", preset {record.preset}" if record.preset else "")),
        ("steps", f"{record.steps:,}"),
        ("stopped", f"{record.stop_reason}: {_STOPS[record.stop_reason]}"),
        ("time", f"{duration(seconds)} on {record.device}"),
    ]
    if record.unlabelled is not None:
        where = record.request.get("unlabelled") or "given in Python"
        said = f"probes, and {record.unlabelled.said} ({where}){record.unlabelled.left_out}. "
        rows.insert(1, ("held to its answers on", f"{said}{record.unlabelled.likeness}".rstrip()))
    if record.request.get("tuned"):
        rows.insert(1, ("with settings chosen in", str(record.request["tuned"])))
    if record.already_misclassified:
        rows.append(
            ("to start with", f"{record.already_misclassified} of the images were misclassified already")
        )
    return rows


def _costs(record: Record) -> Table:
    rows = [(p.name, p.seconds, p.forward_images, p.backward_images) for p in record.phases]
    return Table(
        caption="Seconds and image passes of each phase",
        columns=("phase", "seconds", "images forward", "images backward"),
        rows=tuple(rows),
    )


def _curves(record: Record, history: Sequence[Row]) -> dict[str, str]:
    accuracy = accuracy_points(history, record.before.forget_accuracy)
    losses = loss_curves(history)
    ends = f", from {accuracy[0][1]:.1f} to {accuracy[-1][1]:.1f} percent" if accuracy else ""
    return {
        "accuracy_curve": accuracy_svg([Curve("forget accuracy", accuracy)], "accuracy-"),
        "accuracy_alt": f"Forget accuracy over {record.steps} steps{ends}.",
        "loss_curve": loss_svg(losses, "loss-"),
        "loss_alt": f"Loss over {record.steps} steps: {', '.join(curve.label for curve in losses)}.",
    }
