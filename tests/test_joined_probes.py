"""Probes and unlabelled images as one set."""

from __future__ import annotations

import torch

from stakes.data.images import ImageSet
from stakes.joined_probes import JoinedProbes
from stakes.metrics import predict
from tinydigits import digits_model, sets


class Made:
    """Three probes in memory."""

    labels = torch.tensor([3, 1, 2])

    def __init__(self, name: str = "made") -> None:
        self.pixels, self.name = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), name

    def __len__(self) -> int:
        return 3

    def batch(self, indices: torch.Tensor) -> torch.Tensor:
        return self.pixels[indices]

    def fingerprint(self) -> str:
        return self.name


def joined(images: ImageSet, made: Made | None = None) -> JoinedProbes:
    return JoinedProbes(made or Made(), images, predict(digits_model("small"), images, batch=4))


def test_labels_are_what_the_model_says_not_what_the_images_say() -> None:
    images = sets()[1].subset(range(10)).with_labels([0] * 10)
    both = joined(images)
    said = digits_model("small")(images.batch(slice(None))).argmax(1)
    assert len(both) == len(both.labels) == 13
    assert both.labels[:3].tolist() == [3, 1, 2]
    assert torch.equal(both.labels[3:], said)
    assert len(said.unique()) > 1


def test_a_batch_has_each_in_its_place() -> None:
    images, made = sets()[1].subset(range(10)), Made()
    both = joined(images, made)
    whole = torch.cat([made.pixels, images.batch(slice(None))])
    for indices in ([0, 12, 2, 3], [1, 0], [5, 3, 12], list(range(13)), [12, 12, 0]):
        assert torch.equal(both.batch(torch.tensor(indices)), whole[indices])


def test_the_fingerprint_is_that_of_both() -> None:
    images = sets()[1].subset(range(10))
    names = {
        joined(images).fingerprint(),
        joined(images, Made("other")).fingerprint(),
        joined(images.subset(range(9))).fingerprint(),
    }
    assert len(names) == 3
    assert joined(images).fingerprint() in names
