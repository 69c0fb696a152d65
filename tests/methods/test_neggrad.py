"""NEGGRAD against the gradient of softmax regression, written down in NumPy."""

from __future__ import annotations

import numpy as np
from doubles import arrays, job_of, steps_of
from scipy.special import softmax

from stakes.methods import NegGrad


def test_first_step_is_gradient_ascent_with_weight_decay() -> None:
    method = NegGrad.configure(overrides={"max_steps": 1, "lr": 0.02, "weight_decay": 0.1})
    job = job_of(method)
    labels = job.forget.labels.numpy()
    x, weight, bias = arrays(job, job.forget.batch(slice(None)))
    p = softmax(x @ weight.T + bias, axis=1)
    rows = steps_of(method, job)
    assert rows[0]["loss"] == rows[0]["loss_del"]
    np.testing.assert_allclose(rows[0]["loss"], np.log(p[np.arange(4), labels]).mean(), rtol=1e-4)
    error = (p - np.eye(3)[labels]) / 4
    moved = weight + 0.02 * (error.T @ x) - 0.02 * 0.1 * weight
    np.testing.assert_allclose(job.model.head.weight.detach().numpy(), moved, atol=1e-6)
    moved = bias + 0.02 * error.sum(0) - 0.02 * 0.1 * bias
    np.testing.assert_allclose(job.model.head.bias.detach().numpy(), moved, atol=1e-6)


def test_published_settings() -> None:
    settings = NegGrad.configure().settings
    assert (settings.lr, settings.momentum, settings.weight_decay) == (0.001, 0.9, 1e-4)
    assert (settings.forget_batch, settings.max_epochs, settings.batchnorm) == (32, 1000, "update")
    assert NegGrad.needs == frozenset()
