"""How time and peak memory grow with the images to forget and with the probes of each: fresh processes, and a fit."""

from __future__ import annotations

import datetime
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stakes.bench.speed import variant
from stakes.errors import ConfigError
from stakes.files import digest_json, write_bytes, write_json
from stakes.progress import Progress, silent
from stakes.records import Frozen
from stakes.runtime import versions

Sweep = Literal["images", "probes"]
Quantity = Literal["seconds", "processor_seconds", "peak_bytes"]

IMAGES = (16, 32, 64, 128, 256, 512, 1024)
PER_IMAGE = (10, 20, 50, 100, 200)
AT_IMAGES, AT_PER_IMAGE = 64, 20
"""What stays the same while the other one grows."""
BUDGET = 16 * 2**20
"""Bytes of probes held in memory; more are read from their files, as always, from a smaller number on."""
FEW = {"probes.iterations": 5, "max_steps": 10}
"""So that a point takes seconds; both are factors of time, and not of memory."""
QUANTITIES: tuple[Quantity, ...] = ("seconds", "processor_seconds", "peak_bytes")
_WORDS = {"seconds": "seconds", "processor_seconds": "processor seconds", "peak_bytes": "peak memory (MiB)"}


class Point(Frozen):
    """One process: what it was to do, and what that took.

    Attributes:
        passes: images forward and backward.
        peak_bytes: resident memory at its most, the program and its libraries included.
    """

    sweep: Sweep
    images: int
    per_image: int
    probes: int
    seconds: float
    processor_seconds: float
    peak_bytes: int
    passes: int
    steps: int
    phases: dict[str, float]

    @property
    def across(self) -> int:
        """What grows in its sweep."""
        return self.images if self.sweep == "images" else self.per_image


class Fit(Frozen):
    """log y = c + slope · log x by least squares: 1 is linear, 0 is flat.

    Attributes:
        low, high: 95 % interval of the slope by Student's t; None with fewer than three points.
        r_squared: share of the variance that the line explains; near 0 where nothing grows, None where nothing varies.
    """

    sweep: Sweep
    quantity: Quantity
    slope: float
    low: float | None
    high: float | None
    r_squared: float | None
    points: int


class GrowthReport(Frozen):
    """All points and fits."""

    schema_version: int = 1
    created: str
    variant: str
    settings: dict[str, Any]
    request: dict[str, Any]
    versions: dict[str, str]
    points: tuple[Point, ...]
    fits: tuple[Fit, ...]

    def save(self, folder: Path) -> tuple[Path, ...]:
        """Write ``growth.json``, ``growth.md`` and ``growth.svg``.

        Raises:
            OutputError: they cannot be written.
        """
        write_json(folder / "growth.json", self.model_dump(mode="json"))
        write_bytes(folder / "growth.md", self.markdown().encode())
        draw(self, folder / "growth.svg")
        return tuple(folder / f"growth.{kind}" for kind in ("json", "md", "svg"))

    def markdown(self) -> str:
        """Fits and points as tables."""
        lines = ["| grows | of | slope (log-log) | 95 % | R² |", "|---|---|---|---|---|"]
        for fit in self.fits:
            interval = "" if fit.low is None else f"{fit.low:.2f} to {fit.high:.2f}"
            words = _WORDS[fit.quantity]
            share = "" if fit.r_squared is None else f"{fit.r_squared:.3f}"
            lines.append(f"| {fit.sweep} | {words} | {fit.slope:.3f} | {interval} | {share} |")
        lines += ["", "| grows | images | probes each | seconds | processor seconds | peak memory (MiB) |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [
            f"| {p.sweep} | {p.images} | {p.per_image} | {p.seconds:.2f} | {p.processor_seconds:.2f} "
            f"| {p.peak_bytes / 2**20:.0f} |"
            for p in self.points
        ]
        return "\n".join(lines) + "\n"


def bench_growth(
    model: str | Path,
    data: str,
    *,
    images: Sequence[int] = IMAGES,
    per_image: Sequence[int] = PER_IMAGE,
    spec: str = "structguard:paper",
    settings: Mapping[str, Any] | None = None,
    anchors: Path | None = None,
    repeats: int = 1,
    budget: int = BUDGET,
    seed: int = 0,
    device: str = "auto",
    precision: str = "fp32",
    allow_pickle: bool = False,
    run: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    progress: Progress = silent,
) -> GrowthReport:
    """Unlearn requests of growing size, each in a fresh process, and fit how time and memory grow.

    One sweep grows the forget set at 20 probes an image, the other the probes of each of 64 images (or of the largest
    forget set, where that is smaller). Steps and iterations are few and the same everywhere, so time is a constant plus
    what grows with the probes; on a small network the constant bends the line at its lower end.

    Args:
        model, data: checkpoint and source, opened by every process anew.
        images, per_image: the two sweeps; an empty one is left out.
        spec: a method, or ``METHOD:PRESET``. With inverted probes, whose number is fixed, only images can grow.
        settings: changes to it, beside `FEW`.
        anchors: a file, for methods that need anchors.
        repeats: processes for each point; all of them are points of the fit.
        budget: bytes of probes held in memory. The usual 1 GiB would hold all that is made here.
        run: carries an order out in place of a process.

    Raises:
        ConfigError: nothing to sweep, or a process failed; the message is its own.

    Note:
        Times are those of this machine, and of whatever else it does; processor seconds suffer less.

    Example:
        >>> report = bench_growth("checkpoints/small", "digits", repeats=3)  # doctest: +SKIP
        >>> [round(fit.slope, 1) for fit in report.fits if fit.quantity == "peak_bytes"]  # doctest: +SKIP
        [0.0, 0.0]
    """
    changes = FEW | dict(settings or {})
    chosen = variant(spec, settings=changes)
    inverted = chosen.method.settings.probes.kind == "inverted" or "probes" not in chosen.method.needs
    if inverted and per_image:
        raise ConfigError(
            f"probes an image of {spec}", expected="none: it makes a fixed number", got=str(list(per_image))
        )
    if not images and not per_image:
        raise ConfigError("bench growth", expected="images or probes that grow", got="neither")
    middle = min(AT_IMAGES, max(images)) if images else AT_IMAGES
    sweeps: list[tuple[Sweep, int, int]] = [("images", k, AT_PER_IMAGE) for k in sorted(images)]
    sweeps += [("probes", middle, count) for count in sorted(per_image)]
    request = {
        "model": str(model),
        "data": data,
        "variant": spec,
        "anchors": str(anchors) if anchors is not None else None,
        "budget": budget,
        "seed": seed,
        "device": device,
        "precision": precision,
        "allow_pickle": allow_pickle,
    }
    points: list[Point] = []
    for repeat in range(repeats):
        for done, (sweep, k, count) in enumerate(sweeps, start=1):
            given = changes if inverted else changes | {"probes.per_image": count}
            order = request | {"forget": f"random:{k}", "settings": given}
            found = (run or in_a_process)(order)
            probes = variant(spec, settings=given).method.settings.probes.number(k)
            points.append(Point(sweep=sweep, images=k, per_image=count, probes=probes, **found))
            progress("points", repeat * len(sweeps) + done, repeats * len(sweeps))
    return GrowthReport(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        variant=spec,
        settings=changes,
        request=request | {"digest": digest_json(request)},
        versions=versions(),
        points=tuple(points),
        fits=fits(points),
    )


def in_a_process(order: dict[str, Any]) -> dict[str, Any]:
    """Carry an order out in a fresh process.

    Raises:
        ConfigError: it failed.
    """
    words = [sys.executable, "-m", "stakes.bench.growth_point"]
    done = subprocess.run(words, input=json.dumps(order), capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if done.returncode == 0 and lines else {}
    if not found or "error" in found:
        said = found.get("error") or (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ConfigError(f"point {order['forget']}", expected="a run that ends", got=said)
    return found


def fits(points: Sequence[Point]) -> tuple[Fit, ...]:
    """A line through each quantity of each sweep; none through a sweep of one size."""
    found = []
    for sweep in ("images", "probes"):
        chosen = [point for point in points if point.sweep == sweep]
        if len({point.across for point in chosen}) < 2:
            continue
        for quantity in QUANTITIES:
            values = [float(getattr(point, quantity)) for point in chosen]
            found.append(fit(sweep, quantity, [point.across for point in chosen], values))
    return tuple(found)


def fit(sweep: Sweep, quantity: Quantity, across: Sequence[float], values: Sequence[float]) -> Fit:
    """Least squares of log values over log across.

    Example:
        >>> fit("images", "seconds", [1, 2, 4, 8], [3, 6, 12, 24]).slope
        1.0
    """
    from scipy import stats

    line = stats.linregress(np.log(across), np.log(values))
    varies = math.isfinite(line.rvalue)
    low = high = None
    if len(values) > 2:
        error = float(line.stderr) if varies else 0.0
        reach = float(stats.t.ppf(0.975, len(values) - 2)) * error
        low, high = round(float(line.slope) - reach, 6), round(float(line.slope) + reach, 6)
    return Fit(
        sweep=sweep,
        quantity=quantity,
        slope=round(float(line.slope), 6),
        low=low,
        high=high,
        r_squared=round(float(line.rvalue) ** 2, 6) if varies else None,
        points=len(values),
    )


def draw(report: GrowthReport, path: Path) -> str:
    """Time above and peak memory below, a column a sweep, both axes logarithmic; gives the file's name."""
    from stakes.drawing import BLUE, GREY, VERMILLION, new_figure, save_figure

    sweeps = list(dict.fromkeys(point.sweep for point in report.points))
    figure = new_figure(4.2 * len(sweeps), 5.2)
    axes = figure.subplots(2, len(sweeps), squeeze=False)
    rows: tuple[tuple[Quantity, str, float], ...] = (
        ("processor_seconds", BLUE, 1.0),
        ("peak_bytes", VERMILLION, 2.0**20),
    )
    for column, sweep in enumerate(sweeps):
        chosen = [point for point in report.points if point.sweep == sweep]
        across = np.array([point.across for point in chosen], dtype=float)
        for row, (quantity, colour, unit) in enumerate(rows):
            axis = axes[row][column]
            values = np.array([getattr(point, quantity) for point in chosen], dtype=float) / unit
            axis.loglog(across, values, "o", color=colour)
            line = next((f for f in report.fits if (f.sweep, f.quantity) == (sweep, quantity)), None)
            if line is not None:
                middle = np.exp(np.log(values).mean() - line.slope * np.log(across).mean())
                ends = np.array([across.min(), across.max()])
                axis.loglog(ends, middle * ends**line.slope, color=GREY, linewidth=1)
                axis.set_title(f"slope {line.slope:.2f}", fontsize=9)
            axis.set(ylabel=_WORDS[quantity])
            if quantity == "peak_bytes":
                axis.set(ylim=(values.min() / 2, values.max() * 2))
        axes[1][column].set_xlabel("images to forget" if sweep == "images" else "probes an image")
    return save_figure(figure, path)
