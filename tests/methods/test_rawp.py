"""RAWP: the length and direction of its step, layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubles import arrays, job_of, steps_of
from scipy.special import softmax
from torch import nn

from stakes.methods import Rawp
from stakes.methods.rawp import ascend


@pytest.mark.parametrize("network", ["mlp", "resnet10", "vit"])
def test_each_layer_moves_by_gamma_of_its_norm_and_vectors_stay(network: str) -> None:
    method = Rawp.configure(overrides={"max_steps": 1, "gamma": 0.02})
    job = job_of(method, network)
    steps_of(method, job)
    before = dict(job.original.named_parameters())
    moved = 0
    for name, after in job.model.named_parameters():
        step = float((after.detach() - before[name]).norm())
        if after.dim() < 2:
            assert step == 0.0, name
        elif step:
            moved += 1
            assert step == pytest.approx(0.02 * float(before[name].norm()), rel=1e-3), name
    assert moved >= 2


def test_direction_is_the_gradient_of_the_forget_loss() -> None:
    method = Rawp.configure(overrides={"max_steps": 1, "gamma": 0.05})
    job = job_of(method)
    x, weight, bias = arrays(job, job.forget.batch(slice(None)))
    gradient = (softmax(x @ weight.T + bias, axis=1) - np.eye(3)[job.forget.labels.numpy()]).T @ x / 4
    expected = weight + 0.05 * np.linalg.norm(weight) * gradient / np.linalg.norm(gradient)
    steps_of(method, job)
    np.testing.assert_allclose(job.model.head.weight.detach().numpy(), expected, atol=1e-5)


def test_tiny_and_zero_gradients() -> None:
    weight, still = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.ones(2, 2))
    weight.grad, still.grad = torch.tensor([[1e-19, 0.0]]), torch.zeros(2, 2)
    ascend([weight, still], 0.1)
    assert weight.tolist() == [[3.5, 4.0]]
    assert torch.equal(still, torch.ones(2, 2))


def test_the_loss_of_the_forget_set_rises() -> None:
    method = Rawp.configure(overrides={"max_steps": 5, "gamma": 0.01})
    rows = steps_of(method, job_of(method))
    losses = [row["loss_del"] for row in rows]
    assert losses == sorted(losses, reverse=True)
