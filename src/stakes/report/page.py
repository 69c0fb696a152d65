"""The page of a run: one self-contained file that reaches for nothing outside itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stakes.files import write_bytes
from stakes.records import Figures, Record
from stakes.report.curves import history_svg
from stakes.runs import RunFolder

_ACCURACIES = ("test", "retain", "forget")


def write_page(folder: Path) -> Path:
    """Render ``report.html`` of a finished run from its record and history, and give its path.

    Raises:
        RunFolderError: the folder holds no finished run.
        OutputError: the page cannot be written.
    """
    run = RunFolder(folder)
    record = Record.load(run.record_path)
    path = folder / "report.html"
    write_bytes(path, render_page(record, run.history()).encode())
    return path


def render_page(record: Record, history: list[dict[str, float]]) -> str:
    """The page as HTML. All that comes from data or user is escaped."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("stakes.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("run.html.j2").render(
        record=record,
        rows=[_row(name, record.before, record.after) for name in _ACCURACIES],
        settings=sorted(_flat(record.settings).items()),
        run=sorted(_flat(record.run).items()),
        request=sorted((key, value) for key, value in record.request.items() if value),
        hashes=[(k.replace("_", " "), v) for k, v in record.hashes.model_dump().items() if v],
        curve=history_svg(history),
    )


def _row(name: str, before: Figures, after: Figures) -> dict[str, str]:
    first, last = (getattr(figures, f"{name}_accuracy") for figures in (before, after))
    images = getattr(after, f"{name}_images")
    known = first is not None and last is not None
    return {
        "name": f"{name} accuracy",
        "images": f"{images:,}" if images else "none",
        "before": f"{first:.2f} %" if first is not None else "unknown",
        "after": f"{last:.2f} %" if last is not None else "unknown",
        "change": f"{last - first:+.2f}" if known else "",
    }


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        flat |= _flat(inner, f"{name}.") if isinstance(inner, dict) else {name: inner}
    return flat
