from __future__ import annotations

import copy

import pytest
import torch
from tinynets import NAMES, SIZE, shake, tiny_transformers
from torch import nn

from stakes.errors import ModelError
from stakes.files import digest_tensors
from stakes.models import Classifier, Projector, build_network, load_checkpoint, save_checkpoint
from stakes.models.classifier import _arrange

MEAN = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
STD = torch.tensor([0.2, 0.3, 0.25]).view(1, 3, 1, 1)


class Twisted(nn.Module):
    """A linear head in the middle of other linear layers, and whatever ``after`` does behind it."""

    def __init__(self, after=lambda logits: logits, classes: int = 3) -> None:
        super().__init__()
        self.early = nn.Linear(16, 8)
        self.middle = nn.Sequential(nn.ReLU(), nn.Linear(8 * 3 * 16, 6), nn.ReLU(), nn.Dropout(0.5))
        self.top = nn.ModuleDict({"out": nn.Linear(6, classes)})
        self.after = after

    def forward(self, x):
        return self.after(self.top["out"](self.middle(self.early(x).flatten(1))))


NETWORKS = {
    "resnet10": lambda: shake(build_network("resnet10", num_classes=3, width=4)),
    "resnet50": lambda: shake(build_network("resnet50", num_classes=3, width=2, stem="cifar-maxpool")),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 3)),
    "twisted": Twisted,
    "transformers resnet": lambda: tiny_transformers("resnet"),
    "transformers vit": lambda: tiny_transformers("vit"),
    "transformers convnext": lambda: tiny_transformers("convnext"),
}


def outputs(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    result = network.eval()((pixels - MEAN) / STD)
    return getattr(result, "logits", result)


@pytest.mark.parametrize("kind", NETWORKS)
def test_splits_any_network(kind, classify, pixels):
    network = NETWORKS[kind]().train()
    before = copy.deepcopy(network.state_dict())
    model = classify(network)
    assert network.training
    assert not any(module._forward_hooks for module in [*network.modules(), *model.modules()])
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert torch.equal(model(pixels), outputs(network, pixels))
    assert torch.equal(model.head(model.features(pixels)), model(pixels))
    assert model.features(pixels).shape == (4, model.feature_width)
    assert model.num_classes == 3
    state = model.exported_state()
    assert state.keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in state.items())
    assert model.fingerprint() == digest_tensors(before)
    back = model.to_network()
    assert type(back) is type(network)
    assert torch.equal(outputs(back, pixels), model(pixels))


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_vmap_and_functional_call(kind, classify, pixels):
    model = classify(NETWORKS[kind]())
    pixels.requires_grad_()
    (gradient,) = torch.autograd.grad(model(pixels).logsumexp(1).sum(), pixels)
    assert bool((gradient != 0).any())
    parameters = {k: v.detach() for k, v in model.named_parameters()}

    def one(weights, image):
        return torch.func.functional_call(model, weights, image.unsqueeze(0)).squeeze(0)

    rows = torch.func.vmap(one, in_dims=(None, 0), randomness="error")(parameters, pixels.detach())
    torch.testing.assert_close(rows, model(pixels).detach(), rtol=1e-4, atol=1e-5)
    zeros = {k: torch.zeros_like(v) for k, v in parameters.items()}
    assert float(one(zeros, pixels[0].detach()).abs().max()) == 0
    model.train()(pixels).sum().backward()
    assert model.head.weight.grad is not None


def test_input_gradient_on_a_linear_network(classify, pixels):
    model = classify(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)))
    pixels.requires_grad_()
    (gradient,) = torch.autograd.grad(model(pixels)[:, 1].sum(), pixels)
    expected = model.head.weight[1].view(1, *SIZE) / STD
    torch.testing.assert_close(gradient, expected.expand_as(gradient))


def test_projector_is_part_of_the_deployed_path(classify, network, pixels):
    model = classify(network)
    plain, without = model(pixels), model.fingerprint()
    model.projector = Projector(model.feature_width)
    assert not torch.allclose(model(pixels), plain)
    assert torch.equal(model(pixels), model.head(model.projector(model.features(pixels))))
    assert {"projector.fc1.weight", "fc.weight"} <= model.exported_state().keys()
    assert model.fingerprint() != without
    with pytest.raises(ModelError, match="projector"):
        model.to_network()
    model.projector = Projector(model.feature_width, init="identity", nonnegative=True)
    assert torch.equal(model(pixels), plain)
    model.projector = None
    assert model.fingerprint() == without


def test_a_projector_of_the_network_itself_is_not_overwritten(classify):
    class Clashing(Twisted):
        def __init__(self):
            super().__init__()
            self.projector = nn.Linear(2, 2)

    model = classify(Clashing())
    model.exported_state()
    model.projector = Projector(model.feature_width)
    model.projector.weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ModelError, match=r"projector\.weight"):
        model.exported_state()


def test_clone_shares_nothing(classify, network, pixels):
    model = classify(network)
    twin, before = model.clone(), model(pixels)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(pixels), before)
    assert twin.class_names == model.class_names
    assert twin.config == model.config


def test_alias_of_the_head_is_replaced_too(classify, pixels):
    class Aliased(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(768, 3)
            self.layers = nn.ModuleList([nn.Flatten(), self.fc])

        def forward(self, x):
            return self.layers[1](self.layers[0](x))

    network = Aliased()
    model = classify(network)
    assert model.exported_state().keys() == network.state_dict().keys()
    assert torch.equal(outputs(model.to_network(), pixels), outputs(network, pixels))


@pytest.mark.parametrize(
    "after", [lambda z: z.softmax(1), lambda z: z / torch.tensor([2.0] * 3), lambda z: z.view(-1, 3)]
)
def test_work_behind_the_head(after, classify, pixels):
    network = Twisted(after).eval()
    model = classify(network, head="top.out")
    expected = network.top["out"](network.middle(network.early((pixels - MEAN) / STD).flatten(1)))
    assert torch.equal(model(pixels), expected)
    assert torch.equal(outputs(model.to_network(), pixels), outputs(network, pixels))
    assert model.clone().features(pixels).shape == (4, 6)


def test_softmax_without_a_name_lists_the_candidates(classify):
    with pytest.raises(ModelError) as caught:
        classify(Twisted(lambda z: z.softmax(1)))
    for expected in ("early (16 → 8)", "middle.1 (384 → 6)", "top.out (6 → 3)", 'head="NAME"'):
        assert expected in str(caught.value)


def test_ambiguous_heads_are_listed_and_can_be_named(classify):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.first, self.second = nn.Flatten(), nn.Linear(768, 3), nn.Linear(768, 3)
            self.second.load_state_dict(self.first.state_dict())

        def forward(self, x):
            x = self.flat(x)
            return (self.first(x) + self.second(x)) / 2

    with pytest.raises(ModelError, match=r"ambiguous.*first \(768 → 3\), second \(768 → 3\)"):
        classify(Two())
    assert classify(Two(), head="second").head_name == "second"


@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "not a linear layer"), ("middle.1", "not the head")]
)
def test_wrong_head_name(name, message, classify):
    with pytest.raises(ModelError, match=message) as caught:
        classify(Twisted(), head=name)
    assert "top.out (6 → 3)" in str(caught.value)


def test_networks_that_cannot_be_split(classify):
    with pytest.raises(ModelError, match=r"no linear layer.*other heads"):
        classify(nn.Sequential(nn.Conv2d(3, 3, 16), nn.Flatten()))
    with pytest.raises(ModelError, match="no head that can be found"):  # its input is not 2-D
        classify(nn.Linear(16, 3))
    with pytest.raises(ModelError, match="cannot run on a batch"):
        classify(nn.Sequential(nn.Flatten(), nn.Linear(5, 3)))
    with pytest.raises(ModelError, match="tensor of logits"):
        classify(Twisted(lambda z: {"out": z}))


def test_random_networks_are_refused(classify):
    class Noisy(Twisted):
        def forward(self, x):
            return self.top["out"](self.middle(self.early(x).flatten(1)) + torch.rand(6))

    with pytest.raises(ModelError, match="at random"):
        classify(Noisy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("a", "b")}, "expected 3, one per output of 'fc', got 2"),
        ({"class_names": ("a", "b", "a")}, "'a' more than once"),
        ({"mean": (0.5,)}, "3 means"),
        ({"std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"input_size": (3, 0, 8)}, "input_size"),
    ],
)
def test_bad_descriptions(changes, message, classify, network):
    with pytest.raises(ModelError, match=message):
        classify(network, **changes)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 1, 16, 16), torch.zeros(3, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)],
)
def test_wrong_images(images, classify, network):
    with pytest.raises(ModelError, match=r"shape \(n, 3, 16, 16\)"):
        classify(network)(images)


def test_half_precision_networks_become_float32(classify, network):
    model = classify(network.half())
    assert {v.dtype for v in model.exported_state().values() if v.is_floating_point()} == {torch.float32}


def test_repr_says_what_it_is(classify, network):
    model = classify(network)
    assert repr(model) == (
        "Classifier(ResNet: 3×16×16 pixels → 32 features → 3 classes, head 'fc', no projector)"
    )
    assert model.config["class_names"] == list(NAMES)
    assert isinstance(model, Classifier)


class _Standardised(nn.Conv2d):
    """Weight standardisation as it is often written."""

    def forward(self, pixels):
        flat = self.weight.view(len(self.weight), -1)
        return self._conv_forward(pixels, (flat - flat.mean(1, keepdim=True)).view_as(self.weight), self.bias)


def test_channels_last_as_on_a_gpu(classify, pixels, tmp_path):
    """The layout of plain convolutions changes, and nothing that anybody can see."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), _Standardised(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    model = classify(network)
    wanted, print_before = model(pixels), model.fingerprint()
    _arrange(model, torch.channels_last)
    plain, derived = model.body[0].weight, model.body[1].weight
    assert plain.is_contiguous(memory_format=torch.channels_last)
    assert not plain.is_contiguous()
    assert derived.is_contiguous()
    assert torch.allclose(model(pixels), wanted, atol=1e-6)
    model(pixels).sum().backward()
    assert model.fingerprint() == print_before
    save_checkpoint(model, tmp_path)
    assert load_checkpoint(tmp_path, factory=lambda: network).fingerprint() == print_before
    assert model.to("cpu").body[0].weight.is_contiguous()


def test_a_layout_of_images_or_weights_that_breaks_kernels_of_a_cpu_does_not_get_in():
    """One channel is channels last as well, as far as strides tell; so is a network that its owner made so."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 8 * 8, 3))
    network = network.to(memory_format=torch.channels_last)
    model = Classifier.from_network(network, class_names="abc", input_size=(1, 8, 8))
    seen = []
    model.body[0].register_forward_hook(lambda _module, given, made: seen.append((given[0], made)))
    pixels = torch.rand(5, 8, 8, 1).permute(0, 3, 1, 2)
    assert pixels.is_contiguous(memory_format=torch.channels_last), "or the test says nothing"
    wanted = model(pixels.clone(memory_format=torch.contiguous_format))
    assert torch.equal(model(pixels), wanted)
    assert [given.stride() for given, _ in seen] == [(64, 64, 8, 1)] * 2
    assert all(made.stride() == (256, 64, 8, 1) for _, made in seen)
    assert model.body[0].weight.stride() == (9, 9, 3, 1)
