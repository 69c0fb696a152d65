from __future__ import annotations

import pytest
import torch
from doubles import problem
from linear import job_of
from torch.nn import functional as F

from stakes.errors import DataError
from stakes.methods import RandomLabel, carry_out
from stakes.methods.random_label import random_labels, relabel_per_epoch


def relabel_job(preset: str | None = None, **settings: object):
    tiny = problem("mlp")
    method = RandomLabel.configure(preset, settings)
    retain = (tiny.split.retain.batch(slice(None)), tiny.split.retain.labels)
    forget = tiny.split.forget
    return method, job_of(method, tiny.model, forget.batch(slice(None)), forget.labels, retain)


def test_labels_are_uniform_over_the_other_classes(generator: torch.Generator) -> None:
    labels = torch.arange(4).repeat(10_000)
    drawn = random_labels(labels, 4, generator)
    assert (drawn != labels).all()
    counts = torch.bincount(4 * labels + drawn, minlength=16).view(4, 4) / 10_000
    assert torch.allclose(counts, (1 - torch.eye(4)) / 3, atol=0.02)


def test_any_draws_the_right_class_too(generator: torch.Generator) -> None:
    labels = torch.zeros(30_000, dtype=torch.int64)
    shares = torch.bincount(random_labels(labels, 3, generator, "any")) / 30_000
    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.02)


def test_one_class_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(DataError, match="two classes"):
        random_labels(torch.zeros(1, dtype=torch.int64), 1, generator)


def test_every_image_ends_in_the_class_drawn_for_it() -> None:
    method, job = relabel_job(lr=0.02)
    drawn = random_labels(job.forget.labels, 3, job.generator("labels", 0))
    outcome = carry_out(method, job)
    assert outcome.stop_reason == "forgotten"
    predicted = outcome.classifier(job.forget.batch(slice(None))).argmax(1)
    assert (predicted == drawn).float().mean() >= 0.5
    assert (predicted != job.forget.labels).all()


@pytest.mark.parametrize(("redraw", "same"), [(False, True), (True, False)])
def test_labels_are_redrawn_only_if_asked(redraw: bool, same: bool) -> None:
    method, job = relabel_job(redraw=redraw, lr=1e-9, forget_batch=4)
    losses = []
    for row in method.run(job):
        losses.append(row["loss_forget"])
        job.step += 1
        if job.step == 6:
            break
    assert (max(losses) - min(losses) < 1e-4) == same


def test_the_loss_with_retained_images_is_the_weighed_sum() -> None:
    method, job = relabel_job("retain", retain_weight=0.5, retain_batch=8)
    assert method.needs == {"retain"}
    assert relabel_per_epoch(job) == 4
    row = next(method.run(job))
    kept = job.retain_batch(0, 8)
    expected = 0.5 * F.cross_entropy(job.original(kept.pixels), kept.labels)
    assert row["loss_retain"] == pytest.approx(float(expected), rel=1e-4)
    assert row["loss"] == pytest.approx(row["loss_forget"] + row["loss_retain"], rel=1e-5)


def test_without_it_no_retained_image_is_needed() -> None:
    assert RandomLabel.configure().needs == frozenset()
