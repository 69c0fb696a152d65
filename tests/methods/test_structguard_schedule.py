"""STRUCTGUARD with a schedule: the lr, when images weigh more, and going on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest

from stakes.methods import Job, StructGuard
from stakes.methods.job import NoStore


@pytest.mark.parametrize("path", ["bypass", "projector"])
def test_the_lr_falls_along_half_a_cosine_to_a_tenth(make_job, path):
    method, job = make_job(path=path, settle=6, lr=0.01, projector_lr=0.002, reg_weight=0.0, forget_batch=4)
    seen = []
    for _ in method.run(job):
        seen.append([group["lr"] for group in job._tracked["optimizer"].param_groups])
        job.step += 1
        if job.step == 9:
            break
    shares = [max(0.1, (1 + math.cos(math.pi * step / 6)) / 2) for step in range(6)] + [0.1] * 3
    assert shares[0] == 1
    assert seen == [[pytest.approx(0.01 * share), pytest.approx(0.002 * share)] for share in shares]


def test_four_batches_of_forget_images_take_a_schedule_twice_as_long(make_job):
    method, job = make_job(settle=6, reg_weight=0.0, forget_batch=1)
    job.step = 11
    assert not method.may_stop(job)
    job.step = 12
    assert method.may_stop(job)


def test_the_weight_of_an_image_grows_while_it_is_recognised(make_job):
    method, job = make_job(
        deletion="hinge",
        margin=0.5,
        pressure=0.25,
        reg_weight=0.0,
        variants=1,
        settle=3,
        lr=1e-6,
        forget_batch=4,
    )
    weights = [job._tracked["pressure"].weights.clone() for _ in _steps(method, job, 6)]
    assert bool((weights[2] == 1).all()), "not before the schedule is over"
    weights = weights[3:]
    assert all(bool((later >= earlier).all()) for earlier, later in itertools.pairwise(weights))
    assert float(weights[0].max()) == 1.25, "known by heart, so above the margin at first"
    assert set((weights[0] * 4).tolist()) <= {4.0, 5.0}


@pytest.mark.parametrize(("share", "first"), [(0.0, 0), (0.5, 3), (1.0, 6)])
def test_weights_grow_from_a_share_of_the_schedule_on(make_job, share, first):
    method, job = make_job(
        deletion="hinge", pressure=0.5, pressure_from=share, reg_weight=0.0, settle=6, lr=1e-6, forget_batch=4
    )
    grown = [float(job._tracked["pressure"].weights.max()) > 1 for _ in _steps(method, job, 8)]
    assert grown == [step >= first for step in range(8)]


def _steps(method: StructGuard, job: Job[Any], count: int) -> Iterator[None]:
    for _ in method.run(job):
        yield
        job.step += 1
        if job.step == count:
            return


def test_without_a_schedule_the_lr_stays(make_job):
    method, job = make_job(reg_weight=0.0, lr=0.01)
    for _ in method.run(job):
        assert {group["lr"] for group in job._tracked["optimizer"].param_groups} == {0.01}
        job.step += 1
        if job.step == 5:
            break


class Kept(NoStore):
    """A store that gives back one state."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def load(self) -> dict[str, Any]:
        return self.state


def test_a_resumed_schedule_goes_on_from_the_whole_lr(make_job):
    """What the optimiser saved is the lr of a later step, of which another share would be taken."""
    method, job = make_job(settle=6, lr=0.01, reg_weight=0.0, forget_batch=4)
    for _ in method.run(job):
        job.step += 1
        if job.step == 4:
            break
    again = Job(
        **{
            name: getattr(job, name)
            for name in ("original", "model", "forget", "settings", "probes", "anchors")
        },
        store=Kept(job.state()),
    )
    assert again.step == 4
    next(iter(method.run(again)))
    lr = 0.01 * (1 + math.cos(math.pi * 4 / 6)) / 2
    assert [group["lr"] for group in again._tracked["optimizer"].param_groups] == [pytest.approx(lr)] * 2
