"""Channel statistics: against NumPy, layer by layer, and what of a network is looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.layer_statistics import FIRST_LAYER, Gaps, kept, measured, moments


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class _Tokens(nn.Module):
    """A convolution that cuts patches, a linear layer over them, and a head; ``idle`` is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(2, 2)
        self.patches, self.mix, self.head = nn.Conv2d(2, 4, 2, 2), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        return self.head(F.relu(self.mix(tokens)).mean(dim=1))


@pytest.fixture
def network() -> _Tokens:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _Tokens().eval()


def seen_in_numpy(network: _Tokens, pixels: Tensor) -> dict[nn.Module, np.ndarray]:
    """Inputs of the three layers, (values, channels)."""
    images = pixels.double().numpy()
    rows = images.transpose(0, 2, 3, 1).reshape(-1, images.shape[1])
    cut = images.reshape(len(images), 2, 3, 2, 3, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 8)
    weight, bias = (part.detach().double().numpy() for part in (network.patches.weight, network.patches.bias))
    tokens = cut @ weight.reshape(4, 8).T + bias
    weight, bias = (part.detach().double().numpy() for part in (network.mix.weight, network.mix.bias))
    mixed = np.maximum(tokens @ weight.T + bias, 0).reshape(len(images), 9, 3).mean(1)
    return {network.patches: rows, network.mix: tokens, network.head: mixed}


def test_what_layers_see_in_a_call(network):
    pixels = torch.rand((5, 2, 6, 6), generator=draws())
    found = measured(network, lambda: network(pixels))
    for layer, rows in seen_in_numpy(network, pixels).items():
        np.testing.assert_allclose(found[layer].mean, rows.mean(0), atol=1e-6)
        np.testing.assert_allclose(found[layer].variance, rows.var(0), atol=1e-6)
        np.testing.assert_allclose(
            found[layer].unit, np.sqrt(np.maximum(rows.var(0), 0.01 * rows.var(0).mean())), rtol=1e-4
        )
    assert set(found) == {network.patches, network.mix, network.head}, "what is not called is left out"
    assert not any(module._forward_hooks for module in network.modules())


def test_gaps_count_in_standard_deviations_and_the_first_layer_more(network):
    like, other = (torch.rand((n, 2, 6, 6), generator=draws(n)) for n in (5, 7))
    wanted, gaps = seen_in_numpy(network, like), []
    for layer, rows in seen_in_numpy(network, other).items():
        mean, variance = wanted[layer].mean(0), wanted[layer].var(0)
        unit = np.sqrt(np.maximum(variance, 0.01 * variance.mean()))
        gaps.append(
            np.linalg.norm((rows.mean(0) - mean) / unit) + np.linalg.norm((rows.var(0) - variance) / unit**2)
        )
    with torch.no_grad(), Gaps(measured(network, lambda: network(like))) as found:
        network(like)
        assert float(found.mean()) < 1e-4
        network(other)
        assert float(found.mean()) == pytest.approx((FIRST_LAYER * gaps[0] + gaps[1] + gaps[2]) / 3, rel=1e-4)
        assert found.mean() == 0.0, "asked again, nothing was called since"
    assert not any(module._forward_hooks for module in network.modules())


def test_how_large_the_numbers_of_a_layer_are_does_not_count():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    like, other = torch.randn((9, 2), generator=draws()), torch.randn((9, 2), generator=draws(1))

    def gap() -> float:
        with torch.no_grad(), Gaps(measured(net, lambda: net(like))) as gaps:
            net(other)
            return float(gaps.mean())

    before = gap()
    with torch.no_grad():
        net[0].weight *= 1000
        net[0].bias *= 1000
    assert gap() == pytest.approx(before, rel=1e-4)
    assert before > 1


def test_a_channel_that_is_silent_on_the_images_does_not_drown_the_others():
    net = nn.Sequential(nn.Linear(2, 1))
    like = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    with torch.no_grad(), Gaps(measured(net, lambda: net(like))) as gaps:
        net(like + torch.tensor([0.0, 0.1]))
        found = float(gaps.mean()) / FIRST_LAYER
    assert found == pytest.approx(0.1 / (0.01 * 0.5) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("level", [0.0, 0.3, 200.0])
def test_images_without_any_variance_give_no_endless_gap(level):
    net = nn.Sequential(nn.Linear(2, 1))
    flat = torch.full((5, 2), level)
    with Gaps(measured(net, lambda: net(flat))) as gaps:
        moved = (flat + torch.tensor([0.0, 0.1])).requires_grad_(True)
        net(moved)
        found = gaps.mean()
        found.backward()
    assert 0 < float(found.detach()) < 50 * FIRST_LAYER
    assert bool(torch.isfinite(moved.grad).all())


class _ChannelsFirst(nn.LayerNorm):
    """As networks like ConvNeXt have it: over the channels of (n, C, H, W)."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize(
    ("layer", "shape", "channel"),
    [
        (nn.LayerNorm(4), (5, 3, 4), 2),
        (nn.LayerNorm(4), (5, 2, 3, 4), 3),
        (nn.LayerNorm(4), (5, 4), 1),
        (_ChannelsFirst(4), (5, 4, 2, 3), 1),
        (nn.LayerNorm((4, 2, 3)), (5, 4, 2, 3), 1),
        (nn.GroupNorm(2, 4), (5, 4, 2, 3), 1),
        (nn.GroupNorm(2, 4), (5, 4, 3), 1),
    ],
    ids=["tokens", "places", "features", "channels first", "all", "groups", "groups of tokens"],
)
def test_layers_that_normalise_are_looked_at_alone(layer, shape, channel):
    values = torch.randn(shape, generator=draws()) * 2 + 1
    network = nn.Sequential(nn.Identity(), layer, nn.Flatten(), nn.Linear(values[0].numel(), 2))
    found = measured(network, lambda: network(values))
    rows = values.movedim(channel, -1).flatten(0, -2).double().numpy()
    assert list(found) == [layer]
    np.testing.assert_allclose(found[layer].mean, rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(found[layer].variance, rows.var(0), atol=1e-5)


def test_only_batchnorm_that_keeps_statistics_counts():
    layers = [
        nn.BatchNorm2d(2),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm1d(4),
        nn.GroupNorm(1, 2),
    ]
    assert list(kept(nn.ModuleList(layers))) == layers[:1]


def test_no_hook_is_left_after_a_failure(network):
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(network, fail)
    assert not any(module._forward_hooks for module in network.modules())


def test_moments_and_their_gradients() -> None:
    values = (
        torch.randn((4, 3, 5, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 3
    )
    values.requires_grad_(True)
    mean, variance = moments(values)
    assert torch.allclose(mean, values.mean((0, 2, 3)))
    assert torch.allclose(variance, values.var((0, 2, 3), unbiased=False))
    assert torch.autograd.gradcheck(moments, (values,))
    single = moments(values.detach().float() + 20)[1]
    assert torch.allclose(single.double(), variance, rtol=1e-4), (
        "what float32 loses where the mean is far from zero"
    )
