"""Linear classifiers, whose nearest boundaries are known in closed form, and jobs on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stakes.data.images import ImageSet
from stakes.methods.base import Method
from stakes.methods.job import Job
from stakes.models import Classifier

SIDE = 4
SIZE = (1, SIDE, SIDE)
WIDTH = SIDE * SIDE


class Linear(nn.Module):
    """Logits W x + b of flattened pixels."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.last = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            self.last.weight.copy_(weight)
            self.last.bias.copy_(bias)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.last(self.flat(pixels))


def names(classes: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(classes))


def linear_classifier(weight: Tensor, bias: Tensor, **normalisation: Any) -> Classifier:
    """A classifier whose logits are W x + b."""
    return Classifier.from_network(
        Linear(weight, bias), class_names=names(len(weight)), input_size=SIZE, **normalisation
    )


def middling_images(count: int, generator: torch.Generator) -> Tensor:
    """Pixels (count, 1, 4, 4) near the middle of [0, 1], so that small moves never meet the box."""
    return 0.4 + 0.2 * torch.rand((count, *SIZE), generator=generator)


def job_of(
    method: Method[Any],
    model: Classifier,
    pixels: Tensor,
    labels: Tensor,
    retain: tuple[Tensor, Tensor] | None = None,
    **more: Any,
) -> Job[Any]:
    """A job in memory for a configured method."""
    original = model.clone().eval().requires_grad_(False)
    return Job(
        original=original,
        model=model.clone().requires_grad_(True),
        forget=ImageSet.from_tensors(pixels, labels, model.class_names),
        retain=ImageSet.from_tensors(*retain, model.class_names) if retain else None,
        settings=method.settings,
        **more,
    )
