"""Grad-CAM against its formula, on several kinds of networks."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import doubles
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.analyses import gradcam
from stakes.analyses.context import Context, SkipAnalysis
from stakes.analyses.gradcam import heat_maps, last_map, similarity
from stakes.errors import MissingExtraError
from stakes.models import Classifier, build_network


class Vgg(nn.Module):
    """Convolutions with ReLUs in place, pooled to one place before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveMaxPool2d(1),
        )  # fmt: skip
        self.last = nn.Linear(6, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.last(self.features(pixels).flatten(1))


def classifier(network: nn.Module) -> Classifier:
    return Classifier.from_network(network, class_names=doubles.NAMES, input_size=doubles.SIZE)


@pytest.mark.parametrize(
    ("network", "expected"), [("cnn", "body.stem"), ("mlp", None), ("linear", None), ("vit", None)]
)
def test_the_last_map_is_found(network: str, expected: str | None) -> None:
    assert last_map(classifier(doubles.NETWORKS[network]())) == expected


@pytest.mark.parametrize(
    ("side", "expected"), [(112, "layer4"), (64, "layer4"), (32, "layer3"), (16, "layer2")]
)
def test_a_map_that_is_too_coarse_gives_way_to_an_earlier_one(side: int, expected: str) -> None:
    network = build_network("resnet18", num_classes=3, stem="cifar-maxpool", width=2)
    model = Classifier.from_network(network, class_names=doubles.NAMES, input_size=(3, side, side))
    assert last_map(model) == f"body.{expected}"


def test_the_last_map_of_a_vgg_lies_before_its_pooling() -> None:
    assert last_map(classifier(Vgg())) == "body.features.3"


@pytest.mark.parametrize("network", [Vgg, doubles.Cnn])
def test_maps_are_the_formula(network: Any) -> None:
    torch.manual_seed(0)
    model = classifier(network()).requires_grad_(False)
    layer = last_map(model)
    assert layer is not None
    pixels, labels = doubles.images(5, seed=0)
    found = heat_maps(model, pixels, labels, layer, batch=2)
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, _, out: kept.append(out.clone()) or kept[-1].clone()
    )
    logits = model(pixels.clone().requires_grad_(True)).gather(1, labels[:, None]).sum()
    handle.remove()
    (slope,) = torch.autograd.grad(logits, kept[0])
    heat = F.relu((slope.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1, keepdim=True))
    expected = F.interpolate(heat, size=(8, 8), mode="bilinear")[:, 0]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)
    assert found.shape == (5, 8, 8)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_similarity_of_maps() -> None:
    maps = torch.rand((3, 4, 4), generator=torch.Generator().manual_seed(0))
    assert similarity(maps, 2 * maps).tolist() == pytest.approx([1.0, 1.0, 1.0])
    one, two = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    one[0, 0, 0] = two[0, 1, 1] = 1.0
    assert similarity(one, two).item() == 0.0
    assert similarity(one, torch.zeros(1, 2, 2)).isnan().all()


def test_the_section(context: Context) -> None:
    section = gradcam.analysis(context)
    assert [row[1] for row in section.tables[0].rows] == [6, 6]
    assert 1 <= section.numbers["retained_maps"] <= 6, "blank maps have no cosine"  # type: ignore[operator]
    assert [figure.personal for figure in section.figures] == [True, False]
    assert section.settings["maps of"] == last_map(context.run.after)


def test_an_unchanged_model_looks_where_it_looked(unchanged: Context) -> None:
    numbers = gradcam.analysis(unchanged).numbers
    assert numbers["forgotten_map_cosine"] == pytest.approx(1.0)
    assert numbers["retained_map_cosine"] == pytest.approx(1.0)


def test_no_convolution_is_a_clear_skip(context: Context) -> None:
    model = classifier(doubles.NETWORKS["mlp"]())
    context.run = dataclasses.replace(context.run, before=model, after=model)
    with pytest.raises(SkipAnalysis, match="no convolution"):
        gradcam.analysis(context)


def test_without_captum_the_extra_is_named(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingExtraError, match=r"stakes\[analyses\]"):
        gradcam.analysis(context)
