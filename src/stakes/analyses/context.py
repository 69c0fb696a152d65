"""What every analysis is handed: the run, its images in seeded samples, and the networks' answers, computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from stakes.analyses.settings import AnalysisSettings
from stakes.anchors import Anchors, build_anchors
from stakes.anchors.bridge import Bridge
from stakes.data.images import ImageSet
from stakes.errors import AnchorError, MissingExtraError, NetworkError, NumericalError
from stakes.models.classifier import Classifier
from stakes.opened import OpenedRun
from stakes.progress import Progress, silent
from stakes.report.section import folder_of
from stakes.runtime import positions
from stakes.structure import affinity

Side = Literal["before", "after"]
SetName = Literal["forget", "retain", "test"]
SIDES: tuple[Side, Side] = ("before", "after")
# What the sets are called in sentences.
TITLES: dict[SetName, str] = {"forget": "forgotten", "retain": "retained", "test": "test"}


class SkipAnalysis(Exception):
    """An analysis has nothing to work on here; the message says why and what would help."""


@dataclass(frozen=True)
class Outputs:
    """What a classifier makes of n images, on the CPU.

    Attributes:
        features: (n, d) what the head reads: g(x), behind the projector where the classifier deploys through one.
        logits: (n, b).
    """

    features: Tensor
    logits: Tensor


@torch.no_grad()
def outputs_of(
    classifier: Classifier,
    images: ImageSet,
    *,
    batch: int = 256,
    device: torch.device | None = None,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Outputs:
    """Deployed features and logits of all images, float32, in evaluation mode.

    Raises:
        NumericalError: a feature or logit is NaN or infinite.
    """
    device = device or classifier.mean.device
    features, logits = [], []
    for start in range(0, len(images), batch):
        pixels = images.batch(slice(start, min(start + batch, len(images)))).to(device)
        found = classifier.features(pixels)
        if classifier.projector is not None:
            found = classifier.projector(found)
        features.append(found.float().cpu())
        logits.append(classifier.head(found).float().cpu())
        on_batch(start + len(pixels))
    made = Outputs(torch.cat(features), torch.cat(logits))
    if not bool(made.features.isfinite().all() and made.logits.isfinite().all()):
        raise NumericalError(
            "features of the classifier",
            expected="numbers",
            got="NaN or infinity",
            fix="Its weights diverged.",
        )
    return made


@dataclass
class Context:
    """One run under analysis.

    Attributes:
        run: the opened run.
        anchors_file: anchors to look from, in place of those that the run used.
    """

    run: OpenedRun
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)
    anchors_file: Path | None = None
    progress: Progress = silent
    _images: dict[SetName, ImageSet | None] = field(default_factory=dict)
    _outputs: dict[tuple[Side, SetName], Outputs] = field(default_factory=dict)
    _anchors: Anchors | None = None

    @property
    def folder(self) -> Path:
        """Where figures go."""
        return folder_of(self.run.path)

    def classifier(self, side: Side) -> Classifier:
        """The original or the unlearned classifier."""
        return self.run.before if side == "before" else self.run.after

    def images(self, name: SetName) -> ImageSet | None:
        """A set of the run: all of it, or as many images as the settings allow, in the set's own order."""
        if name not in self._images:
            most = {
                "forget": self.settings.forget_images,
                "retain": self.settings.gallery,
                "test": self.settings.test_images,
            }
            found = getattr(self.run.split, name)
            self._images[name] = None if found is None else self.sample(found, most[name], name)
        return self._images[name]

    def sample(self, images: ImageSet, most: int, *purpose: object) -> ImageSet:
        """At most so many images, drawn by seed and purpose."""
        return images.subset(self.draw(len(images), most, *purpose))

    def draw(self, count: int, most: int, *purpose: object) -> Tensor:
        """Positions of at most ``most`` of ``count`` things, drawn by seed and purpose, in ascending order."""
        return positions(count, most, "analyses", *purpose, self.settings.seed)

    def first_of(self, *names: SetName, why: str) -> tuple[SetName, ImageSet]:
        """The first of these sets that the run has.

        Raises:
            SkipAnalysis: it has none of them.
        """
        for name in names:
            images = self.images(name)
            if images is not None and len(images):
                return name, images
        wanted = " or ".join(TITLES[name] for name in names)
        hint = " ".join(self.run.notes) or "Say where the data are with --data."
        raise SkipAnalysis(f"{why}, and the run has no {wanted} images. {hint}")

    def outputs(self, side: Side, name: SetName) -> Outputs:
        """Features and logits of a set's images; computed at first use.

        Raises:
            SkipAnalysis: the run has no such set.
        """
        if (side, name) not in self._outputs:
            _, images = self.first_of(name, why=f"features of {TITLES[name]} images are needed")
            phase = f"{TITLES[name]} images {side}"
            self._outputs[side, name] = outputs_of(
                self.classifier(side),
                images,
                batch=self.settings.batch,
                device=self.run.device,
                on_batch=lambda done: self.progress(phase, done, len(images)),
            )
        return self._outputs[side, name]

    def anchors(self) -> Anchors:
        """Those named, else those of the run, else built from the bundled attributes of its classes.

        Raises:
            SkipAnalysis: none can be had.
            AnchorError: those named do not fit.
        """
        if self._anchors is None:
            names = self.run.before.class_names
            if self.anchors_file is not None:
                self._anchors = Anchors.load(self.anchors_file).for_classes(names)
            elif self.run.anchors is not None:
                self._anchors = self.run.anchors.for_classes(names)
            else:
                try:
                    self._anchors = build_anchors(names)
                except (AnchorError, NetworkError, MissingExtraError) as error:
                    raise SkipAnalysis(
                        "there are no anchors to look from: the run used none, and they cannot be built from the "
                        f"bundled attributes ({error}). Make some with stakes anchors, and name the file with "
                        "--anchors."
                    ) from None
        return self._anchors

    def anchors_title(self) -> str:
        """Which anchors `anchors` gives, in words."""
        if self.anchors_file is not None:
            return "anchors given"
        return "anchors of the run" if self.run.anchors is not None else "anchors from bundled attributes"

    def structure(self, features: Tensor, anchors: Anchors | None = None) -> Tensor:
        """Affinities (n, b) of deployed features to anchors, over the run's own bridge (paper eq. 1)."""
        anchors = anchors if anchors is not None else self.anchors()
        bridge = Bridge.between(features.shape[1], anchors.width, self.run.record.seed)
        return affinity(bridge.features(features), bridge.anchors(anchors.matrix))
