r"""UNSIR: impair a class with noise that the model finds least like it, then repair with retained images.

N_c = argmin_N  E[ −CE(f_o(N), c) + λ ‖N‖² ]            error-maximising noise of class c, on the original model
impair: one pass over noise labelled c and retained images;   repair: one pass over retained images
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from stakes.config import MethodSettings
from stakes.data.images import ImageSet
from stakes.errors import DataError
from stakes.methods.base import Method, Row
from stakes.methods.job import Batches, Job
from stakes.methods.mixture import Mixture, Pixels
from stakes.methods.tuning import descend, train_logits, trainable
from stakes.models.classifier import Classifier


class UnsirSettings(MethodSettings):
    """Settings of UNSIR; the defaults are the published ones for CIFAR-10."""

    lr: float = Field(0.02, gt=0, description="of Adam in the impair step")
    repair_lr: float = Field(0.01, gt=0, description="of Adam in the repair step")
    weight_decay: float = Field(0.0, ge=0)
    forget_batch: int = Field(256, ge=1, description="images a step, noise and retained together")
    max_epochs: int = Field(1, ge=1, description="rounds of one impair and one repair pass")
    retain_per_class: int = Field(1000, ge=1, description="most retained images used of each class")
    retain_classes: Literal["all", "others"] = Field(
        "all", description="all; or only classes without a forget image, as for a whole class"
    )
    noise_images: int = Field(256, ge=1, description="noise images of each class in the forget set")
    noise_repeats: int = Field(20, ge=1, description="times each takes part in the impair pass")
    noise_steps: int = Field(40, ge=0, description="of Adam on the noise")
    noise_lr: float = Field(0.1, gt=0, description="of Adam on the noise")
    noise_weight: float = Field(0.1, ge=0, description="λ of ‖N‖²")


def noise_loss(logits: Tensor, noise: Tensor, labels: Tensor, weight: float) -> Tensor:
    """−CE(f(N), c) + λ · mean over images of ‖N‖².

    Args:
        logits: of the noise, (n, b).
        noise: normalised units, (n, C, H, W).
        labels: (n,) classes to be wrong about.
        weight: λ.
    """
    return -F.cross_entropy(logits, labels) + weight * noise.square().flatten(1).sum(1).mean()


class Unsir(Method[UnsirSettings]):
    """Error-maximising noise, impair, repair.

    Publication: Tarun, Chundawat, Mandal and Kankanhalli, "Fast Yet Effective Machine Unlearning", IEEE TNNLS 2023.

    Needs: the classes of the forget set, and the retain set. No forget image is looked at.

    Settings: noise from N(0, 1) in normalised units, 40 steps of Adam .1, λ = .1, 256 noise images a class, each taking
    part 20 times; impair Adam .02, repair Adam .01, one pass each, batches of 256, up to 1000 retained images a class;
    all from the public code for CIFAR-10.

    How it is read for instances: published for whole classes, it gets one noise set for each class that occurs in the
    forget set, and keeps retained images of *all* classes, since the rest of an image's class is to stay
    (``retain_classes=others`` gives the published choice for a whole class).

    Deviations: noise carries its own class, as in the text; the public code labels all of it 0. ‖N‖² is the squared L2
    norm, as in the code. The original model is in evaluation mode while noise is made.

    Fixed length, as published: no stop test, since a model taken between impair and repair is of no use.

    Not guaranteed: that single images are forgotten. Nothing in the method tells a forget image from the others of
    its class.

    Example:
        >>> Unsir.configure().settings.noise_repeats
        20
    """

    name = "unsir"
    settings_type = UnsirSettings
    needs = frozenset({"retain"})
    stops_when_forgotten = False

    def run(self, job: Job[UnsirSettings]) -> Iterator[Row]:
        """One impair and one repair pass by Adam, ``max_epochs`` times."""
        settings = job.settings
        kept = self._kept(job)
        made = job.remember("noise", lambda: self.noise(job))
        noise = Pixels(made["pixels"].cpu(), made["labels"].cpu())
        impaired = Mixture(*[noise] * settings.noise_repeats, kept)
        impair, repair = self._passes(job, kept)
        parameters, decay = trainable(job), settings.weight_decay
        down = job.track("impair", torch.optim.Adam(parameters, lr=settings.lr, weight_decay=decay))
        up = job.track("repair", torch.optim.Adam(parameters, lr=settings.repair_lr, weight_decay=decay))
        for step in job.steps(impair.per_epoch + repair.per_epoch):
            turn, place = divmod(step, impair.per_epoch + repair.per_epoch)
            if place < impair.per_epoch:
                pixels, labels, _ = impaired.batch(impair.at(turn * impair.per_epoch + place))
                name, optimizer = "loss_impair", down
            else:
                chosen = repair.at(turn * repair.per_epoch + place - impair.per_epoch)
                pixels, labels = kept.batch(chosen), kept.labels[chosen]
                name, optimizer = "loss_repair", up
            logits = train_logits(job, pixels.to(job.device))
            yield descend(job, optimizer, {name: F.cross_entropy(logits, labels.to(job.device))})

    def total_steps(self, job: Job[UnsirSettings]) -> int:
        """The steps of this job."""
        impair, repair = self._passes(job, self._kept(job))
        return job.limit(impair.per_epoch + repair.per_epoch)

    @staticmethod
    def _passes(job: Job[UnsirSettings], kept: ImageSet) -> tuple[Batches, Batches]:
        settings = job.settings
        classes = len(job.forget.labels.unique())
        noisy = classes * settings.noise_images * settings.noise_repeats + len(kept)
        size = settings.forget_batch
        return (
            Batches(noisy, min(size, noisy), job.seed, "impair"),
            Batches(len(kept), min(size, len(kept)), job.seed, "repair"),
        )

    @staticmethod
    def _kept(job: Job[UnsirSettings]) -> ImageSet:
        """Up to ``retain_per_class`` seeded retained images of each class that is kept."""
        retain = job.need_retain()
        order = torch.randperm(len(retain), generator=job.generator("subset"))
        classes = set(retain.labels.tolist())
        if job.settings.retain_classes == "others":
            classes -= set(job.forget.labels.tolist())
        if not classes:
            raise DataError(
                "retain_classes=others",
                expected="a class with retained images and no forget image",
                got="none",
                fix="Use retain_classes=all, the reading for single images.",
            )
        labels = retain.labels[order]
        rows = [order[labels == name][: job.settings.retain_per_class] for name in sorted(classes)]
        return retain.subset(torch.cat(rows))

    @staticmethod
    def noise(job: Job[UnsirSettings]) -> dict[str, Tensor]:
        """Error-maximising noise: ``pixels`` (n, C, H, W), not bound to [0, 1], and ``labels`` (n,)."""
        settings, pixels, labels = job.settings, [], []
        for name in job.forget.labels.unique().tolist():
            start = torch.randn(
                (settings.noise_images, *job.forget.size), generator=job.generator("noise", name)
            )
            job.meter.count(
                forward=settings.noise_images * settings.noise_steps,
                backward=settings.noise_images * settings.noise_steps,
            )
            made = maximise_error(
                job.original,
                start.to(job.device),
                name,
                steps=settings.noise_steps,
                lr=settings.noise_lr,
                weight=settings.noise_weight,
            )
            pixels.append(made.cpu())
            labels.append(torch.full((len(made),), name))
        return {"pixels": torch.cat(pixels), "labels": torch.cat(labels)}


def maximise_error(
    model: Classifier, start: Tensor, label: int, *, steps: int, lr: float, weight: float
) -> Tensor:
    """Minimise `noise_loss` over noise in normalised units by Adam; the result in pixel units.

    Args:
        start: (n, C, H, W), normalised.
        label: the class to be wrong about.
    """
    noise = start.clone().requires_grad_(True)
    labels = torch.full((len(start),), label, device=start.device)
    optimizer = torch.optim.Adam([noise], lr=lr)
    for _ in range(steps):
        loss = noise_loss(model(noise * model.std + model.mean).float(), noise, labels, weight)
        (noise.grad,) = torch.autograd.grad(loss, noise)
        optimizer.step()
    return (noise * model.std + model.mean).detach()
