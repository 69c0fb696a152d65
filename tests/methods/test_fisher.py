"""FISHER: its diagonal in closed form, its noise by statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubles import arrays, job_of, steps_of
from scipy.special import softmax

from stakes.errors import ConfigError
from stakes.methods import Fisher
from stakes.methods.fisher import FisherSettings, fisher_sum, noise_variance


def _diagonal(x, weight, bias):
    """Softmax regression: F of W_cj is the mean of p_c (1 − p_c) x_j², of b_c that of p_c (1 − p_c)."""
    p = softmax(x @ weight.T + bias, axis=1)
    spread = p * (1 - p)
    return spread.T @ x**2 / len(x), spread.mean(axis=0)


def test_diagonal_of_softmax_regression() -> None:
    job = job_of(Fisher.configure())
    pixels = job.retain.batch(slice(None))
    found = fisher_sum(job.original, pixels)
    weight, bias = _diagonal(*arrays(job, pixels))
    np.testing.assert_allclose(found["head.weight"].numpy() / len(pixels), weight, rtol=2e-3, atol=1e-8)
    np.testing.assert_allclose(found["head.bias"].numpy() / len(pixels), bias, rtol=2e-3, atol=1e-8)


@pytest.mark.parametrize("network", ["resnet10", "vit"])
def test_diagonal_is_per_sample_and_per_label(network: str) -> None:
    job = job_of(Fisher.configure(), network)
    pixels = job.retain.batch([0, 1, 2])
    model = job.original.clone().requires_grad_(True)
    names = [name for name, _ in model.named_parameters()]
    expected = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for image in pixels:
        log_p = model(image[None]).log_softmax(1)[0]
        for entry in log_p:
            gradients = torch.autograd.grad(
                entry, list(model.parameters()), retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    expected[name] += entry.detach().exp() * gradient**2
    found = fisher_sum(job.original, pixels, chunk=4)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-7, msg=name)
    # The negative control: squares of the batch's gradient are something else.
    batch = torch.autograd.grad(model(pixels).log_softmax(1)[:, 0].sum(), model.head.bias)[0] ** 2
    assert not torch.allclose(found["head.bias"], batch, rtol=0.1)


def test_steps_sum_up_all_retained_images_once() -> None:
    method = Fisher.configure(overrides={"retain_batch": 7, "alpha": 1e-4})
    job = job_of(method)
    rows = steps_of(method, job)
    assert len(rows) == 5
    weight, bias = _diagonal(*arrays(job, job.retain.batch(slice(None))))
    mean = (weight.sum() + bias.sum()) / (weight.size + bias.size)
    assert rows[-1]["fisher_mean"] == pytest.approx(mean, rel=1e-3)
    assert all("noise_norm" not in row for row in rows[:-1])


def test_noise_has_the_stated_variance() -> None:
    alpha = 1e-3
    method = Fisher.configure(overrides={"alpha": alpha, "head_variance_limit": 50.0})
    job = job_of(method)
    rows = steps_of(method, job)
    weight, _ = _diagonal(*arrays(job, job.retain.batch(slice(None))))
    variance = alpha * np.minimum(1 / (weight + 1e-8), 50.0)
    moved = (job.model.head.weight - job.original.head.weight).detach().numpy()
    standard = moved / np.sqrt(variance)
    # 576 draws of N(0, 1): mean within 4/√576, variance within 4 √(2/576).
    assert abs(standard.mean()) < 0.17
    assert abs(standard.var() - 1) < 0.24
    total = np.sqrt(
        (moved**2).sum() + float((job.model.head.bias.detach() - job.original.head.bias).square().sum())
    )
    assert rows[-1]["noise_norm"] == pytest.approx(total, rel=1e-3)


def test_variance_readings() -> None:
    diagonal = torch.tensor([[0.0, 0.25], [1.0, 4.0]])
    plain = noise_variance(diagonal, FisherSettings(alpha=2.0), head=False)
    torch.testing.assert_close(plain, 2 * torch.tensor([[1e3, 4.0], [1.0, 0.25]]))
    root = noise_variance(diagonal, FisherSettings(alpha=1.0, exponent=0.5), head=False)
    torch.testing.assert_close(root, torch.tensor([[1e3, 2.0], [1.0, 0.5]]))
    pooled = noise_variance(diagonal, FisherSettings(alpha=1.0, pooled=True), head=True)
    torch.testing.assert_close(pooled, 10 * torch.tensor([[52.0, 52.0], [0.625, 0.625]]))


def test_probes_stand_in_for_retained_images_on_request() -> None:
    method = Fisher.configure(overrides={"fisher_data": "probes", "probe_batch": 4})
    assert method.needs == {"probes"}
    assert Fisher.configure().needs == {"retain"}
    job = job_of(method)
    job.retain = None
    rows = steps_of(method, job)
    assert len(rows) == 2
    weight, bias = _diagonal(*arrays(job, job.probes.batch(slice(None))))
    mean = (weight.sum() + bias.sum()) / (weight.size + bias.size)
    assert rows[-1]["fisher_mean"] == pytest.approx(mean, rel=1e-3)


def test_max_steps_takes_a_part_and_still_scrubs() -> None:
    method = Fisher.configure(overrides={"retain_batch": 8, "max_steps": 2})
    rows = steps_of(method, job_of(method))
    assert len(rows) == 2
    assert rows[-1]["noise_norm"] > 0


def test_alpha_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="alpha"):
        Fisher.configure(overrides={"alpha": 0.0})
