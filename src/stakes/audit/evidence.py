"""What an attack is handed, and what it may give back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from stakes.audit.outputs import logits_of
from stakes.audit.references import Reference
from stakes.audit.settings import AuditSettings
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.meter import Meter, PhaseCost
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.report.section import Section
from stakes.runtime import derive_seed, positions


@dataclass(frozen=True)
class Skipped:
    """An attack that was not possible with what is at hand, and why."""

    reason: str


Finding = Section | Skipped


@dataclass
class Evidence:
    """The two models, the images, what there is to compare with, and the limits.

    Attributes:
        folder: where figures go.
        references: models for RMIA; retrained: models trained without the forget set.
        meter: counts image passes; an attack tells it with `count` what it sent through a network.
    """

    before: Classifier
    after: Classifier
    split: ForgetSplit
    folder: Path
    settings: AuditSettings = field(default_factory=AuditSettings)
    references: Sequence[Reference] = ()
    retrained: Sequence[Reference] = ()
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    meter: Meter = field(default_factory=Meter)

    def models(self) -> dict[str, Classifier]:
        """The model before, the one after, and a retrained one where there is one, by these names."""
        found = {"before": self.before, "after": self.after}
        if self.retrained:
            found["retrained"] = self.retrained[0].classifier
        return found

    def on_trust(self) -> str:
        """A sentence for limits, where nobody wrote down what a retrained model saw; else empty."""
        unknown = sum(one.seen is None for one in self.retrained)
        if not unknown:
            return ""
        return (
            f" {unknown} of {len(self.retrained)} retrained models came without reference.json: that they never saw "
            "the images is taken on trust."
        )

    def sample(self, images: ImageSet, most: int, *use: object) -> ImageSet:
        """At most that many images, drawn by the seed and what they are for, in the order of the set."""
        return images.subset(self.drawn(len(images), most, *use))

    def drawn(self, count: int, most: int, *use: object) -> Tensor:
        """Positions, sorted."""
        return positions(count, most, "audit", self.seed, *use)

    def seed_of(self, *use: object) -> int:
        """A seed for one use."""
        return derive_seed("audit", self.seed, *use)

    def logits(self, classifier: nn.Module, images: ImageSet) -> Tensor:
        """`logits_of`, counted."""
        self.meter.count(forward=len(images))
        return logits_of(classifier, images, batch=self.settings.batch, device=self.device)

    def cost(self, phase: str) -> dict[str, int]:
        """Image passes of a phase, for the settings of its section."""
        spent = self.meter.phases.get(phase, PhaseCost())
        return {"images forward": spent.forward, "images backward": spent.backward}
