"""L2UL and its weight importance against closed forms and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubles import arrays, job_of, same, steps_of
from scipy.special import softmax

from stakes.methods import Adv, L2ul
from stakes.methods.importance import mas_importance, protection


def _closed_form(x, weight, bias):
    """|1/n Σ ∂‖z‖/∂W| and |1/n Σ ∂‖z‖/∂b| of z = Wx + b: the unit logits times the input."""
    z = x @ weight.T + bias
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    return np.abs(unit.T @ x) / len(x), np.abs(unit.mean(axis=0))


def _inverted(value):
    return 1 - (value - value.min()) / (value.max() - value.min())


def test_mas_importance_of_softmax_regression() -> None:
    job = job_of(L2ul.configure())
    pixels = job.forget.batch(slice(None))
    parameters = dict(job.model.named_parameters())
    found = mas_importance(job.model, parameters, [pixels])
    weight, bias = _closed_form(*arrays(job, pixels))
    np.testing.assert_allclose(found["head.weight"].numpy(), weight, atol=1e-5)
    np.testing.assert_allclose(found["head.bias"].numpy(), bias, atol=1e-5)
    assert all(value.grad is None for value in parameters.values())


def test_batches_weigh_by_their_images() -> None:
    job = job_of(L2ul.configure())
    pixels = job.forget.batch(slice(None))
    found = mas_importance(job.model, dict(job.model.named_parameters()), [pixels[:3], pixels[3:]])
    x, weight, bias = arrays(job, pixels)
    parts = [_closed_form(x[:3], weight, bias)[0], _closed_form(x[3:], weight, bias)[0]]
    np.testing.assert_allclose(found["head.weight"].numpy(), (3 * parts[0] + parts[1]) / 4, atol=1e-5)


def test_protection_of_a_constant_tensor_is_whole() -> None:
    scaled = protection({"a": torch.full((3,), 2.0), "b": torch.tensor([0.0, 5.0, 10.0])})
    assert scaled["a"].tolist() == [1.0, 1.0, 1.0]
    assert scaled["b"].tolist() == [1.0, 0.5, 0.0]


def test_regulariser_after_one_step_in_numpy() -> None:
    lr, decay, strength = 0.05, 0.01, 3.0
    method = L2ul.configure(
        overrides={"max_steps": 2, "lr": lr, "weight_decay": decay, "reg_weight": strength}
    )
    job = job_of(method)
    probes, forget = job.probes, job.forget
    x_f, weight, bias = arrays(job, forget.batch(slice(None)))
    x_s, *_ = arrays(job, probes.batch(slice(None)))
    importance = [_inverted(value) for value in _closed_form(x_f, weight, bias)]

    def gradient(x, labels):
        error = (softmax(x @ weight.T + bias, axis=1) - np.eye(3)[labels]) / len(x)
        return error.T @ x, error.sum(axis=0)

    gone, kept = gradient(x_f, forget.labels.numpy()), gradient(x_s, probes.labels.numpy())
    steps = [
        -lr * (0.6 * k - 0.4 * g + decay * theta)
        for g, k, theta in zip(gone, kept, (weight, bias), strict=True)
    ]
    rows = steps_of(method, job)
    assert rows[0]["loss_reg"] == 0.0
    expected = strength * sum(0.5 * (i * s**2).sum() for i, s in zip(importance, steps, strict=True))
    assert rows[1]["loss_reg"] == pytest.approx(expected, rel=1e-3)
    assert rows[1]["loss"] == pytest.approx(sum(rows[1][f"loss_{part}"] for part in ("del", "ret", "reg")))


def test_without_weight_it_is_adv() -> None:
    tasks = [
        L2ul.configure(overrides={"max_steps": 4, "reg_weight": 0.0}),
        Adv.configure(overrides={"max_steps": 4}),
    ]
    jobs = [job_of(method, "resnet10") for method in tasks]
    histories = [steps_of(method, job) for method, job in zip(tasks, jobs, strict=True)]
    assert histories[0] == histories[1]
    assert same(jobs[0].model.exported_state(), jobs[1].model.exported_state())


def test_a_strong_regulariser_keeps_what_it_protects() -> None:
    moved = {}
    for strength in (0.0, 30.0):
        method = L2ul.configure(
            overrides={"max_steps": 20, "reg_weight": strength, "lr": 0.02, "weight_decay": 0.0}
        )
        job = job_of(method, "mlp")
        steps_of(method, job)
        now = dict(job.model.named_parameters())
        moved[strength] = sum(
            float((now[name].detach() - value).square().sum())
            for name, value in job.original.named_parameters()
        )
    assert moved[30.0] < 0.5 * moved[0.0]


def test_importance_leaves_running_statistics_alone() -> None:
    method = L2ul.configure(overrides={"max_steps": 1})
    job = job_of(method, "resnet10")
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    L2ul._importance(job)
    assert same(before, job.model.state_dict())
