"""Ledgers on softmax regression: 36 images in 192 dimensions can be given any labels at all, in closed form."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import NAMES, Linear, images, problem

from stakes.config import MethodSettings
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.data.sources import Source
from stakes.ledger import Added, Ledger, RunReport, add_request, create_ledger, run_requests
from stakes.methods import Job, Method

ROWS = ((0, 1), (3, 4), (6, 7))
"""Three requests of two images."""
ASKED = {row for rows in ROWS for row in rows}


class Clock:
    """Each look at it finds it a second later, unless a test turns it."""

    def __init__(self) -> None:
        self.now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)

    def __call__(self) -> datetime.datetime:
        self.now += datetime.timedelta(seconds=1)
        return self.now


class Solve(Method[MethodSettings]):
    """Misclassify the forget set, and answer as the model did everywhere else: nothing ever comes back."""

    name, settings_type = "solve", MethodSettings

    def run(self, job: Job[MethodSettings]) -> Iterator[dict[str, float]]:
        train = source().train
        assert train is not None
        flat = job.original.features(train.batch(slice(None)))
        forget = set(job.forget.hashes())
        rows = torch.tensor([name in forget for name in train.hashes()])
        targets = torch.where(rows, (train.labels + 1) % 3, self.elsewhere(job, flat, train.labels))
        inputs = torch.cat([flat, torch.ones(len(flat), 1)], dim=1).double()
        solved = (torch.linalg.pinv(inputs) @ torch.eye(3, dtype=torch.float64)[targets]).float()
        for _ in job.steps(per_epoch=1):
            with torch.no_grad():
                job.model.head.weight.copy_(solved[:-1].T)
                job.model.head.bias.copy_(solved[-1])
            yield {"loss": 0.0}

    def elsewhere(self, job: Job[MethodSettings], flat: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return job.original.logits(flat).argmax(1)


class Amnesiac(Solve):
    """Be right on everything but the forget set of this run: every earlier request comes back."""

    name = "amnesiac"

    def elsewhere(self, job: Job[MethodSettings], flat: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return labels


class Lame(Solve):
    """Take a step and change nothing."""

    name = "lame"

    def run(self, job: Job[MethodSettings]) -> Iterator[dict[str, float]]:
        for _ in job.steps(per_epoch=1):
            yield {"loss": 1.0}


def solve(kind: type[Method[Any]] = Solve, *, steps: int = 1) -> Method[Any]:
    """A configured method."""
    return kind.configure(overrides={"max_steps": steps})


@functools.cache
def source() -> Source:
    """36 images to train on and 12 to test."""
    train = ImageSet.from_tensors(*images(36, seed=1), NAMES)
    return Source(train, ImageSet.from_tensors(*images(12, seed=2), NAMES), NAMES, "tiny")


def new_ledger(path: Path, **more: Any) -> Ledger:
    """A ledger for a model that is right on every training image."""
    return create_ledger(path, problem("linear").model, factory=Linear, **more)


def ask(ledger: Ledger, rows: Sequence[int], **more: Any) -> Added:
    """Ask for training rows."""
    train = source().train
    assert train is not None
    split = ForgetSplit(train.subset(list(rows)), spec="indices:rows.txt", indices=tuple(rows))
    return add_request(ledger, split, **more)


def carry_out(ledger: Ledger, method: Method[Any] | None = None, **more: Any) -> RunReport:
    """Carry the pending requests out on the CPU, held to the current model: `Solve` answers as the reference does."""
    usual = {"data": source(), "method": method or solve(), "device": "cpu", "reference_first": False}
    return run_requests(ledger, **usual | more)


def asked_and_done(ledger: Ledger) -> Ledger:
    """Three requests, carried out."""
    for rows in ROWS:
        ask(ledger, rows)
    assert carry_out(ledger).done
    return ledger


def kinds(ledger: Ledger) -> list[str]:
    """What happened, in order."""
    return [event.body.kind for event in ledger.store.events()]


def recognised_rows(ledger: Ledger) -> list[int]:
    """Training rows that the current model puts into their class."""
    train = source().train
    assert train is not None
    model = ledger.current(ledger.view())
    return (model(train.batch(slice(None))).argmax(1) == train.labels).nonzero().flatten().tolist()


class Stop(Exception):
    """Pulls the plug."""


def interrupted(ledger: Ledger, **more: Any) -> None:
    """A batch that is stopped once its steps begin."""

    def stop(phase: str, done: int, total: int, **_: float) -> None:
        if phase == "unlearn":
            raise Stop

    with pytest.raises(Stop):
        carry_out(ledger, progress=stop, **more)
