"""Linear probes: the blocks of any network, and what memory leaves in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from controls import NAMES, evidence, never, saw, sets
from torch import nn

from stakes.audit.evidence import Skipped
from stakes.audit.probing import FEATURES, blocks, layer_features, readable
from stakes.audit.sections.linear_probe import linear_probe
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.models import Classifier, Projector, build_network
from stakes.report.section import Section


def classifier(network: nn.Module, size: tuple[int, int, int] = (3, 32, 32)) -> Classifier:
    return Classifier.from_network(network, class_names=NAMES, input_size=size)


def read(model: Classifier, count: int = 5, most: int = 12, width: int = 64) -> dict[str, np.ndarray]:
    pixels = torch.rand((count, *model.input_size), generator=torch.Generator().manual_seed(0))
    images = ImageSet.from_tensors(pixels, [0] * count, NAMES)
    return layer_features(model, images, most=most, width=width, batch=3, device=torch.device("cpu"))


def test_stages_of_a_residual_network() -> None:
    model = classifier(build_network("resnet18", num_classes=3, width=4))
    assert list(blocks(model.body)) == ["conv1", "layer1", "layer2", "layer3", "layer4"]
    found = read(model)
    assert list(found) == ["conv1", "layer1", "layer2", "layer3", "layer4", FEATURES]
    assert {name: values.shape for name, values in found.items()}["layer2"] == (5, 4 * 8)
    pixels = torch.rand((5, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    assert np.allclose(found[FEATURES], model.features(pixels).detach().numpy(), atol=1e-5)


def test_blocks_of_a_transformer() -> None:
    import transformers

    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        **labels,
    )
    network = transformers.AutoModelForImageClassification.from_config(config, attn_implementation="eager")
    found = read(classifier(network, (3, 8, 8)))
    assert len(found) >= 4
    assert found[FEATURES].shape == (5, 16)
    assert all(len(values) == 5 for values in found.values())


def test_few_layers_are_spread_and_wide_ones_narrowed() -> None:
    found = read(classifier(build_network("resnet18", num_classes=3, width=4)), most=2, width=10)
    assert list(found) == ["conv1", "layer4", FEATURES]
    assert max(values.shape[1] for values in found.values()) <= 10


def test_the_projector_is_a_layer() -> None:
    model = classifier(build_network("resnet10", num_classes=3, width=4))
    model.projector = Projector(model.feature_width, 8)
    assert list(read(model))[-1] == "projector"


def test_hooks_are_gone_afterwards() -> None:
    model = classifier(build_network("resnet10", num_classes=3, width=4))
    read(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_readable_finds_what_is_there_and_only_that() -> None:
    draws = np.random.default_rng(0)
    labels = torch.arange(90) % 3
    there = draws.normal(size=(90, 8)) + 3 * np.eye(8)[labels.numpy()]
    absent = draws.normal(size=(90, 8))
    assert readable(there[:60], labels[:60], {"x": (there[60:], labels[60:])}, inverse_penalty=1)["x"] > 90
    assert readable(absent[:60], labels[:60], {"x": (absent[60:], labels[60:])}, inverse_penalty=1)["x"] < 65


def test_controls(tmp_path: Path) -> None:
    """A wrong label, which only memory can hold, is read from the model that saw it and not from the other."""
    seen, not_seen = (linear_probe(evidence(tmp_path, model(True), wrong=True)) for model in (saw, never))
    assert isinstance(seen, Section)
    assert isinstance(not_seen, Section)
    assert seen.numbers["forget_after_features"] > 50  # type: ignore[operator]
    assert not_seen.numbers["forget_after_features"] < 20  # type: ignore[operator]
    assert not_seen.numbers["forget_before_features"] == seen.numbers["forget_after_features"]
    assert not_seen.numbers["unseen_after_features"] > 80  # type: ignore[operator]


@pytest.mark.parametrize("what", ["test", "none", "one class"])
def test_what_it_fits_on(tmp_path: Path, what: str) -> None:
    forget, retain, test = sets(False)
    split = {
        "test": ForgetSplit(forget=forget, test=test),
        "none": ForgetSplit(forget=forget),
        "one class": ForgetSplit(forget=forget, retain=retain.subset(retain.labels == 0)),
    }[what]
    found = linear_probe(evidence(tmp_path, never(), split=split))
    if what == "test":
        assert isinstance(found, Section)
        assert found.settings["fitted on"] == "test"
        assert "unseen_after_features" in found.numbers
    else:
        assert isinstance(found, Skipped)


@pytest.mark.parametrize("tested", ["every class", "lacks it"])
def test_a_forgotten_class_is_not_among_the_retained_images(tmp_path: Path, tested: str) -> None:
    """A probe that was fitted without a class can never name it, in any model."""
    forget, retain, test = sets(False)
    split = ForgetSplit(
        forget=forget.subset(forget.labels == 0),
        retain=retain.subset(retain.labels != 0),
        test=test if tested == "every class" else test.subset(test.labels != 0),
    )
    found = linear_probe(evidence(tmp_path, never(), split=split))
    if tested == "every class":
        assert isinstance(found, Section)
        assert found.settings["fitted on"] == "test"
        assert found.numbers["forget_before_features"] > 0  # type: ignore[operator]
    else:
        assert isinstance(found, Skipped)
        assert "every class to forget" in found.reason
