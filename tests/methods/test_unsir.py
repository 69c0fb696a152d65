"""UNSIR's noise against NumPy, and the order of its passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubles import problem
from linear import SIZE, WIDTH, job_of, linear_classifier

from stakes.errors import DataError
from stakes.methods import Unsir, carry_out
from stakes.methods.unsir import maximise_error, noise_loss

SMALL = {"noise_images": 4, "noise_repeats": 3, "noise_steps": 5, "forget_batch": 16}


def unsir_job(forget: int = 4, **settings: object):
    tiny = problem("mlp", forget)
    method = Unsir.configure(overrides={**SMALL, **settings})
    retain = (tiny.split.retain.batch(slice(None)), tiny.split.retain.labels)
    images = tiny.split.forget
    return method, job_of(method, tiny.model, images.batch(slice(None)), images.labels, retain)


def test_loss(generator: torch.Generator) -> None:
    logits = torch.randn((5, 3), generator=generator)
    noise = torch.randn((5, 2, 3, 3), generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1])
    z = logits.numpy().astype(float)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    expected = log_p[np.arange(5), labels].mean() + 0.1 * (noise.numpy() ** 2).sum((1, 2, 3)).mean()
    assert float(noise_loss(logits, noise, labels, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_first_adam_step_goes_against_the_sign_of_the_closed_form(generator: torch.Generator) -> None:
    weight = torch.randn((3, WIDTH), generator=generator)
    mean, std = (0.3,), (0.2,)
    model = linear_classifier(weight, torch.zeros(3), mean=mean, std=std)
    start = torch.randn((6, *SIZE), generator=generator)
    made = maximise_error(model, start, 1, steps=1, lr=0.1, weight=0.1)
    noise = (made - 0.3) / 0.2
    # Logits are W n for noise n in normalised units: dL/dn = −(p − e_c) W + 2 λ n, each divided by the batch.
    p = (start.flatten(1) @ weight.T).softmax(1)
    slope = -(p - torch.eye(3)[1]) @ weight + 0.2 * start.flatten(1)
    assert torch.allclose((noise - start).flatten(1), -0.1 * slope.sign(), atol=1e-4)


def test_noise_is_what_the_model_finds_least_like_its_class() -> None:
    method, job = unsir_job(noise_steps=40)
    made = method.noise(job)
    assert made["labels"].unique().tolist() == [0, 1]
    logits = job.original(made["pixels"])
    assert (logits.argmax(1) != made["labels"]).all()
    drawn = torch.randn(made["pixels"].shape, generator=torch.Generator().manual_seed(0))
    plain = job.original(drawn * job.original.std + job.original.mean)
    own = made["labels"][:, None]
    assert logits.log_softmax(1).gather(1, own).mean() < plain.log_softmax(1).gather(1, own).mean()


def test_noise_only_for_classes_in_the_forget_set() -> None:
    method, job = unsir_job(1)
    assert method.noise(job)["labels"].unique().tolist() == [0]


def test_impair_comes_before_repair_in_every_round() -> None:
    method, job = unsir_job(max_epochs=2)
    rows = []
    outcome = carry_out(method, job, on_row=rows.append)
    impair, repair = -(-(2 * 4 * 3 + 32) // 16), 2
    kinds = ["impair" if "loss_impair" in row else "repair" for row in rows]
    assert kinds == (["impair"] * impair + ["repair"] * repair) * 2
    assert outcome.stop_reason == "finished"
    assert method.total_steps(job) == len(rows)


def test_retained_images_of_each_class_are_limited() -> None:
    method, job = unsir_job(retain_per_class=3)
    assert torch.bincount(method._kept(job).labels).tolist() == [3, 3, 3]


def test_whole_class_reading_leaves_the_class_out() -> None:
    method, job = unsir_job(1, retain_classes="others")
    assert 0 not in method._kept(job).labels
    method, job = unsir_job(4, retain_classes="others")
    assert method._kept(job).labels.unique().tolist() == [2]
    job.retain = job.retain.subset((job.retain.labels < 2).nonzero().flatten())
    with pytest.raises(DataError, match="retain_classes=all"):
        method._kept(job)
