"""Unlabelled images in a run: which of them are used, what the model says of them, and what its record tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stakes.config import RunSettings
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.data.unlabelled import kept_apart, usable
from stakes.inputs import refuse_unlabelled
from stakes.methods import Method
from stakes.metrics.shift import statistics_shift
from stakes.models.classifier import Classifier
from stakes.records import UNLIKE, Unlabelled

_DIGITS = 4  # of the shift: sums of many processes differ in the last ones


@dataclass
class HeldTo:
    """The unlabelled images that a model is held to its answers on.

    Attributes:
        images: those to train on.
        apart: those kept apart to measure agreement on; None where there is a test set.
        twins: how many were left out as copies of an image to forget.
        shift: of ``images`` from what the model was trained on (`stakes.metrics.shift`), once it was asked.
    """

    images: ImageSet
    apart: ImageSet | None
    twins: int
    shift: float | None = None

    @classmethod
    def of(cls, split: ForgetSplit, method: Method[Any], run: RunSettings) -> HeldTo | None:
        """Those of a split, drawn by seed, without those that are images to forget; None where it has none.

        Raises:
            ConfigError: the method trains on no probes, so it has no use for them.
            DataError: none are left.
        """
        if split.unlabelled is None:
            return None
        refuse_unlabelled(method)
        images = usable(split.unlabelled, split.forget, most=run.unlabelled_most, seed=run.seed)
        twins = min(len(split.unlabelled), run.unlabelled_most) - len(images)
        if split.test is not None:
            return cls(images, None, twins)
        return cls(*kept_apart(images, run.seed), twins)

    def fingerprint(self) -> str:
        """SHA-256 of the images to train on."""
        return self.images.fingerprint()

    def ask(
        self, classifier: Classifier, *, batch: int, device: torch.device, on_batch: Callable[[int], None]
    ) -> Tensor:
        """(N,) classes that the classifier, which is in evaluation mode, gives ``images``.

        Args:
            on_batch: told after each pass how many have been answered.
        """
        answers, shift = statistics_shift(
            classifier, self.images, batch=batch, device=device, on_batch=on_batch
        )
        self.shift = None if shift is None else round(shift, _DIGITS)
        return answers

    @property
    def unlike(self) -> str:
        """Where they are too far from what the model was trained on to be of use: that, as a sentence; else nothing."""
        if self.shift is None or self.shift < UNLIKE:
            return ""
        return (
            "The unlabelled images are unlike those that the model was trained on: by its statistics they lie "
            f"{self.shift:.2f} standard deviations from them. Models held to their answers on such images kept little "
            "more than without them, or less. See that they show what the model is for and are prepared as its "
            "training images were (colours, brightness, sharpness), or leave them out. A short training, or one that "
            "changes its images much, gives such a distance to any images."
        )

    def told(self, agreement: float | None) -> Unlabelled:
        """What goes into the record."""
        return Unlabelled(
            images=len(self.images),
            twins=self.twins,
            hash=self.fingerprint(),
            apart=len(self.apart or ()),
            agreement=agreement,
            shift=self.shift,
        )
