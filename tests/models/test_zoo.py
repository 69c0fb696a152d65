from __future__ import annotations

import sys

import pytest
import torch
from tinynets import NAMES

from stakes.errors import ConfigError, MissingExtraError
from stakes.models import Classifier, build_network, load_checkpoint, save_checkpoint
from stakes.models.zoo import describe_transformers

ELSEWHERE = [
    ("timm", "timm:resnet10t", {}),
    ("timm", "timm:vit_tiny_patch16_224", {"img_size": 32}),
    ("torchvision", "torchvision:mobilenet_v3_small", {}),
    ("torchvision", "torchvision:vit_b_16", {"image_size": 32}),
]


@pytest.mark.parametrize(("library", "architecture", "options"), ELSEWHERE)
def test_networks_of_optional_libraries(library, architecture, options, tmp_path):
    pytest.importorskip(library, reason=f"{library} is an optional dependency: pip install 'stakes[zoo]'")
    network = build_network(architecture, num_classes=3, **options)
    model = Classifier.from_network(network, class_names=NAMES, input_size=(3, 32, 32))
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(pixels), network.eval()(pixels))
    save_checkpoint(model, tmp_path / "run")
    assert torch.equal(load_checkpoint(tmp_path / "run")(pixels), model(pixels))
    with pytest.raises(ConfigError, match="cannot build 'no-such'"):
        build_network(f"{library}:no-such", num_classes=3)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_missing_libraries_say_how_to_get_them(library, monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'stakes\[zoo\]'"):
        build_network(f"{library}:resnet18", num_classes=3)


def test_plain_networks_have_no_transformers_config():
    assert describe_transformers(torch.nn.Linear(2, 2)) is None
