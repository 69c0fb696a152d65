"""The paper's tasks and analyses of one unlearned model, from its run folder, for any model and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from stakes.analyses import (
    anchor_types,
    class_level,
    collapse,
    consistency,
    gradcam,
    milestones,
    radar,
    retrieval,
    streisand,
)
from stakes.analyses.context import Context, SkipAnalysis
from stakes.analyses.settings import AnalysisSettings
from stakes.config import Device, chosen
from stakes.errors import MissingExtraError
from stakes.opened import OpenedRun, open_run
from stakes.progress import Progress, silent
from stakes.report.section import Section
from stakes.runtime import repeatable

ANALYSES: dict[str, Callable[[Context], Section]] = {
    "retrieval": retrieval.analysis,
    "class-level": class_level.analysis,
    "collapse": collapse.analysis,
    "milestones": milestones.analysis,
    "consistency": consistency.analysis,
    "anchors": anchor_types.analysis,
    "radar": radar.analysis,
    "gradcam": gradcam.analysis,
    "streisand": streisand.analysis,
}


@dataclass(frozen=True)
class Skipped:
    """An analysis that this run gives no ground for, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Analysed:
    """What `analyse` found: sections, saved in the run folder, and what it had to leave out."""

    sections: tuple[Section, ...]
    skipped: tuple[Skipped, ...]


def analyse(
    run: str | Path | OpenedRun,
    *,
    only: Sequence[str] | None = None,
    data: str | None = None,
    model: str | None = None,
    anchors: str | Path | None = None,
    settings: AnalysisSettings | Mapping[str, Any] | None = None,
    device: Device = "auto",
    allow_pickle: bool = False,
    factory: Callable[[], nn.Module] | None = None,
    progress: Progress = silent,
) -> Analysed:
    """Analyse a finished run; sections and figures go to ``RUN/analyses``, numbers into its record.

    Args:
        run: a run folder, or one that is open already.
        only: names out of `ANALYSES`; all by default.
        data, model, allow_pickle, factory: as for `stakes.opened.open_run`.
        anchors: a file of anchors to look from, in place of the run's own.
        settings: `AnalysisSettings`, or some of them by name.
        progress: told how far the work is.

    Returns:
        Sections in the order of `ANALYSES`, and what was skipped, each with its reason.

    Raises:
        ConfigError: an unknown name or setting.
        RunFolderError: not a finished run, or data and model are not those of its record.
        MissingExtraError: an analysis named in ``only`` needs a library that is not installed.
        OutputError: nothing can be written.

    Example:
        >>> found = analyse("runs/first", only=["retrieval"])  # doctest: +SKIP
        >>> found.sections[0].numbers["retained_r1_after_percent"]  # doctest: +SKIP
        93.4
    """
    wanted = chosen("analyses", only, list(ANALYSES))
    made = (
        settings
        if isinstance(settings, AnalysisSettings)
        else AnalysisSettings().with_overrides(settings or {})
    )
    if not isinstance(run, OpenedRun):
        run = open_run(run, data=data, model=model, device=device, allow_pickle=allow_pickle, factory=factory)
    context = Context(run, made, Path(anchors) if anchors is not None else None, progress)
    sections, skipped = [], []
    for done, name in enumerate(wanted, start=1):
        try:
            with repeatable(run.device):
                section = ANALYSES[name](context)
        except SkipAnalysis as why:
            skipped.append(Skipped(name, str(why)))
        except MissingExtraError as missing:
            if only is not None:
                raise
            skipped.append(Skipped(name, str(missing)))
        else:
            section.save(run.path)
            sections.append(section)
        progress("analyses", done, len(wanted))
    return Analysed(tuple(sections), tuple(skipped))


__all__ = ["ANALYSES", "Analysed", "AnalysisSettings", "Skipped", "analyse"]
