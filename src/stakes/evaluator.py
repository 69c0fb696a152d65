"""Measuring a classifier on a split: test, retain and forget accuracy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.files import (
    LEFTOVER_SECONDS,
    private_folder,
    read_tensors,
    sweep,
    write_tensors,
)
from stakes.meter import Meter
from stakes.metrics.accuracy import accuracy, predict
from stakes.models.classifier import Classifier
from stakes.processes import current, spread
from stakes.progress import Progress, silent
from stakes.records import Figures
from stakes.runtime import positions

_UNKNOWN = -1


@dataclass
class Evaluator:
    """Measures classifiers in float32 and evaluation mode.

    Args:
        batch: images a pass.
        retain_sample: measure retain accuracy on that many seeded images instead of all.
        cache: folder in which predictions of unchanging models are kept by content; None keeps none.
    """

    batch: int = 256
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    retain_sample: int | None = None
    cache: Path | None = None
    meter: Meter = field(default_factory=Meter)
    progress: Progress = silent

    def figures(
        self, classifier: Classifier, split: ForgetSplit, phase: str, *, cached: bool = False
    ) -> Figures:
        """Accuracies on the three sets; what is absent is None.

        Args:
            phase: name under which passes and progress are counted.
            cached: whether predictions may come from, and go to, the cache.
        """
        classifier = classifier.to(self.device)
        retain = split.retain and sampled(split.retain, self.retain_sample, self.seed)
        sets = {"test": split.test, "retain": retain, "forget": split.forget}
        present = {name: images for name, images in sets.items() if images is not None and len(images)}
        total = sum(len(images) for images in present.values())
        measured, done = {}, 0
        with self.meter.phase(phase), spread():
            self.progress(phase, 0, total)
            for name, images in present.items():
                predicted = self._predict(classifier, images, phase, done, total, cached=cached)
                measured[f"{name}_accuracy"] = accuracy(predicted, images.labels)
                done += len(images)
        counts = {f"{name}_images": len(images) for name, images in present.items()}
        return Figures(**measured, **counts)

    def agreement(self, one: Classifier, other: Classifier, images: ImageSet, phase: str) -> float:
        """On how many images two classifiers answer alike, percent; labels are not looked at.

        Args:
            phase: name under which passes and progress are counted.
        """
        answers: list[Tensor] = []
        with self.meter.phase(phase), spread():
            for done, classifier in enumerate((one, other)):
                total = 2 * len(images)
                answers.append(
                    self._predict(
                        classifier.to(self.device), images, phase, done * len(images), total, cached=False
                    )
                )
        return accuracy(answers[1], answers[0])

    def _predict(
        self, classifier: Classifier, images: ImageSet, phase: str, done: int, total: int, *, cached: bool
    ) -> Tensor:
        def report(count: int) -> None:
            self.progress(phase, done + count, total)

        if self.cache is None or not cached:
            self.meter.count(forward=len(images))
            return predict(classifier, images, batch=self.batch, device=self.device, on_batch=report)
        # The hashes of a large set take long, and one process can tell the others what is missing.
        processes, cache = current(), self.cache
        answers = processes.from_main(lambda: _Predictions.open(cache, classifier).of(images))
        missing = (answers == _UNKNOWN).nonzero().flatten()
        if len(missing):
            self.meter.count(forward=len(missing))
            part = images.subset(missing)
            found = predict(classifier, part, batch=self.batch, device=self.device, on_batch=report)
            answers[missing] = found
            processes.only_main(lambda: _Predictions.open(cache, classifier).add(part, found))
        report(len(images))
        return answers


def sampled(retain: ImageSet, most: int | None, seed: int) -> ImageSet:
    """The retained images that are measured: at most so many, drawn by seed; all where ``most`` is None.

    A sample of a sample of the same size is the same.
    """
    return retain if most is None else retain.subset(positions(len(retain), most, "retain sample", seed))


@dataclass
class _Predictions:
    """Predicted classes of one model by image hash: BEFORE figures are shared by every run that starts from it."""

    path: Path
    classes: dict[str, int]

    @classmethod
    def open(cls, cache: Path, classifier: Classifier) -> _Predictions:
        path = cache / "predictions" / f"{classifier.identity()[:32]}.safetensors"
        tensors = read_tensors(path)
        if tensors is None or set(tensors) != {"hashes", "classes"}:
            return cls(path, {})
        names = [bytes(row).hex() for row in tensors["hashes"].numpy()]
        return cls(path, dict(zip(names, tensors["classes"].tolist(), strict=True)))

    def of(self, images: ImageSet) -> Tensor:
        """The class of each image, `_UNKNOWN` where there is no answer yet."""
        return torch.tensor([self.classes.get(name, _UNKNOWN) for name in images.hashes()])

    def add(self, images: ImageSet, classes: Tensor) -> None:
        """Keep more answers."""
        self.classes |= dict(zip(images.hashes(), classes.tolist(), strict=True))
        self.save()

    def save(self) -> None:
        names = sorted(self.classes)
        raw = torch.frombuffer(bytearray(bytes.fromhex("".join(names))), dtype=torch.uint8).view(
            len(names), -1
        )
        classes = torch.tensor([self.classes[name] for name in names])
        private_folder(self.path.parent)  # the hashes tell who has been looked at
        sweep(self.path.parent, older=LEFTOVER_SECONDS)
        write_tensors(self.path, {"hashes": raw.clone(), "classes": classes})
