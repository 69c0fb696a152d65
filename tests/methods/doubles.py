"""A problem small enough for hundreds of runs: three classes of coloured noise and networks that know it by heart."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.anchors.anchors import Anchors
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.models import Classifier, build_network

NAMES = ("ant", "bee", "cow")
SIZE = (3, 8, 8)
ROWS = (0, 1, 3, 4)
"""What is to be forgotten: two images of each of two classes, so that the third is a way out for all of them."""


class Mlp(nn.Module):
    """A user's own network, without BatchNorm, of a class that the library does not know."""

    def __init__(self, classes: int = 3, hidden: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(192, hidden)
        self.last = nn.Linear(hidden, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.last(F.relu(self.first(pixels.flatten(1))))


class Cnn(nn.Module):
    """Another, with a convolution and dropout."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(8 * 16, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.last(self.drop(F.relu(self.stem(pixels)).flatten(1)))


def _vit() -> nn.Module:
    import transformers

    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        **labels,
    )
    made: nn.Module = transformers.AutoModelForImageClassification.from_config(
        config, attn_implementation="eager"
    )
    return made


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": Mlp,
    "cnn": Cnn,
    "resnet10": lambda: build_network("resnet10", num_classes=3, width=4),
    "resnet18": lambda: build_network("resnet18", num_classes=3, stem="cifar-maxpool", width=2),
    "vit": _vit,
}


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pixels (count, 3, 8, 8), a colour for each class plus noise, and labels in turn."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    colours = torch.eye(3)[labels][:, :, None, None]
    noise = torch.rand((count, *SIZE), generator=draws)
    return 0.25 * colours + 0.7 * noise, labels


@dataclass(frozen=True)
class Problem:
    """A trained classifier, which images it is to forget, and anchors."""

    model: Classifier
    split: ForgetSplit
    anchors: Anchors


@functools.cache
def problem(network: str = "cnn", forget: int = 4) -> Problem:
    """The classifier of a name, trained until it is right on every image, and some of them to forget."""
    pixels, labels = images(36, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier.from_network(
            NETWORKS[network](), class_names=NAMES, input_size=SIZE, mean=(0.4,) * 3, std=(0.25,) * 3
        )
        _learn(model, pixels, labels)
    train = ImageSet.from_tensors(pixels, labels, NAMES)
    test = ImageSet.from_tensors(*images(12, seed=2), NAMES)
    rows = ROWS[:forget]
    kept = [row for row in range(len(labels)) if row not in rows]
    split = ForgetSplit(forget=train.subset(rows), test=test, retain=train.subset(kept))
    return Problem(model, split, Anchors(torch.eye(3, 8), NAMES))


def _learn(model: Classifier, pixels: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        loss = F.cross_entropy(model.train()(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < 0.1 and bool((model.eval()(pixels).argmax(1) == labels).all()):
            break
    else:
        raise RuntimeError("the tiny network did not learn: the contract would test nothing")
    model.eval().zero_grad(set_to_none=True)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
