"""What tests of the bench hand around."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stakes.anchors import Anchors
from stakes.bench.folder import BenchFolder
from stakes.bench.grid import Grid
from stakes.records import Record

PROBES = {"probes.per_image": 4, "probes.iterations": 3, "probes.epsilon": 1.0}
ADV = PROBES | {"probe_batch": 8, "max_steps": 8, "lr": 0.005}
STRUCTGUARD = ADV | {"importance_after": 1}
Write = Callable[..., Path]
Make = Callable[..., Grid]


def digits_grid(model: Path, anchors: Path, **changes: Any) -> dict[str, Any]:
    """A small grid on the digits, with changes."""
    data = {"name": "digits", "source": "digits", "models": [str(model)], "anchors": str(anchors)}
    return {
        "name": "grid",
        "data": [data],
        "methods": ["before"],
        "k": [2],
        "seeds": [0],
        "run": {"device": "cpu", "retain_sample": 40, "checkpoint_seconds": 0.01},
    } | changes


def save_anchors(path: Path) -> Path:
    """An orthonormal anchor for each digit; an encoder takes seconds to load."""
    Anchors(torch.eye(10, 12), tuple("0123456789")).save(path)
    return path


def digests(out: Path) -> dict[str, str]:
    """What the records of a bench say, but for clock times."""
    return {name: record.digest() for name, record in BenchFolder(out).records().items()}


def records(out: Path) -> dict[str, Record]:
    """Its records by the row of their table."""
    return {record.request["row"]: record for record in BenchFolder(out).records().values()}


PLUGIN = """
import os, time
from pathlib import Path

import torch

from stakes.config import MethodSettings
from stakes.methods import Method


class Slow(Method[MethodSettings]):
    name, settings_type, stops_when_forgotten = "slow", MethodSettings, False

    def run(self, job):
        for step in job.steps(per_epoch=1):
            time.sleep(0.03)
            noise = torch.rand((), generator=job.generator(step))
            with torch.no_grad():
                job.model.head.bias[0] += noise
            yield {"noise": float(noise)}

    def total_steps(self, job):
        return job.limit(1)


class Fails(Slow):
    name = "fails"

    def run(self, job):
        if not Path(os.environ["MAY_WORK"]).exists():
            raise RuntimeError("not today")
        yield from super().run(job)
"""
