"""Carry out an audit: every attack that is possible with what is at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from stakes.audit.evidence import Evidence, Finding, Skipped
from stakes.audit.references import Reference, expanded, load_reference, refuse_seen
from stakes.audit.sections import ATTACKS
from stakes.audit.settings import AuditSettings
from stakes.config import Device, chosen
from stakes.errors import NumericalError
from stakes.opened import OpenedRun, open_run
from stakes.progress import Progress, silent
from stakes.report.page import write_page
from stakes.report.section import Cell, Section, Table, folder_of
from stakes.runtime import repeatable

OVERVIEW = "audit"


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        sections: by attack, in the order in which they ran; each is saved in the run folder.
        skipped: attacks that were asked for and not possible, with the reason.
        seconds: wall clock by attack.
        overview: the section that lists them all.
        page: the report, rendered anew.
        notes: what was left out of the run's images because it is not what the record says.
    """

    sections: dict[str, Section]
    skipped: dict[str, str]
    seconds: dict[str, float]
    overview: Section
    page: Path
    notes: tuple[str, ...] = ()


def audit(
    run: str | Path | OpenedRun,
    *,
    attacks: Sequence[str] | None = None,
    reference: Sequence[str | Path] = (),
    retrained: Sequence[str | Path] = (),
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: Device = "auto",
    data: str | None = None,
    model: str | None = None,
    allow_pickle: bool = False,
    factory: Callable[[], nn.Module] | None = None,
    progress: Progress = silent,
) -> AuditReport:
    """Attack an unlearned model, and say what each attack found and what it does not show.

    The same call gives the same sections byte for byte on one machine. Each section is saved as soon as its attack is
    done; the page is rendered at the end.

    Args:
        run: folder of a finished run, or one already opened (then ``device``, ``data`` and ``model`` are not used).
        attacks: of ``changes``, ``membership``, ``relearning``, ``linear-probe``, ``distance``; all where left out.
        reference: checkpoints for RMIA, or a folder that ``audit-references`` wrote.
        retrained: checkpoints of models trained without the forget set, for comparison.
        settings: dotted overrides of `AuditSettings`, such as ``{"membership.unseen": 5000}``.
        seed: of everything drawn at random.
        factory: makes an empty network of the user's own class.

    Raises:
        ConfigError: an unknown attack or setting.
        RunFolderError: not a finished run, or other data or model than its record says.
        CheckpointError: a reference or retrained model that does not fit, or a retrained one that saw forget images.

    Note:
        Attacks that fail prove nothing: they show what these attackers, with these limits, could not do.

    Example:
        >>> report = audit("runs/first", attacks=["changes"])  # doctest: +SKIP
        >>> report.sections["changes"].sentence  # doctest: +SKIP
    """
    wanted = chosen("attacks", attacks, list(ATTACKS))
    limits = AuditSettings().with_overrides(settings or {})
    if not isinstance(run, OpenedRun):
        run = open_run(run, data=data, model=model, device=device, allow_pickle=allow_pickle, factory=factory)

    def loaded(paths: Sequence[str | Path]) -> list[Reference]:
        return [
            load_reference(path, run.before, allow_pickle=allow_pickle, factory=factory)
            for path in expanded(paths)
        ]

    without = loaded(retrained)
    refuse_seen(without, run.split.forget)
    evidence = Evidence(
        before=run.before,
        after=run.after,
        split=run.split,
        folder=folder_of(run.path),
        settings=limits,
        references=loaded(reference),
        retrained=without,
        seed=seed,
        device=run.device,
        progress=progress,
    )
    return _carry_out(run, evidence, wanted)


def _carry_out(run: OpenedRun, evidence: Evidence, wanted: list[str]) -> AuditReport:
    path = run.path
    found: dict[str, Section] = {}
    skipped: dict[str, str] = {}
    for name in wanted:
        with evidence.meter.phase(name), repeatable(evidence.device):
            finding = _tried(name, evidence)
        if isinstance(finding, Skipped):
            skipped[name] = finding.reason
        else:
            finding.save(path)
            found[name] = finding
    overview = _overview(run, evidence, found, skipped)
    overview.save(path)
    seconds = {name: round(evidence.meter.phases[name].seconds, 2) for name in wanted}
    return AuditReport(found, skipped, seconds, overview, write_page(path), run.notes)


def _tried(name: str, evidence: Evidence) -> Finding:
    """One attack; numbers that go astray in it are no reason to lose the others."""
    try:
        return ATTACKS[name](evidence)
    except NumericalError as error:
        return Skipped(f"its numbers went astray ({str(error).rstrip('.')})")


def _overview(
    run: OpenedRun, evidence: Evidence, found: Mapping[str, Section], skipped: Mapping[str, str]
) -> Section:
    """What ran, what did not and why, and what earlier audits left."""
    rows: list[tuple[Cell, ...]] = []
    known = 0
    for name in ATTACKS:
        section = found.get(name)
        earlier = folder_of(run.path) / f"{name}.json"
        if section is None and earlier.is_file():
            section = Section.load(earlier)
        known += section is not None
        if section is not None:
            rows.append((name, section.sentence, section.limit))
        else:
            reason = skipped.get(name, "not asked for")
            rows.append((name, f"Not carried out: {reason}.", ""))
    spent = [evidence.meter.phases[name] for name in evidence.meter.phases]
    return Section(
        name=OVERVIEW,
        title="Audit: what attacks found",
        sentence=f"{known} of {len(ATTACKS)} attacks were carried out; each has its finding and its limit.",
        limit=" ".join(
            (
                "Attacks can show that something is left, never that nothing is: another attacker, with more data or "
                "more models, may find what these did not.",
                *run.notes,
            )
        ),
        numbers={
            "attacks": known,
            "skipped": len(skipped),
            "images_forward": sum(cost.forward for cost in spent),
            "images_backward": sum(cost.backward for cost in spent),
        },
        tables=(Table(caption="Attacks", columns=("attack", "finding", "limit"), rows=tuple(rows)),),
        settings={"seed": evidence.seed},
    )
