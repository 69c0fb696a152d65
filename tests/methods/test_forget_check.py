"""The stop test answers like a look at all images, and seldom takes one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stakes.data.images import ImageSet
from stakes.methods.base import ForgetCheck

K, CPU = 60, torch.device("cpu")


class Told(nn.Module):
    """Recognises the images that it is told to; the number of an image stands in its pixel. Counts what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.recognised = torch.zeros(K, dtype=torch.bool)
        self.seen = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen += len(pixels)
        number = (pixels.flatten(1)[:, 0] * K).round().long()
        # Every label is 0.
        return nn.functional.one_hot((~self.recognised[number]).long(), 2).float()


def images() -> ImageSet:
    pixels = (torch.arange(K) / K).view(K, 1, 1, 1)
    return ImageSet.from_tensors(pixels, [0] * K, ["forgotten", "other"])


@pytest.mark.parametrize("batch", [1, 5, 8, 16, 256])
def test_it_is_right_whatever_comes_and_goes(batch: int, generator: torch.Generator) -> None:
    model, check = Told(), ForgetCheck(images(), batch, CPU)
    answers = set()
    for _ in range(300):
        share = torch.rand((), generator=generator) ** 4 * 0.2
        model.recognised = torch.rand(K, generator=generator) < share
        model.seen = 0
        found = check.forgotten(model)
        answers.add(found)
        assert found == (not model.recognised.any())
        assert model.seen <= K + min(K, batch), "what a dry run counts at most"
        assert model.seen >= K or not found, "a yes has seen all of them"
    assert answers == {True, False}


def test_few_images_tell_that_some_are_recognised() -> None:
    model, check = Told(), ForgetCheck(images(), 256, CPU)
    model.recognised[10:] = True
    assert not check.forgotten(model)
    assert model.seen == 60 - 10 + 10, "the first ones are not, so the others of the batch are looked at"
    for _ in range(5):
        model.seen = 0
        assert not check.forgotten(model)
        assert model.seen == ForgetCheck.few
    assert check.accuracy(model) == pytest.approx(100 * 50 / 60)
    model.recognised[:] = False
    model.seen = 0
    assert check.forgotten(model)
    assert model.seen == 50 + 60
