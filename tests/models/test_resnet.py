from __future__ import annotations

import pytest
import torch
from torch import fx

from stakes.errors import ConfigError
from stakes.models import build_network
from stakes.models.resnet import STEMS, resnet10, resnet18, resnet50


# The counts in the documentation of torchvision.
@pytest.mark.parametrize(("build", "count"), [(resnet18, 11_689_512), (resnet50, 25_557_032)])
def test_parameter_count_is_torchvisions(build, count):
    with torch.device("meta"):
        network = build(num_classes=1000)
    assert sum(p.numel() for p in network.parameters()) == count


def test_parameter_names_are_torchvisions():
    with torch.device("meta"):
        small, large = set(resnet18(num_classes=10).state_dict()), set(resnet50(num_classes=10).state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer2.0.downsample.0.weight", "fc.bias"} <= small & large
    assert {"layer4.2.conv3.weight", "layer1.0.downsample.1.num_batches_tracked"} <= large
    assert not any(name.startswith("layer1.0.downsample") for name in small)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_equals_torchvision(name, stem):
    torchvision = pytest.importorskip("torchvision", reason="torchvision is an optional dependency")
    theirs = getattr(torchvision.models, name)(num_classes=5)
    if stem == "cifar":
        theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        theirs.maxpool = torch.nn.Identity()
    ours = build_network(name, num_classes=5, stem=stem)
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(ours.eval()(pixels), theirs.eval()(pixels))


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 8), ("cifar", 32), ("cifar-maxpool", 16)])
def test_stem_sets_the_size_of_the_first_stage(stem, side):
    network = resnet10(num_classes=2, stem=stem, width=2).eval()
    seen = []
    network.layer1.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[-1]))
    network(torch.rand(1, 3, 32, 32))
    assert seen == [side]


@pytest.mark.parametrize("stem", STEMS)
def test_grey_images_and_tracing(stem):
    network = resnet10(num_classes=4, stem=stem, in_channels=1, width=2).eval()
    pixels = torch.rand(2, 1, 8, 8)
    assert network(pixels).shape == (2, 4)
    assert torch.equal(fx.symbolic_trace(network)(pixels), network(pixels))


def test_same_seed_same_weights_and_global_generator_untouched():
    before = torch.get_rng_state()
    first, second, other = (build_network("resnet10", num_classes=2, width=2, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.fc.weight, second.fc.weight)
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_unknown_stem_and_bad_numbers():
    with pytest.raises(ConfigError, match="cifar-maxpool"):
        resnet10(num_classes=2, stem="patch")
    with pytest.raises(ConfigError, match="num_classes"):
        resnet10(num_classes=0)
