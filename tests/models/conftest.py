"""Fixtures of this room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tinynets import NAMES, SIZE, shake
from torch import nn

from stakes.models import Classifier, build_network


@pytest.fixture
def network() -> nn.Module:
    return shake(build_network("resnet10", num_classes=3, width=4))


@pytest.fixture
def pixels(generator: torch.Generator) -> torch.Tensor:
    return torch.rand((4, *SIZE), generator=generator)


@pytest.fixture
def classify() -> Callable[..., Classifier]:
    """Split a network with names, size and a normalisation that is not the identity."""

    def make(network: nn.Module, **changes: Any) -> Classifier:
        settings: dict[str, Any] = {
            "class_names": NAMES,
            "input_size": SIZE,
            "mean": (0.4, 0.5, 0.6),
            "std": (0.2, 0.3, 0.25),
        }
        return Classifier.from_network(network, **(settings | changes))

    return make
