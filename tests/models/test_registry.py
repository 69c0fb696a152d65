from __future__ import annotations

import pytest

from stakes.errors import ConfigError
from stakes.models import available, build_network
from stakes.models.registry import describe


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
