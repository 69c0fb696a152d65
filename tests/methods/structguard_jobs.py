"""Jobs and runs of STRUCTGUARD on tiny problems, for the tests of its terms, its presets and its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from doubles import problem
from torch import Tensor

from stakes.api import unlearn
from stakes.methods import Job, StructGuard
from stakes.models import Projector
from stakes.probe_store import ProbeStore
from tinydigits import FEW_PROBES, anchors, digits_model, split

# The reading of the open points that the formulas below are written for, whatever the presets choose.
READING = {
    "path": "projector",
    "batch_weights": "sum",
    "passes": "joint",
    "importance_after": 0,
    "importance_probes": None,
}
QUICK = FEW_PROBES | READING | {"probe_batch": 6, "forget_batch": 3, "max_steps": 40, "lr": 0.01}


def job_like_the_text(cache: Path, **settings: Any) -> tuple[StructGuard, Job[Any]]:
    """A job on the tiny problem whose network has neither BatchNorm nor dropout: training mode changes nothing."""
    tiny = problem("mlp")
    overrides = {**QUICK, "weight_decay": 0.0, "momentum": 0.0, **settings}
    method = StructGuard.configure("paper", overrides)
    original = tiny.model.clone().eval().requires_grad_(False)
    probes = ProbeStore(cache).build(original, tiny.split.forget, method.settings.probes)
    job = Job(
        original=original,
        model=original.clone().requires_grad_(True),
        forget=tiny.split.forget,
        settings=method.settings,
        probes=probes,
        anchors=tiny.anchors,
    )
    return method, job


def first_row(method: StructGuard, job: Job[Any]) -> dict[str, float]:
    return next(iter(method.run(job)))


def random_projector(job: Job[Any]) -> Projector:
    return Projector(job.model.feature_width, init="random", generator=job.generator("projector"))


def hinge(logits: np.ndarray, labels: np.ndarray, margin: float) -> float:
    losses = [max(0.0, margin + z[y] - np.delete(z, y).max()) for z, y in zip(logits, labels, strict=True)]
    return float(np.mean(losses))


def plain_logits(job: Job[Any], pixels: Tensor) -> np.ndarray:
    """Those of the original, head and all in float64."""
    head = job.original.head
    features = job.original.features(pixels).double().numpy()
    return features @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()


def run(cache: Path, model: str = "small", **settings: Any):
    return unlearn(
        digits_model(model),  # type: ignore[arg-type]
        split(),
        anchors=anchors(),
        preset="paper",
        settings=QUICK | settings,
        cache=cache,
        device="cpu",
    )
