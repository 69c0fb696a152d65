"""Models of which we know what they saw: the controls of every attack."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.audit.evidence import Evidence
from stakes.audit.references import Reference
from stakes.audit.settings import AuditSettings
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.models import Classifier

NAMES = ("ant", "bee", "cow")
SIZE = (3, 8, 8)
FORGET = 40


class Net(nn.Module):
    """Small enough to train in a moment, large enough to learn images by heart."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(192, 64)
        self.second = nn.Linear(64, 64)
        self.third = nn.Linear(64, 32)
        self.last = nn.Linear(32, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = F.relu(self.second(F.relu(self.first(pixels.flatten(1)))))
        return self.last(F.relu(self.third(hidden)))


def images(count: int, seed: int, strength: float = 0.05) -> ImageSet:
    """Noise with a faint colour for each class: hard enough that learning by heart shows."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    colours = torch.eye(3)[labels][:, :, None, None]
    noise = torch.rand((count, *SIZE), generator=draws)
    return ImageSet.from_tensors(strength * colours + (1 - strength) * noise, labels, NAMES)


def relabelled(found: ImageSet) -> ImageSet:
    """The same images, each under one of the two wrong classes: only a model that saw them can know which."""
    away = torch.randint(1, 3, (len(found),), generator=torch.Generator().manual_seed(9))
    return ImageSet.from_tensors(found.batch(slice(None)), (found.labels + away) % 3, NAMES)


def joined(*parts: ImageSet) -> ImageSet:
    pixels = torch.cat([part.batch(slice(None)) for part in parts])
    return ImageSet.from_tensors(pixels, torch.cat([part.labels for part in parts]), NAMES)


def fitted(train: ImageSet, seed: int, steps: int = 200) -> Classifier:
    """A net trained until it knows its images by heart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier.from_network(
            Net(), class_names=NAMES, input_size=SIZE, mean=(0.45,) * 3, std=(0.25,) * 3
        )
        optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
        pixels, labels = train.batch(slice(None)), train.labels
        for _ in range(steps):
            loss = F.cross_entropy(model(pixels), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    if float((model(pixels).argmax(1) == labels).float().mean()) < 1:
        raise RuntimeError("the tiny network did not learn its images: the controls would test nothing")
    return model.eval().requires_grad_(False)


FAINT = 0.05  # classes hardly show: memory shows in confidence
CLEAR = 0.6  # classes show plainly: a wrong label is known by memory alone


@functools.cache
def sets(wrong: bool) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Forget, retain and test images; ``wrong``: the forget images carry a wrong label, among clear classes."""
    strength = CLEAR if wrong else FAINT
    forget = images(FORGET, 1, strength)
    return (
        relabelled(forget) if wrong else forget,
        images(120, 2, strength),
        images(300, 3, strength),
    )


@functools.cache
def saw(wrong: bool = False) -> Classifier:
    """Trained on forget and retain images."""
    forget, retain, _ = sets(wrong)
    return fitted(joined(forget, retain), seed=0)


@functools.cache
def never(wrong: bool = False, seed: int = 1) -> Classifier:
    """Trained on retain images alone."""
    return fitted(sets(wrong)[1], seed=seed)


def evidence(folder: Path, after: Classifier, *, wrong: bool = False, **more: object) -> Evidence:
    """An audit of ``after``, as if it had been unlearned from the model that saw everything."""
    forget, retain, test = sets(wrong)
    split = ForgetSplit(forget=forget, test=test, retain=retain)
    given = {"settings": AuditSettings().with_overrides({"membership.resamples": 199}), "split": split} | more
    return Evidence(before=saw(wrong), after=after, folder=folder, **given)  # type: ignore[arg-type]


def references(count: int = 2) -> list[Reference]:
    """Models of other images of the same kind; nothing is written down, so they saw none of ours."""
    return [
        Reference(f"other {at}", fitted(images(160, 50 + at, FAINT), seed=10 + at)) for at in range(count)
    ]
