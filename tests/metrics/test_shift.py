"""How far images are from those that a network was trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stakes.data.images import ImageSet
from stakes.metrics import predict, statistics_shift
from tinydigits import NAMES, digits_model, sets


def of(pixels: Tensor) -> ImageSet:
    return ImageSet.from_tensors(pixels, [0] * len(pixels), NAMES)


def shift(pixels: Tensor, **how: int) -> float:
    found = statistics_shift(digits_model("resnet10"), of(pixels), **how)[1]
    assert found is not None
    return found


def test_it_is_the_formula() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten()).eval()
    draws = torch.Generator().manual_seed(0)
    for layer in (network[0], network[2]):
        layer.running_mean.copy_(torch.rand(layer.num_features, generator=draws))
        layer.running_var.copy_(torch.rand(layer.num_features, generator=draws) + 0.5)
    pixels = torch.rand(7, 3, 5, 4, generator=draws)
    expected = []
    with torch.no_grad():
        inputs = (pixels, network[1](network[0](pixels)))
    for layer, values in zip((network[0], network[2]), inputs, strict=True):
        means = values.double().numpy().mean(axis=(2, 3))
        gap = (means.mean(axis=0) - layer.running_mean.double().numpy()) ** 2
        chance = means.var(axis=0, ddof=1) / 7
        squared = np.mean((gap - chance) / (layer.running_var.double().numpy() + layer.eps))
        expected.append(np.sqrt(max(squared, 0)))
    assert all(expected)
    classes, found = statistics_shift(network, of(pixels), batch=3)
    assert found == pytest.approx(np.mean(expected), rel=1e-6)
    assert torch.equal(classes, predict(network, of(pixels)))
    assert not any(one._forward_pre_hooks for one in network)


def test_images_like_those_trained_on_have_next_to_none_and_others_have() -> None:
    own, like = (part.batch(slice(None)) for part in sets())
    assert shift(own) < 0.1
    assert shift(like) < 0.1
    for other in (1 - like, like.roll(3, 2), like * 0.5, torch.rand_like(like)):
        assert shift(other) > 1.5 * shift(like)


def test_few_images_do_not_look_strange_for_being_few() -> None:
    _, like = (part.batch(slice(None)) for part in sets())
    order = torch.randperm(len(like), generator=torch.Generator().manual_seed(0))
    few = [shift(like[rows]) for rows in order[:320].split(32)]
    assert np.mean(few) < 0.1
    # Without what is taken off for their number they would.
    network = digits_model("resnet10")
    mean = torch.stack([_plain(network, like[rows]) for rows in order[:320].split(32)]).mean()
    assert float(mean) > 1.5 * np.mean(few)


def _plain(network: nn.Module, pixels: Tensor) -> Tensor:
    gaps: list[Tensor] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        means = inputs[0].mean((0, 2, 3))
        gaps.append(((means - layer.running_mean).square() / layer.running_var).mean().sqrt())

    hooks = [
        one.register_forward_pre_hook(look) for one in network.modules() if isinstance(one, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        network(pixels)
    for hook in hooks:
        hook.remove()
    return torch.stack(gaps).mean()


def test_the_batch_plays_no_part() -> None:
    pixels = sets()[1].batch(slice(0, 50))
    assert shift(pixels, batch=7) == pytest.approx(shift(pixels), rel=1e-5)


def test_a_network_that_keeps_no_statistics_has_none_and_one_image_neither() -> None:
    bare = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(64, 10)).eval()
    pixels = sets()[1].batch(slice(0, 5))
    classes, found = statistics_shift(bare, of(pixels))
    assert found is None
    assert len(classes) == 5
    assert statistics_shift(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), of(pixels))[1] is None
    assert statistics_shift(digits_model("resnet10"), of(pixels[:1]))[1] is None
