"""What a run costs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stakes.meter import Meter


@pytest.fixture
def network():
    return nn.Linear(2, 3)


def cost(meter: Meter, phase: str) -> tuple[int, int]:
    return meter.phases[phase].forward, meter.phases[phase].backward


def test_training_costs_one_and_one(network):
    meter = Meter()
    with meter.phase("a"), meter.watching(network):
        network(torch.zeros(5, 2)).sum().backward()
        network(torch.zeros(2, 2)).sum().backward()
    assert cost(meter, "a") == (7, 7)


def test_no_grad_and_unused_outputs_cost_no_backward(network):
    meter = Meter()
    with meter.phase("a"), meter.watching(network):
        with torch.no_grad():
            network(torch.zeros(5, 2))
        network(torch.zeros(3, 2))
    assert cost(meter, "a") == (8, 0)


def test_gradients_to_pixels_count_too(network):
    meter = Meter()
    network.requires_grad_(False)
    pixels = torch.zeros(4, 2, requires_grad=True)
    with meter.phase("a"), meter.watching(network):
        torch.autograd.grad(network(pixels).sum(), pixels)
    assert cost(meter, "a") == (4, 4)


def test_wrapped_outputs_are_seen_through():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, pixels):
            return SimpleNamespace(logits=self.layer(pixels))

    meter, wrapped = Meter(), Wrapped()
    with meter.phase("a"), meter.watching(wrapped):
        wrapped(torch.zeros(5, 2)).logits.sum().backward()
    assert cost(meter, "a") == (5, 5)


def test_phases_are_apart_and_nest(network):
    meter = Meter()
    with meter.watching(network):
        network(torch.zeros(9, 2))
        with meter.phase("a"):
            output = network(torch.zeros(5, 2))
            with meter.phase("b"):
                network(torch.zeros(2, 2)).sum().backward()
            # Belongs to the phase in which it went forward.
        with meter.phase("b"):
            output.sum().backward()
        with meter.phase("a"):
            network(torch.zeros(1, 2))
    assert cost(meter, "a") == (6, 5)
    assert cost(meter, "b") == (2, 2)
    assert meter.phases["a"].seconds > 0


def test_paused_and_counted_by_hand(network):
    meter = Meter()
    with meter.phase("a"), meter.watching(network):
        with meter.paused():
            network(torch.zeros(5, 2)).sum().backward()
            meter.count(forward=7, backward=3)
        network(torch.zeros(1, 2))
    assert cost(meter, "a") == (8, 3)


def test_nothing_is_watched_afterwards(network):
    meter = Meter()
    with meter.phase("a"):
        with pytest.raises(KeyError), meter.watching(network):
            raise KeyError
        network(torch.zeros(5, 2))
    assert cost(meter, "a") == (0, 0)
    assert not network._forward_hooks


def test_watching_changes_no_gradient(network):
    def gradient():
        network.zero_grad()
        network(torch.ones(5, 2)).square().sum().backward()
        return network.weight.grad.clone()

    plain = gradient()
    with Meter().watching(network):
        assert torch.equal(gradient(), plain)
