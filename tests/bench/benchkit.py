"""What tests of the bench hand around."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import stakes
from stakes.anchors import Anchors
from stakes.bench.folder import BenchFolder
from stakes.bench.grid import Grid
from stakes.config import build
from stakes.models.recipe import recipe
from stakes.records import Record
from stakes.training import train_checkpoint
from stakes.tune.plan import TunePlan

PROBES = {"probes.per_image": 4, "probes.iterations": 3, "probes.epsilon": 1.0}
ADV = PROBES | {"probe_batch": 8, "max_steps": 8, "lr": 0.005}
STRUCTGUARD = {"method": "structguard", "preset": "paper", "settings": ADV | {"importance_after": 1}}
Write = Callable[..., Path]
Make = Callable[..., Grid]


def digits_grid(home: Path, **changes: Any) -> dict[str, Any]:
    """A small grid on the digits of `make_home`, with changes."""
    data = {
        "name": "digits",
        "source": str(home / "data"),
        "models": [str(home / "model")],
        "anchors": str(home / "anchors.safetensors"),
    }
    return {
        "name": "grid",
        "data": [data],
        "methods": ["before"],
        "k": [2],
        "seeds": [0],
        "run": {"device": "cpu", "retain_sample": 40, "checkpoint_seconds": 0.01},
    } | changes


def plan_of(home: Path, **changes: Any) -> TunePlan:
    """A small plan of a search, on the same digits."""
    plan = {"k": [3], "seeds": [100], "trials": 2, "methods": ["neggrad"]} | changes
    return build(TunePlan, digits_grid(home) | plan)


def make_home(home: Path) -> Path:
    """``data/``, 300 digits to train on and 60 to test as pictures, ``model/`` trained on them, and ``anchors``.

    Each of the three spares every worker of a test seconds: scikit-learn and a text encoder load slowly.
    """
    names = tuple("0123456789")
    source = stakes.open_source("digits")
    for split, images, count in (("train", source.train, 300), ("test", source.test, 60)):
        assert images is not None
        pixels = (images.batch(range(count))[:, 0] * 255).round().to(torch.uint8).numpy()
        for row, label in enumerate(images.labels[:count].tolist()):
            folder = home / "data" / split / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row]).save(folder / f"{row}.png")
    Anchors(torch.eye(10, 12), names).save(home / "anchors.safetensors")
    train_checkpoint(
        stakes.open_source(str(home / "data"), size=(1, 8, 8)),
        home / "model",
        architecture="resnet10",
        options={"width": 4},
        settings=recipe("demo").with_overrides({"epochs": 4}),
    )
    return home


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
