"""A problem small enough for hundreds of runs: three classes of coloured noise and networks that know it by heart."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.anchors.anchors import Anchors
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.methods import Job, Method, carry_out
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


class Linear(nn.Module):
    """Softmax regression: what is known in closed form is known here."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.last = nn.Linear(192, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.last(pixels.flatten(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "linear": Linear,
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


def job_of(method: Method[Any], network: str = "linear", *, seed: int = 0) -> Job[Any]:
    """A job in memory on the tiny problem; other images stand in for the probes."""
    tiny = problem(network)
    probes = ImageSet.from_tensors(*images(6, seed=3), NAMES)
    return Job(
        original=tiny.model.clone().eval().requires_grad_(False),
        model=tiny.model.clone().requires_grad_(True),
        forget=tiny.split.forget,
        settings=method.settings,
        seed=seed,
        probes=probes,
        retain=tiny.split.retain,
    )


def steps_of(method: Method[Any], job: Job[Any]) -> list[dict[str, float]]:
    """Carry a job out; its history."""
    rows: list[dict[str, float]] = []
    carry_out(method, job, on_row=rows.append)
    return rows


def arrays(job: Job[Any], pixels: Tensor) -> tuple[Any, Any, Any]:
    """NumPy's view of softmax regression, float64: normalised flat pixels X, weight W, bias b of the original."""
    flat = ((pixels - job.original.mean) / job.original.std).flatten(1).double().numpy()
    head = job.original.head
    return flat, head.weight.double().numpy(), head.bias.double().numpy()
