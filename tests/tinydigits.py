"""Two small classifiers of scikit-learn's digits that learn in seconds, and what their tests hand around."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.anchors.anchors import Anchors
from stakes.data import open_source
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.models import Classifier, build_network

NAMES = tuple("0123456789")
SIZE = (1, 8, 8)
FEW_PROBES = {"probes.per_image": 3, "probes.iterations": 4, "probes.epsilon": 1.0, "probes.step_size": 0.3}
FEW_INVERTED = {"probes.inversion.batches": 1, "probes.inversion.batch": 20, "probes.inversion.iterations": 2}


class Small(nn.Module):
    """A user's own network, of a class that the library does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.last = nn.Linear(16 * 16, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.conv1(pixels)))
        return self.last(F.relu(self.conv2(hidden)).flatten(1))


@functools.cache
def sets() -> tuple[ImageSet, ImageSet]:
    """Training and test images."""
    source = open_source("digits")
    assert source.train is not None
    assert source.test is not None
    return source.train, source.test


@functools.cache
def digits_model(kind: Literal["small", "resnet10"] = "small") -> Classifier:
    """A classifier that knows nearly all digits; do not change it.

    Trained in double precision and with an lr that falls to nothing, so that it is the same one, but for the last
    digits of its weights, whatever a processor's kernels make of a sum.
    """
    train, _ = sets()
    pixels, labels = train.batch(slice(None)).double(), train.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = (
            Small() if kind == "small" else build_network("resnet10", num_classes=10, in_channels=1, width=4)
        )
        model = Classifier.from_network(
            network, class_names=NAMES, input_size=SIZE, mean=(0.3,), std=(0.35,)
        ).train()
        model.double()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=6 * (len(labels) // 64))
        for epoch in range(6):
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
            for part in order[: len(order) // 64 * 64].split(64):
                loss = F.cross_entropy(model(pixels[part]), labels[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                falling.step()
    model.float()
    return model.eval().requires_grad_(False)


@functools.cache
def known() -> ImageSet:
    """Training images that both classifiers recognise."""
    train, _ = sets()
    pixels = train.batch(slice(0, 100))
    right = torch.ones(100, dtype=torch.bool)
    for kind in ("small", "resnet10"):
        right &= digits_model(kind)(pixels).argmax(1) == train.labels[:100]  # type: ignore[arg-type]
    return train.subset(right.nonzero().flatten())


def split(forget: int = 3) -> ForgetSplit:
    """The first recognised images are to be forgotten."""
    train, test = sets()
    return ForgetSplit(
        forget=known().subset(range(forget)),
        test=test.subset(range(60)),
        retain=train.subset(range(100, 200)),
    )


def anchors() -> Anchors:
    """An orthonormal anchor for each digit."""
    return Anchors(torch.eye(10, 12), NAMES)
