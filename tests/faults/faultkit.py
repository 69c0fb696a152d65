"""A problem so small that a test of faults can run it dozens of times: noise images and an untrained network."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stakes.anchors import Anchors
from stakes.api import unlearn
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.files import digest_file
from stakes.models import Classifier, build_network
from stakes.records import Record
from stakes.unlearning import Unlearned

NAMES = ("ant", "bee", "cow")
SETTINGS: dict[str, Any] = {
    **{"probes.per_image": 2, "probes.iterations": 2, "probes.epsilon": 1.0, "probes.step_size": 0.3},
    **{"probe_batch": 4, "forget_batch": 2, "max_steps": 4, "importance_after": 1, "lr": 0.003},
}
FROM_RECORD = ("report.html", "README.md")


def noise(count: int, seed: int) -> ImageSet:
    """So many images of three classes in turn."""
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, 8, 8), generator=draws, dtype=torch.uint8)
    return ImageSet.from_tensors(pixels, torch.arange(count) % 3, NAMES)


@functools.cache
def model() -> Classifier:
    """An untrained network with BatchNorm, given statistics of some images."""
    network = build_network("resnet10", num_classes=3, width=4, seed=0)
    made = Classifier.from_network(network, class_names=NAMES, input_size=(3, 8, 8)).train()
    with torch.no_grad():
        made(noise(30, 0).batch(slice(None)))
    return made.eval().requires_grad_(False)


@functools.cache
def split() -> ForgetSplit:
    """Two images that the network happens to recognise are to be forgotten."""
    train = noise(30, 1)
    known = right(model(), train).nonzero().flatten()[:2]
    kept = torch.ones(30, dtype=torch.bool)
    kept[known] = False
    return ForgetSplit(forget=train.subset(known), test=noise(12, 2), retain=train.subset(kept))


def right(classifier: Classifier, images: ImageSet) -> Tensor:
    """Which images are recognised."""
    return classifier(images.batch(slice(None))).argmax(1) == images.labels


def anchors() -> Anchors:
    """An orthonormal anchor for each class."""
    return Anchors(torch.eye(3, 8), NAMES)


def run(folder: Path, **call: Any) -> Unlearned:
    """Unlearn into ``folder/run`` with the cache ``folder/cache``, saving the state after every step."""
    given: dict[str, Any] = {"anchors": anchors(), "settings": SETTINGS, "device": "cpu"}
    given |= {"out": folder / "run", "cache": folder / "cache", "checkpoint_seconds": 1e-9} | call
    if "method" not in given:
        given["preset"] = "paper"
    return unlearn(given.pop("model", model()), given.pop("forget", split()), **given)


def contents(folder: Path) -> dict[str, str]:
    """What must be the same in every finished run: the bytes of all files, and the digest of the record."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {str(path.relative_to(folder)): _content(path) for path in files}
    # A write that was killed leaves a hidden folder; in a cache that many share it stays for an hour.
    return {name: value for name, value in found.items() if not Path(name).parent.name.startswith(".")}


def _content(path: Path) -> str:
    if path.name == "record.json":
        return Record.load(path).digest()
    return "made from the record, with its times" if path.name in FROM_RECORD else digest_file(path)
