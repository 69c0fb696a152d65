"""Running means that follow the weights: against means measured on the images, and where it must hold back."""

from __future__ import annotations

import pytest
import torch
from doubles import problem
from torch import nn

from stakes.api import unlearn
from stakes.errors import ConfigError
from stakes.methods import StructGuard
from stakes.methods.recalibration import MeanRecalibration
from tinydigits import FEW_PROBES


def block(bias: bool = False) -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Conv2d(3, 20, 3, padding=1, stride=2, bias=bias), nn.BatchNorm2d(20), nn.ReLU())
    return nn.Sequential(layers, nn.Conv2d(20, 6, 3, bias=bias), nn.BatchNorm2d(6)).eval()


def images(count: int, light: float = 0.0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(7)
    base = torch.rand(count, 3, 1, 1, generator=draws)
    return (base + 0.2 * torch.rand(count, 3, 12, 12, generator=draws) + light).clamp(0, 2)


def measured(network: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Means over images of what each BatchNorm layer gets, one layer after another, as training would leave them."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):

            def keep(_, inputs, name=name):
                found[name] = inputs[0].mean(dim=(0, 2, 3))

            hook = module.register_forward_pre_hook(keep)
            with torch.no_grad():
                network(pixels)
            hook.remove()
    return found


def fitted(network: nn.Module, pixels: torch.Tensor) -> nn.Module:
    for name in ("0.1", "2"):
        network.get_submodule(name).running_mean.copy_(measured(network, pixels)[name])
    return network


def moved(network: nn.Module, size: float = 0.1) -> nn.Module:
    other = block(network[1].bias is not None)
    other.load_state_dict(network.state_dict())
    draws = torch.Generator().manual_seed(1)
    for name in ("0.0", "1"):
        layer = other.get_submodule(name)
        layer.weight.data += size * torch.randn(layer.weight.shape, generator=draws)
        if layer.bias is not None:
            layer.bias.data += torch.randn(layer.bias.shape, generator=draws)
    return other


@pytest.mark.parametrize("bias", [False, True])
def test_probes_that_are_the_training_images_give_the_measured_means(bias):
    pixels = images(64)
    network = fitted(block(bias), pixels)
    other = moved(network)
    MeanRecalibration(network, pixels.split(32), draws=torch.Generator()).apply(other)
    # Of the first layer exactly; further in, its inputs are those of the network before.
    assert torch.allclose(other[0][1].running_mean, measured(other, pixels)["0.1"], atol=1e-4)


def test_known_means_correct_what_probes_get_wrong():
    """Probes are brighter than the training images; the running means tell, and the estimate listens."""
    pixels, probes = images(256), images(256, light=0.3)
    network = fitted(block(), pixels)
    other = moved(network)
    wanted = measured(other, pixels)["0.1"]
    stale = (network[0][1].running_mean - wanted).norm()
    MeanRecalibration(network, [probes], draws=torch.Generator()).apply(other)
    ours = (other[0][1].running_mean - wanted).norm()
    # What the probes' own means would have given.
    naive = network[0][1].running_mean + measured(other, probes)["0.1"] - measured(network, probes)["0.1"]
    assert ours < 0.3 * (naive - wanted).norm()
    assert ours < 0.3 * stale


def test_weights_that_stayed_leave_the_means_alone_and_twice_is_once():
    pixels = images(32)
    network = fitted(block(), pixels)
    same, other = moved(network, 0.0), moved(network)
    recalibration = MeanRecalibration(network, [pixels], draws=torch.Generator())
    recalibration.apply(same)
    assert all(torch.equal(a, b) for a, b in zip(same.buffers(), network.buffers(), strict=True))
    recalibration.apply(other)
    once = [value.clone() for value in other.buffers()]
    recalibration.apply(other)
    assert all(torch.equal(a, b) for a, b in zip(once, other.buffers(), strict=True))
    assert not torch.equal(once[0], network[0][1].running_mean)


def test_normalisation_that_follows_no_layer_is_left_alone():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval()
    other = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval()
    other.load_state_dict(network.state_dict())
    other[2].weight.data += 1
    MeanRecalibration(network, [images(8)], draws=torch.Generator()).apply(other)
    assert torch.equal(other[0].running_mean, network[0].running_mean)
    assert not torch.equal(other[3].running_mean, network[3].running_mean)


def test_inputs_that_never_vary_give_numbers():
    network = fitted(block(), images(8))
    other = moved(network)
    MeanRecalibration(network, [torch.ones(4, 3, 12, 12)], draws=torch.Generator()).apply(other)
    assert all(torch.isfinite(value).all() for value in other.buffers())


SETTINGS = FEW_PROBES | {
    "probes.kind": "adversarial",
    "probe_batch": 6,
    "forget_batch": 3,
    "lr": 0.02,
    "settle": 0,
    "batchnorm": "freeze",
    "align_weight": 0.0,
}


def test_the_run_ends_forgotten_with_means_that_follow(tmp_path):
    tiny = problem("resnet18")
    plain, following = (
        unlearn(
            tiny.model,
            tiny.split,
            anchors=tiny.anchors,
            settings={**SETTINGS, "recalibrate": recalibrate},
            cache=tmp_path,
        )
        for recalibrate in (False, True)
    )
    assert plain.record.forgotten
    assert following.record.forgotten
    assert following.record.steps >= plain.record.steps
    before, stayed, moved = (
        {name: value for name, value in model.state_dict().items() if name.endswith("running_mean")}
        for model in (tiny.model, plain.classifier, following.classifier)
    )
    assert before
    assert all(torch.equal(stayed[name], value) for name, value in before.items())
    assert not any(torch.equal(moved[name], value) for name, value in before.items())


def test_statistics_that_are_measured_anyway_do_not_follow():
    with pytest.raises(ConfigError, match="recalibrate=false"):
        StructGuard.configure("default", {"recalibrate": True, "batchnorm": "update"})
