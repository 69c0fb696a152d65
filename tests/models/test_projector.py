from __future__ import annotations

import pytest
import torch
from torch import nn

from stakes.errors import ConfigError
from stakes.models import Projector


def test_identity_is_exact(generator):
    features = torch.randn(50, 7, generator=generator) * 10 ** torch.randint(
        -6, 6, (50, 1), generator=generator
    )
    assert torch.equal(Projector(7, init="identity")(features), features)


def test_nonnegative_identity_is_exact_only_there(generator):
    projector = Projector(7, init="identity", nonnegative=True)
    features = torch.randn(20, 7, generator=generator)
    assert projector.hidden == 7
    assert torch.equal(projector(features.abs()), features.abs())
    assert torch.equal(projector(features), features.clamp_min(0))


def test_the_start_can_learn(generator):
    projector = Projector(4, init="identity")
    (projector(torch.randn(8, 4, generator=generator)) ** 2).sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in projector.parameters())


def test_random_start_has_pytorchs_law():
    projector = Projector(64, 256, generator=torch.Generator().manual_seed(3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        reference = nn.Linear(64, 256), nn.Linear(256, 64)
    for ours, theirs in zip((projector.fc1, projector.fc2), reference, strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight)
        torch.testing.assert_close(ours.bias, theirs.bias)


def test_random_start_is_seeded_and_leaves_the_global_generator():
    before = torch.get_rng_state()
    first, second = Projector(5), Projector(5)
    other = Projector(5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.fc2.weight, second.fc2.weight)
    assert not torch.equal(first.fc2.weight, other.fc2.weight)


@pytest.mark.parametrize("settings", [{"width": 0}, {"width": 3, "hidden": 0}, {"width": 3, "init": "zeros"}])
def test_bad_settings(settings):
    with pytest.raises(ConfigError):
        Projector(**settings)


def test_identity_refuses_another_hidden_width():
    with pytest.raises(ConfigError, match="expected 6, got 3"):
        Projector(3, 3, init="identity")
