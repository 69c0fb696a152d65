r"""AMUN: learn the closest adversarial example of each forget image under the class that the model sees in it.

D_A = {(x + δ, y_adv)},  δ the shortest found with argmax f(x + δ) = y_adv ≠ y;  minimise CE over D_F ∪ D_A [∪ D_R]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from stakes.config import MethodSettings
from stakes.errors import DataError
from stakes.methods.base import Method, Row
from stakes.methods.crossing import closest_crossing
from stakes.methods.job import Batches, Job
from stakes.methods.mixture import Labelled, Mixture, Pixels
from stakes.methods.tuning import descend, sgd, train_logits


class AmunSettings(MethodSettings):
    """Settings of AMUN; the defaults are those of the public code."""

    lr: float = Field(0.01, gt=0)
    lr_decay: float = Field(0.1, gt=0, le=1, description="factor on lr")
    lr_decay_epochs: int = Field(1, ge=1, description="epochs between two such factors")
    weight_decay: float = Field(5e-4, ge=0)
    forget_batch: int = Field(128, ge=1, description="images a step, of all sets together")
    max_epochs: int = Field(10, ge=1, description="passes over all images of the step below")
    forget_images: bool = Field(True, description="D_F with its right labels beside D_A")
    retain: bool = Field(False, description="D_R too; the method then needs the retain set")
    until_forgotten: bool = Field(False, description="end once every forget image is misclassified")
    radius: float = Field(0.04, gt=0, description="first ε of the attack, L2 in pixel units")
    attack_steps: int = Field(50, ge=1, description="steps of ε/10 before ε is doubled")


class Amun(Method[AmunSettings]):
    """Fine-tune on adversarial examples of the forget set with their wrong labels.

    Publication: Ebrahimpour-Boroojeny, Sundaram and Chandrasekaran, "Not All Wrong is Bad: Using Adversarial Examples
    for Unlearning", ICML 2025.

    Needs: the forget set alone (the variant without D_R: D_F ∪ D_A). Preset ``retain`` adds the retain set, preset
    ``adversarial-only`` leaves D_F out.

    Settings: PGD-50 with doubling ε as published; the rest from the public code: ε from 0.04 with steps of ε/10, SGD
    .01 falling tenfold every epoch, momentum .9, weight decay 5e-4, batches of 128, 10 epochs. The publication searches
    over learning rates and decays; these are made for thousands of images. Preset ``instances`` is for a few: D_A
    alone, at the constant rate and the limit that the methods for single images share, until all are misclassified or
    that limit: examples so near can be learnt while the image itself keeps its class.

    Fixed length, as published: the aim is the confidence of a model that never saw the images, not a wrong answer, so
    the stop test is off unless ``until_forgotten``.

    Deviations: no augmentation of D_F and D_R. An image that no ball up to the whole pixel cube gets across keeps its
    last pixels under the likeliest other class.

    Not guaranteed: accuracy 0 on the forget set (D_F is learnt with its right labels), nor that the adversarial
    example is the closest one.

    Example:
        >>> Amun.configure("adversarial-only").settings.forget_images
        False
    """

    name = "amun"
    settings_type = AmunSettings
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "retain": {"retain": True},
        "adversarial-only": {"forget_images": False},
        "instances": {
            "forget_images": False,
            "until_forgotten": True,
            "lr": 0.001,
            "lr_decay": 1.0,
            "weight_decay": 1e-4,
            "forget_batch": 32,
            "max_epochs": 1000,
        },
    }

    def __init__(self, settings: AmunSettings) -> None:
        super().__init__(settings)
        self.needs = frozenset({"retain"}) if settings.retain else frozenset()
        self.stops_when_forgotten = settings.until_forgotten

    def run(self, job: Job[AmunSettings]) -> Iterator[Row]:
        """Minimise the cross entropy over all sets by SGD with a falling rate."""
        settings = job.settings
        made = job.remember("adversarial", lambda: self.adversarial(job))
        parts: list[Labelled] = [Pixels(made["images"].cpu(), made["labels"].cpu())]
        if settings.forget_images:
            parts.append(job.forget)
        if settings.retain:
            parts.append(job.need_retain())
        mixture, batches = Mixture(*parts), self._batches(job)
        optimizer = sgd(job)
        for step in job.steps(batches.per_epoch):
            drops = step // batches.per_epoch // settings.lr_decay_epochs
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * settings.lr_decay**drops
            pixels, labels, _ = mixture.batch(batches.at(step))
            logits = train_logits(job, pixels.to(job.device))
            yield descend(job, optimizer, {"loss_mixture": F.cross_entropy(logits, labels.to(job.device))})

    def total_steps(self, job: Job[AmunSettings]) -> int:
        """The most steps of this job."""
        return job.limit(self._batches(job).per_epoch)

    @staticmethod
    def _batches(job: Job[AmunSettings]) -> Batches:
        settings = job.settings
        count = len(job.forget) * (2 if settings.forget_images else 1)
        count += len(job.need_retain()) if settings.retain else 0
        return Batches(count, min(settings.forget_batch, count), job.seed, "amun")

    @staticmethod
    def adversarial(job: Job[AmunSettings]) -> dict[str, Tensor]:
        """D_A: ``images`` (N, C, H, W) and ``labels`` (N,), attacked on the original model."""
        if job.original.num_classes < 2:
            raise DataError("amun", expected="a classifier with two classes or more", got="one")

        def logits(pixels: Tensor) -> Tensor:
            job.meter.count(forward=len(pixels), backward=len(pixels))
            return job.original(pixels)  # type: ignore[no-any-return]

        found = [
            closest_crossing(
                logits,
                job.forget.batch(part).to(job.device),
                job.forget.labels[part].to(job.device),
                radius=job.settings.radius,
                steps=job.settings.attack_steps,
            )
            for part in torch.arange(len(job.forget)).split(job.settings.forget_batch)
        ]
        return {
            "images": torch.cat([one.images for one in found]).cpu(),
            "labels": torch.cat([one.labels for one in found]).cpu(),
        }
