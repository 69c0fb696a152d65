"""The phase in which probes are made, on a slice of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from stakes.bench.speed.bare import Pass, counts
from stakes.bench.speed.ground import Extent, Ground, Sample
from stakes.config import ProbeSettings
from stakes.inverted_store import build_inverted
from stakes.probe_store import ProbeSet, ProbeStore


class ProbeSlice:
    """Makes few probes in full batches, with few iterations, and scales.

    The time of n probes with i iterations is taken as n · (a + b · i): a for draws and files, b for an iteration. Where
    all iterations fit into a slice, n alone is scaled; else a and b come from two numbers of iterations.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.settings: ProbeSettings = ground.settings.probes
        self.inverted = self.settings.kind == "inverted"
        self.iterations = self.settings.inversion.iterations if self.inverted else self.settings.iterations
        self.whole = self.settings.passes(len(ground.split.forget))
        self.images, self.part, self.times = self._cut()
        self.made: ProbeSet | None = None

    def sample(self) -> Sample:
        """One round."""
        number, whole = self.part.number(self.images), self.ground.probes
        scale = whole / number
        *less, most = self.times
        first = self._make(less[0])[0] if less else 0.0
        seconds, passes = self._make(most)
        bare = self.ground.bare.seconds(passes)
        if not less:
            extent = Extent.of(self.whole, self.whole, number, whole, "probes")
            return Sample(scale * seconds, scale * bare, extent)
        iteration = max(0.0, seconds - first) / (most - less[0])
        around = max(0.0, first - less[0] * iteration)
        how = f"{number} of {whole} probes, with {less[0]} and with {most} of {self.iterations} iterations"
        return Sample(
            scale * (around + self.iterations * iteration),
            bare * self.whole / counts(passes)[0],
            Extent(self.whole, self.whole, f"{how}; scaled by probes, linearly in iterations"),
        )

    def taken(self) -> ProbeSet:
        """Probes of the slice, for those who need some; made if there are none yet."""
        if self.made is None:
            self._make(self.times[0])
        return self.made  # type: ignore[return-value]

    def _cut(self) -> tuple[int, ProbeSettings, tuple[int, ...]]:
        """Forget images, settings and numbers of iterations of the slice."""
        k, most = len(self.ground.split.forget), self.ground.speed.most_passes
        if self.whole <= most:
            return k, self.settings, (self.iterations,)
        images, part = k, self.settings
        if self.inverted:  # a batch alone, since its statistics are those of all its images
            part = part.with_overrides({"inversion.batches": 1})
        else:
            images = min(k, max(1, self.ground.run.probe_chunk // part.per_image))
        many = max(2, most // part.number(images))
        if many >= self.iterations:
            return images, part, (self.iterations,)
        return images, part, (max(1, many // 2), many)

    def _make(self, iterations: int) -> tuple[float, list[Pass]]:
        """Seconds and passes of the slice with so many iterations, from nothing to files and back."""
        ground, passes = self.ground, list[Pass]()
        key = "inversion.iterations" if self.inverted else "iterations"
        settings = self.part.with_overrides({key: iterations})
        forget = ground.split.forget.subset(range(self.images))
        common: dict[str, Any] = {
            "seed": ground.run.seed,
            "device": ground.device,
            "precision": ground.run.precision,
            "on_pass": lambda images: passes.append(Pass(images, "pixels")),
        }
        with tempfile.TemporaryDirectory() as folder:
            start = ground.watch.now()
            if self.inverted:
                made = build_inverted(Path(folder), ground.original, forget, settings, **common)
            else:
                store = ProbeStore(Path(folder))
                made = store.build(ground.original, forget, settings, chunk=ground.run.probe_chunk, **common)
            seconds = ground.watch.now() - start
        self.made = made
        return seconds, passes
