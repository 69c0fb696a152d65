"""Set-up, steps and stop test of a method, on a few steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stakes.bench.speed.bare import Pass, Recorder, Stopwatch, counts
from stakes.bench.speed.ground import SETUP, STEPS, TESTS, Extent, Ground, Sample, WatchedJob
from stakes.methods import Method
from stakes.methods.base import ForgetCheck
from stakes.methods.job import NoStore
from stakes.probe_store import ProbeSet

_ASKED, _MEASURED, _NOBODY = "asked", "measured", ""


class Buckets:
    """Time and passes of what goes on, by name."""

    def __init__(self, watch: Stopwatch, meter: Recorder) -> None:
        self.watch, self.meter = watch, meter
        self.seconds: dict[str, float] = {}
        self.passes: dict[str, list[Pass]] = {}
        self.open, self._since = _NOBODY, watch.now()

    def enter(self, name: str) -> str:
        """Open a bucket; gives the one that was open."""
        now = self.watch.now()
        self.seconds[self.open] = self.seconds.get(self.open, 0.0) + now - self._since
        before, self.open, self._since = self.open, name, now
        self.meter.passes = self.passes.setdefault(name, [])
        return before


@dataclass(frozen=True)
class _Store(NoStore):
    """What a method remembers is part of its set-up, whenever it is made."""

    buckets: Buckets

    def remember(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        before = self.buckets.enter(SETUP)
        made = make()
        self.buckets.enter(before)
        return made


class Repeated:
    """A few probes, over and over: as many as the whole set has, for batches of the right size.

    Attributes:
        in_setup: whether set-up looked at any.
    """

    def __init__(self, probes: ProbeSet, count: int, buckets: Buckets) -> None:
        self._buckets, self.in_setup = buckets, False
        self._pixels = probes.batch(torch.arange(len(probes)))
        self.labels = probes.labels.repeat(-(-count // len(probes)))[:count]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        """See `ProbeSet.batch`."""
        self.in_setup |= self._buckets.open == SETUP
        return self._pixels[indices % len(self._pixels)]


class LearningSlice:
    """Carries a few steps out, from the original model, each time anew.

    What a method does before its first step, and what it remembers later (`Job.remember`), is set-up. Where it passes
    over more probes than a slice may send, it sees a share of them, and of those of its importance the same share.

    Args:
        made: gives some probes; those of the whole request are these, over and over.
    """

    def __init__(self, ground: Ground, made: Callable[[], ProbeSet | None]) -> None:
        self.ground, self.made = ground, made
        self.part = self._part()

    def samples(self) -> dict[str, Sample]:
        """One round."""
        ground, meter = self.ground, Recorder()
        buckets, made = Buckets(ground.watch, meter), self.made()
        method = copy.copy(ground.variant.method)
        method.settings = self._lighter()
        probes = None
        if made is not None:
            probes = Repeated(made, max(1, round(self.part * ground.probes)), buckets)
        job = ground.job(meter=meter, store=_Store(buckets), settings=method.settings, probes=probes)

        def begins() -> None:
            buckets.enter(STEPS)

        job.on_step = begins
        check = ForgetCheck(job.forget, ground.run.eval_batch, ground.device)
        with self._own_generators(), meter.watching(job.model.body):
            done = self._steps(method, job, buckets)
            buckets.enter(_ASKED)
            check.forgotten(method.deploy(job))
            buckets.enter(_MEASURED)
            check.accuracy(method.deploy(job))
            buckets.enter(_NOBODY)
        return self._scaled(buckets, max(1, done), self.part if probes and probes.in_setup else 1.0)

    def _steps(self, method: Method[Any], job: WatchedJob, buckets: Buckets) -> int:
        """Take them; what lies between two of them is nobody's time."""
        buckets.enter(SETUP)
        rows = method.run(job)
        for done in range(self.ground.speed.steps):
            row = next(rows, None)
            buckets.enter(_NOBODY)
            if row is None:
                return done
            job.step += 1
            buckets.enter(STEPS)
        buckets.enter(_NOBODY)
        return self.ground.speed.steps

    def _scaled(self, buckets: Buckets, done: int, part: float) -> dict[str, Sample]:
        steps = self.ground.variant.steps
        one = "one step" if steps is None else f"{done} of {steps} steps; scaled by steps"
        tests = "one of each kind; scaled by how often they are made" if steps else "what falls on one step"
        few = "whole" if part == 1 else f"{part:.1%} of the probes; scaled by probes"
        return {
            SETUP: self._sum(buckets, {SETUP: 1 / part}, few),
            STEPS: self._sum(buckets, {STEPS: (steps or 1) / done}, one),
            TESTS: self._sum(buckets, self._tests(), tests),
        }

    def _sum(self, buckets: Buckets, times: dict[str, float], how: str) -> Sample:
        seconds = bare = forward = backward = 0.0
        for name, scale in times.items():
            passes = buckets.passes.get(name, [])
            there, back = counts(passes)
            seconds += scale * buckets.seconds.get(name, 0.0)
            bare += scale * self.ground.bare.seconds(passes)
            forward, backward = forward + scale * there, backward + scale * back
        return Sample(seconds, bare, Extent(round(forward), round(backward), how))

    def _tests(self) -> dict[str, float]:
        """How often it is asked whether all is forgotten, and how often all is measured."""
        steps, asked = self.ground.variant.steps or 1, 0
        if self.ground.variant.method.stops_when_forgotten:
            asked = max(0, steps - self._schedule())
        return {_ASKED: float(asked), _MEASURED: steps / self.ground.run.measure_every}

    def _schedule(self) -> int:
        """Steps before which a method does not ask."""
        settings, images = self.ground.settings, len(self.ground.split.forget)
        epoch = -(-self.ground.probes // settings.probe_batch) or settings.batches(images)
        return int(settings.schedule(settings.batches(images), settings.limit(epoch)))

    def _part(self) -> float:
        """The share of the probes that the set-up sees: whole batches."""
        number, most = self.ground.probes, self.ground.speed.most_passes
        if number <= most:
            return 1.0
        batch = int(self.ground.settings.probe_batch)
        return min(1.0, max(1, most // batch) * batch / number)

    def _lighter(self) -> Any:
        """The settings of the method with its set-up as early as can be, and on a share of the probes."""
        settings = self.ground.settings
        changes: dict[str, Any] = {}
        if (after := getattr(settings, "importance_after", None)) is not None:
            changes["importance_after"] = min(after, 1)
        used = getattr(settings, "importance_probes", None)
        if self.part < 1 and used is not None:
            changes["importance_probes"] = max(1, round(self.part * min(used, self.ground.probes)))
        return settings.with_overrides(changes)

    @contextmanager
    def _own_generators(self) -> Iterator[None]:
        """The global generators, which dropout draws from, stay as they are."""
        devices = [self.ground.device] if self.ground.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            yield
