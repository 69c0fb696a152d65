"""LoTUS's temperature, targets and loss against a transcription in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubles import problem
from linear import job_of

from stakes.methods import Lotus, carry_out
from stakes.methods.lotus import gumbel, soft_targets, temperature


def softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def lotus_job(**settings: float | None):
    tiny = problem("mlp")
    method = Lotus.configure(overrides={"forget_batch": 8, **settings})
    retain = (tiny.split.retain.batch(slice(None)), tiny.split.retain.labels)
    forget = tiny.split.forget
    return method, job_of(method, tiny.model, forget.batch(slice(None)), forget.labels, retain)


@pytest.mark.parametrize(("now", "unseen", "alpha"), [(1.0, 0.9, 8.0), (0.5, 0.9, 2.0), (0.7, 0.0, 2.0)])
def test_temperature(now: float, unseen: float, alpha: float) -> None:
    assert temperature(now, unseen, alpha) == pytest.approx(np.exp(alpha * (now - unseen)))
    assert (temperature(now, unseen, alpha) > 1) == (now > unseen)


def test_targets(generator: torch.Generator) -> None:
    logits, noise = torch.randn((6, 4), generator=generator), gumbel((6, 4), generator)
    forget = torch.tensor([True, False, True, False, True, False])
    got = soft_targets(logits, noise, 3.0, forget).numpy()
    noisy = (logits + noise).numpy()
    for row in range(6):
        expected = softmax(noisy[row : row + 1] / 3.0)[0] if forget[row] else np.eye(4)[noisy[row].argmax()]
        assert np.allclose(got[row], expected, atol=1e-6)
    assert np.allclose(got.sum(1), 1)


def test_hotter_is_smoother(generator: torch.Generator) -> None:
    logits, noise = 5 * torch.randn((50, 4), generator=generator), gumbel((50, 4), generator)
    every = torch.ones(50, dtype=torch.bool)

    def entropy(tau: float) -> float:
        target = soft_targets(logits, noise, tau, every)
        return float(torch.special.entr(target).sum(1).mean())

    assert entropy(0.1) < entropy(1.0) < entropy(10.0) <= np.log(4)


def test_gumbel_draws_have_its_moments(generator: torch.Generator) -> None:
    draws = gumbel((200_000,), generator)
    assert float(draws.mean()) == pytest.approx(np.euler_gamma, abs=0.01)
    assert float(draws.var()) == pytest.approx(np.pi**2 / 6, abs=0.02)


def test_hard_targets_are_samples_of_the_softmax(generator: torch.Generator) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]]).expand(50_000, 3)
    target = soft_targets(logits, gumbel((50_000, 3), generator), 1.0, torch.zeros(50_000, dtype=torch.bool))
    assert torch.allclose(target.mean(0), logits[0].softmax(0), atol=0.01)


def test_loss_and_temperature_of_the_first_step() -> None:
    method, job = lotus_job(unseen_accuracy=0.75, alpha=2.0, retain_share=0.5)
    row = next(method.run(job))
    tau = np.exp(2.0 * (1.0 - 0.75))
    assert row["temperature"] == pytest.approx(tau)
    kept = job.retain.batch(torch.randperm(32, generator=job.generator("subset"))[:16])
    indices = method._batches(job).at(0)
    pixels = torch.cat([job.forget.batch(slice(None)), kept])[indices]
    logits = job.original(pixels).numpy()
    noisy = logits + gumbel(logits.shape, job.generator("gumbel", 0)).numpy()
    forget = (indices < 4).numpy()[:, None]
    target = np.where(forget, softmax(noisy / tau), np.eye(3)[noisy.argmax(1)])
    expected = -(target * np.log(softmax(logits))).sum(1).mean()
    assert row["loss_distil"] == pytest.approx(expected, rel=1e-4)


def test_it_ends_before_an_epoch_that_starts_below_the_unseen_accuracy() -> None:
    # Forget accuracy starts at 1; unseen accuracy cannot be more, so only a negative control reaches the margin.
    method, job = lotus_job(unseen_accuracy=1.0, stop_margin=0.0)
    assert carry_out(method, job).steps == 0
    method, job = lotus_job(unseen_accuracy=1.0, stop_margin=None, max_epochs=2)
    assert carry_out(method, job).steps == 2 * method._batches(job).per_epoch
    method, job = lotus_job(unseen_accuracy=0.98, stop_margin=0.01, max_epochs=1)
    assert carry_out(method, job).stop_reason == "finished"
    assert job.step > 0


def test_smoothing_lowers_confidence_on_the_forget_set() -> None:
    method, job = lotus_job(lr=0.003, max_epochs=8)
    outcome = carry_out(method, job)
    pixels, labels = job.forget.batch(slice(None)), job.forget.labels

    @torch.no_grad()
    def confidence(model: torch.nn.Module) -> float:
        return float(model(pixels).softmax(1).gather(1, labels[:, None]).mean())

    assert confidence(outcome.classifier) < confidence(job.original)
