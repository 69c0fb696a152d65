"""Several runs side by side: whether they were asked the same, what each did, and every number of their sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stakes.errors import ConfigError
from stakes.files import write_bytes
from stakes.records import Record
from stakes.report.arrangement import arranged
from stakes.report.curves import Curve, Row, accuracy_points, accuracy_svg
from stakes.report.formatting import flat, words
from stakes.report.markup import render
from stakes.report.page import SectionView, section_view
from stakes.report.section import Cell, Section, Table, sections
from stakes.runs import RunFolder

_ASKED = {
    "model_before": "the original model",
    "forget_set": "the forget set",
    "test_set": "the test set",
    "retain_set": "the retain set",
}


@dataclass(frozen=True)
class Compared:
    """One run of a comparison; ``key`` stands for it on the page, ``name`` tells its folder from the others."""

    key: str
    name: str
    folder: Path
    record: Record
    history: list[Row]
    sections: dict[str, Section]

    def number(self, section: str, name: str) -> Cell:
        """A number of a section, from the record."""
        return self.record.analyses.get(section, {}).get(name)


@dataclass(frozen=True)
class SharedSection:
    """A section that some of the runs have: its numbers in tables, and each run's words and figures.

    Attributes:
        numbers: those that differ from run to run.
        alike: those that are the same in all, such as what was measured before.
    """

    name: str
    title: str
    limits: tuple[str, ...]
    numbers: Table | None
    alike: Table | None
    views: tuple[tuple[Compared, SectionView | None], ...]


def open_runs(folders: Sequence[Path]) -> list[Compared]:
    """Read finished runs, in the order given.

    Raises:
        ConfigError: fewer than two.
        RunFolderError: one of them is not a finished run.
    """
    if len(folders) < 2:
        raise ConfigError("compare", expected="two run folders or more", got=str(len(folders)))
    names = _names(folders)
    return [
        Compared(
            key=chr(ord("A") + i) if len(folders) <= 26 else str(i + 1),
            name=names[i],
            folder=folder,
            record=Record.load(folder / "record.json"),
            history=RunFolder(folder).history(),
            sections={section.name: section for section in sections(folder)},
        )
        for i, folder in enumerate(folders)
    ]


def differences(runs: Sequence[Compared]) -> list[str]:
    """What keeps the runs from being answers to one question; empty where nothing does.

    Model and data are told apart by their hashes. A different seed or preset is no difference of the question.
    """
    found = []
    for field, name in _ASKED.items():
        values = {run.key: getattr(run.record.hashes, field) for run in runs}
        if len(set(values.values())) > 1:
            found.append(f"{name} is not the same: {_grouped(values)}")
    counts = {run.key: run.record.after.retain_images for run in runs}
    if len(set(counts.values())) > 1:
        told = "; ".join(f"{key} {count:,}" for key, count in counts.items())
        found.append(f"retain accuracy was measured on different numbers of images: {told}")
    return found


def comparison(runs: Sequence[Compared]) -> dict[str, Any]:
    """The comparison as plain values, for ``--json``."""
    told = differences(runs)
    return {
        "same_question": not told,
        "differences": told,
        "runs": [
            {"key": run.key, "name": run.name, "folder": str(run.folder)} | run.record.model_dump(mode="json")
            for run in runs
        ],
    }


def write_comparison(runs: Sequence[Compared], path: Path, *, embed_images: bool = False) -> Path:
    """Write the page of a comparison and give its path; see `stakes.report.page.write_page` for ``embed_images``.

    Raises:
        OutputError: it cannot be written.
    """
    write_bytes(path, render_comparison(runs, embed_images=embed_images).encode())
    return path


def render_comparison(runs: Sequence[Compared], *, embed_images: bool = False) -> str:
    """The page of a comparison as HTML. All that comes from data or user is escaped."""
    curves = [
        Curve(
            f"{run.key} {run.record.method}", accuracy_points(run.history, run.record.before.forget_accuracy)
        )
        for run in runs
    ]
    return render(
        "compare.html.j2",
        runs=runs,
        differences=differences(runs),
        curve=accuracy_svg(curves, "accuracy-"),
        groups=_shared(runs, embed_images=embed_images),
        left_out=not embed_images
        and any(figure.personal for run in runs for one in run.sections.values() for figure in one.figures),
        costs=_costs(runs),
        settings=_settings(runs),
        hashes=[
            (f"{run.key}: {key.replace('_', ' ')}", value)
            for run in runs
            for key, value in run.record.hashes.model_dump().items()
            if value
        ],
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The ends of the paths, as short as they can be while all differ."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(folder) for folder in folders]


def _grouped(values: dict[str, str | None]) -> str:
    groups: dict[str, list[str]] = {}
    for key, value in values.items():
        groups.setdefault(f"{value[:12]}…" if value else "none", []).append(key)
    return "; ".join(f"{', '.join(keys)} {value}" for value, keys in groups.items())


def _costs(runs: Sequence[Compared]) -> Table:
    rows = [
        (run.key, run.record.method, phase.name, phase.seconds, phase.forward_images, phase.backward_images)
        for run in runs
        for phase in run.record.phases
    ]
    columns = ("run", "method", "phase", "seconds", "images forward", "images backward")
    return Table(caption="Seconds and image passes of each phase", columns=columns, rows=tuple(rows))


def _settings(runs: Sequence[Compared]) -> Table | None:
    """What the runs were set to differently; all of it where the methods differ would drown the rest."""
    tables = [flat(run.record.settings) | {"seed": run.record.seed} for run in runs]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    rows = [
        (name, *(str(table[name]) for table in tables))
        for name in shared
        if len({str(table[name]) for table in tables}) > 1
    ]
    if not rows:
        return None
    caption = "Settings that all runs have and that are not the same"
    return Table(caption=caption, columns=("setting", *(run.key for run in runs)), rows=tuple(rows))


def _shared(runs: Sequence[Compared], *, embed_images: bool) -> list[tuple[str, list[SharedSection]]]:
    """Every section that any run has, in the order of a run's own page."""
    first = {name: section for run in reversed(runs) for name, section in run.sections.items()}
    return [
        (title, [_one_shared(runs, member, embed_images=embed_images) for member in members])
        for title, members in arranged(list(first.values()))
    ]


def _one_shared(runs: Sequence[Compared], example: Section, *, embed_images: bool) -> SharedSection:
    views = []
    for run in runs:
        own = run.sections.get(example.name)
        view = section_view(run.folder, run.record, own, embed_images=embed_images) if own else None
        views.append((run, view))
    names = list(dict.fromkeys(name for run in runs for name in run.record.analyses.get(example.name, {})))
    found = {name: [run.number(example.name, name) for run in runs] for name in names}
    alike = {name: values for name, values in found.items() if len(set(values)) == 1}
    differing = {name: values for name, values in found.items() if name not in alike}
    return SharedSection(
        name=example.name,
        title=example.title,
        limits=tuple(dict.fromkeys(view.section.limit for _, view in views if view and view.section.limit)),
        numbers=_numbers(f"{example.title}: numbers", runs, differing),
        alike=_numbers("The same in all runs", runs, alike),
        views=tuple(views),
    )


def _numbers(caption: str, runs: Sequence[Compared], found: dict[str, list[Cell]]) -> Table | None:
    rows = tuple((words(name), *values) for name, values in found.items())
    columns = ("number", *(run.key for run in runs))
    return Table(caption=caption, columns=columns, rows=rows) if rows else None
