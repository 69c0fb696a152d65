"""What `bench_speed` found: one JSON, and a table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stakes.files import write_bytes, write_json
from stakes.records import Frozen


class PhaseSpeed(Frozen):
    """One phase of a variant.

    Attributes:
        seconds: of the whole phase, the median over rounds; ``how`` says what was measured and what scaled.
        bare_seconds: the passes of the phase alone: same batches, precision and mode.
        overhead: the phase over its passes, the median over rounds; None where it makes none.
        forward, backward: images sent in the whole phase.
        rounds: seconds of each round.
    """

    name: str
    seconds: float
    bare_seconds: float
    overhead: float | None
    forward: int
    backward: int
    how: str
    rounds: tuple[float, ...]


class VariantSpeed(Frozen):
    """One variant; ``steps`` is None where their number was not given: steps and stop test are then those of one step,
    and no part of the totals."""

    label: str
    method: str
    preset: str | None
    settings: dict[str, Any]
    steps: int | None
    phases: tuple[PhaseSpeed, ...]
    seconds: float
    forward: int
    backward: int


class Ratio(Frozen):
    """A variant over the last one: medians over rounds for seconds, plain quotients for images; None by nothing."""

    label: str
    reference: str
    phase: str
    seconds: float | None
    forward: float | None
    backward: float | None


class SpeedReport(Frozen):
    """Everything that was measured, and on what."""

    schema_version: int = 1
    created: str
    device: str
    threads: int
    precision: str
    versions: dict[str, str]
    hashes: dict[str, str]
    forget_images: int
    speed: dict[str, Any]
    run: dict[str, Any]
    variants: tuple[VariantSpeed, ...]
    ratios: tuple[Ratio, ...]

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``speed.json`` and ``speed.md``.

        Raises:
            OutputError: they cannot be written.
        """
        files = folder / "speed.json", folder / "speed.md"
        write_json(files[0], self.model_dump(mode="json"))
        write_bytes(files[1], self.markdown().encode())
        return files

    def markdown(self) -> str:
        """The tables."""
        rounds = self.speed["rounds"]
        parts = [
            f"Medians of {rounds} interleaved round{'' if rounds == 1 else 's'} in one process: {self.forget_images} "
            f"images to forget, {self.device}, {self.threads} threads, {self.precision}.",
            _table(
                ("variant", "phase", "seconds", "bare passes", "overhead", "forward", "backward", "measured"),
                [row for variant in self.variants for row in _rows(variant)],
            ),
        ]
        if self.ratios:
            parts.append(
                _table(
                    ("variant / reference", "phase", "seconds", "forward", "backward"),
                    [
                        (
                            f"{r.label} / {r.reference}",
                            r.phase,
                            *map(_times, (r.seconds, r.forward, r.backward)),
                        )
                        for r in self.ratios
                    ],
                )
            )
        return "\n\n".join(parts) + "\n"


def _rows(variant: VariantSpeed) -> list[tuple[str, ...]]:
    rows = [
        (
            variant.label,
            phase.name,
            f"{phase.seconds:.3g}",
            f"{phase.bare_seconds:.3g}",
            _times(phase.overhead),
            f"{phase.forward:,}",
            f"{phase.backward:,}",
            phase.how,
        )
        for phase in variant.phases
    ]
    what = "" if variant.steps is not None else "without steps and stop test: their number was not given"
    total = (f"{variant.seconds:.4g}", "", "", f"{variant.forward:,}", f"{variant.backward:,}", what)
    return [*rows, (variant.label, "**total**", *total)]


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} ×"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
