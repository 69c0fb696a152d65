"""Multipliers of the forget images: they rise for what is violated, and only for that."""

from __future__ import annotations

import numpy as np
import torch

from stakes.methods.pressure import Pressure


def test_against_plain_numpy() -> None:
    draws = np.random.default_rng(0)
    pressure, wanted = Pressure(5, rise=0.3), np.ones(5)
    for _ in range(20):
        images = draws.integers(0, 5, size=4)
        hinges = draws.normal(size=4).clip(min=0)
        pressure.seen(torch.from_numpy(images), torch.from_numpy(hinges))
        for image in np.unique(images):
            wanted[image] += 0.3 * (hinges[images == image].max() > 0)
    assert np.allclose(pressure.weights.numpy(), wanted)
    assert wanted.min() > 1


def test_without_rise_all_weigh_the_same() -> None:
    pressure = Pressure(3, rise=0.0)
    pressure.seen(torch.tensor([0, 1]), torch.tensor([5.0, 0.0]))
    assert pressure.weights.tolist() == [1, 1, 1]


def test_a_state_is_given_back() -> None:
    first, second = Pressure(2, rise=1.0), Pressure(2, rise=1.0)
    first.seen(torch.tensor([1]), torch.tensor([0.1]))
    second.load_state_dict(first.state_dict())
    assert second.weights.tolist() == [1, 2]
