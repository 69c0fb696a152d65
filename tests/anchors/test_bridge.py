"""The bridge keeps geometry: properties, and what it does not keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stakes.anchors import Bridge
from stakes.errors import AnchorError

WIDTHS = st.integers(1, 40)
SEEDS = st.integers(0, 2**63 - 1)


def _random(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed % 2**32))


@settings(deadline=None, max_examples=60)
@given(features=WIDTHS, anchors=WIDTHS, seed=SEEDS)
def test_all_inner_products_within_a_side_are_kept(features: int, anchors: int, seed: int) -> None:
    bridge = Bridge.between(features, anchors, seed)
    a, v = _random(4, anchors, seed), _random(5, features, seed + 1)
    lifted_a, lifted_v = bridge.anchors(a), bridge.features(v)
    assert lifted_a.shape == (4, bridge.width)
    assert lifted_v.shape == (5, bridge.width)
    torch.testing.assert_close(lifted_a @ lifted_a.T, a @ a.T, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(lifted_v @ lifted_v.T, v @ v.T, atol=2e-4, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(features=WIDTHS, anchors=WIDTHS, seed=SEEDS)
def test_only_the_narrower_side_is_lifted_by_orthonormal_rows(features: int, anchors: int, seed: int) -> None:
    bridge = Bridge.between(features, anchors, seed)
    assert (bridge.feature_map is not None) == (features < anchors)
    assert (bridge.anchor_map is not None) == (anchors < features)
    lift = bridge.feature_map if bridge.feature_map is not None else bridge.anchor_map
    if lift is not None:
        assert lift.shape == (min(features, anchors), max(features, anchors))
        assert lift.dtype == torch.float32
        torch.testing.assert_close(lift @ lift.T, torch.eye(len(lift)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("features", "anchors"), [(512, 384), (2048, 512), (64, 384), (384, 384)])
def test_real_widths_keep_cosines(features: int, anchors: int) -> None:
    bridge = Bridge.between(features, anchors, 0)
    a = torch.nn.functional.normalize(_random(10, anchors, 3), dim=1)
    lifted = bridge.anchors(a)
    torch.testing.assert_close(lifted.norm(dim=1), torch.ones(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(lifted @ lifted.T, a @ a.T, atol=1e-5, rtol=0)


def test_map_is_the_sign_fixed_q_of_an_independent_qr() -> None:
    gaussian = torch.randn(7, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64).numpy()
    # Gram-Schmidt gives the Q whose R has a positive diagonal.
    basis: list[np.ndarray] = []
    for column in gaussian.T:
        rest = column - sum((np.dot(column, q) * q for q in basis), np.zeros(7))
        basis.append(rest / np.linalg.norm(rest))
    lift = Bridge.between(7, 3, 5).anchor_map
    assert lift is not None
    np.testing.assert_allclose(lift.numpy(), np.stack(basis), atol=1e-6)


def test_same_seed_same_bits_and_other_seed_another_map() -> None:
    first, again, other = (Bridge.between(8, 5, seed).anchor_map for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.1)


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    Bridge.between(8, 5, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_random_map_that_is_not_orthonormal_would_fail() -> None:
    """Negative control: the authors' kind of map, downwards, does not keep inner products."""
    v = _random(5, 64, 0)
    down = _random(64, 16, 1) / 4
    assert not torch.allclose((v @ down) @ (v @ down).T, v @ v.T, atol=1.0)


def test_equal_widths_pass_through_untouched() -> None:
    a = _random(3, 6, 0)
    bridge = Bridge.between(6, 6, 0)
    assert bridge.anchors(a) is a
    assert bridge.features(a) is a


def test_gradients_and_types_pass_through() -> None:
    bridge = Bridge.between(3, 5, 0)
    v = _random(2, 3, 0).requires_grad_()
    (gradient,) = torch.autograd.grad(bridge.features(v).square().sum(), v)
    torch.testing.assert_close(gradient, 2 * v.detach(), atol=1e-5, rtol=1e-5)
    assert bridge.features(v.detach().bfloat16()).dtype == torch.bfloat16
    assert bridge.features(v.detach().double()).dtype == torch.float64


def test_to_moves_the_map_and_keeps_the_rest() -> None:
    moved = Bridge.between(3, 5, 7).to("meta")
    assert moved.feature_map is not None
    assert moved.feature_map.device.type == "meta"
    assert (moved.seed, moved.feature_width, moved.anchor_width) == (7, 3, 5)
    assert repr(moved) == "Bridge(features 3, anchors 5, seed 7)"


@pytest.mark.parametrize(("features", "anchors", "seed"), [(0, 3, 0), (3, 0, 0), (3, 3, -1), (3, 4, 2**63)])
def test_bad_settings_are_refused(features: int, anchors: int, seed: int) -> None:
    with pytest.raises(AnchorError):
        Bridge.between(features, anchors, seed)


def test_other_widths_are_refused() -> None:
    bridge = Bridge.between(4, 3, 0)
    with pytest.raises(AnchorError, match="anchors at the bridge"):
        bridge.anchors(torch.zeros(2, 4))
    with pytest.raises(AnchorError, match="features at the bridge"):
        bridge.features(torch.zeros(2, 3))
    with pytest.raises(AnchorError):
        bridge.features(torch.zeros(4))
