from __future__ import annotations

import importlib
import sys

import pytest
from torch import nn

from stakes.errors import CheckpointError, ConfigError
from stakes.models import Classifier, available, build_network
from stakes.models.registry import describe, options_of
from stakes.models.wiring import wiring


@pytest.mark.parametrize("name", ["resnet10", "resnet18"])
def test_described_networks_can_be_built_again(name):
    network = build_network(name, num_classes=3, in_channels=1, stem="cifar", width=2)
    description = describe(network)
    assert description == {"architecture": name, "stem": "cifar", "in_channels": 1, "width": 2}
    assert describe(build_network(num_classes=3, **description)) == description


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        build_network("lenet", num_classes=3)
    assert all(name in str(caught.value) for name in available())
    with pytest.raises(ConfigError, match="stem, width"):
        build_network("resnet10", num_classes=3, depth=4)
    with pytest.raises(ConfigError, match="unknown architecture"):
        build_network("os:system", num_classes=3)
    with pytest.raises(ConfigError, match="name of a timm network"):
        build_network("timm:hf-hub:somebody/model", num_classes=3)


@pytest.mark.parametrize(
    "option",
    [{"checkpoint_path": "a.bin"}, {"pretrained": True}, {"weights": "DEFAULT"}, {"act": {"run": "it"}}],
)
def test_options_of_a_file_open_nothing(option):
    with pytest.raises(CheckpointError, match=f"option '{next(iter(option))}'"):
        options_of({"architecture": "timm:resnet18", "options": option})
    assert options_of({"options": {"drop_rate": 0.1, "layers": [1, 2]}}) == {
        "drop_rate": 0.1,
        "layers": [1, 2],
    }


def _split(network):
    return Classifier.from_network(network, class_names=("a", "b", "c"), input_size=(3, 8, 8))


def test_a_network_that_was_changed_is_nobody_elses():
    made = build_network("resnet10", num_classes=3, width=2, stem="cifar-maxpool")
    assert _split(made).architecture == describe(made)
    made.maxpool = nn.Identity()
    assert _split(made).architecture is None

    class Scaled(type(made)):
        def forward(self, pixels):
            return super().forward(2 * pixels)

    made = build_network("resnet10", num_classes=3, width=2)
    made.__class__ = Scaled
    assert _split(made).architecture is None


def test_the_code_of_own_classes_counts_and_its_comments_do_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def told(name, line):
        code = f"from torch import nn\n\nclass A(nn.Module):\n    def forward(self, x):\n        {line}\n"
        (tmp_path / f"{name}.py").write_text(code)
        kind = importlib.import_module(name).A
        kind.__module__, sys.modules["told"] = "told", sys.modules[name]
        return wiring(kind())

    first, commented, other = (
        told("told_a", "return x + 1"),
        told("told_b", "return x + 1  # one more"),
        told("told_c", "return x + 2"),
    )
    assert first == commented != other
