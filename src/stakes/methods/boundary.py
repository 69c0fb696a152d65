r"""Boundary Unlearning: give the region around a forget image to its neighbours, or to a class that is cut off.

Shrink:  y' = argmax_{j≠y} f_j(x + ε sign ∇_x CE(f(x), y)),  then minimise CE(f(x), y') over D_f.
Expand:  an extra, shadow class b+1; minimise CE([f(x), s(x)], b+1) over D_f; deploy f without s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.config import MethodSettings
from stakes.errors import DataError
from stakes.memory import Fitting
from stakes.methods.base import Method, Row
from stakes.methods.crossing import ascend_linf, runner_up
from stakes.methods.job import Job
from stakes.methods.tuning import descend, sgd, train_features, train_logits, trainable

# The optimiser and limit of the methods for single images, for preset "instances".
_INSTANCES: dict[str, Any] = {"lr": 0.001, "weight_decay": 1e-4, "forget_batch": 32, "max_epochs": 1000}


class BoundarySettings(MethodSettings):
    """Settings of both kinds: those of the public code, made for a class of 5000 images."""

    lr: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    forget_batch: int = Field(64, ge=1)
    max_epochs: int = Field(10, ge=1)


class ShrinkSettings(BoundarySettings):
    """Settings of Boundary Shrink."""

    attack: Literal["fgsm", "pgd"] = Field("fgsm", description="finds the nearest wrong class")
    bound: float = Field(0.1, gt=0, description="ε: L∞ radius of the attack in pixel units")
    step_size: float = Field(8 / 255, gt=0, description="of PGD, in pixel units")
    iterations: int = Field(5, ge=1, description="of PGD")
    uncrossed: Literal["runner-up", "keep"] = Field(
        "runner-up",
        description="the class of an image that the attack leaves recognised: its likeliest other class, or its own",
    )


class BoundaryShrink(Method[ShrinkSettings]):
    """Fine-tune each forget image to its nearest wrong class.

    Publication: Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting
    the Decision Boundary", CVPR 2023, section "Boundary Shrink".

    Needs: the forget set alone.

    Settings: the public code's (FGSM with ε = 0.1; SGD 1e-5, momentum .9, batches of 64, 10 epochs), chosen for a class
    of 5000 images. Preset ``instances`` takes the optimiser and limit that the methods for single images share.

    Deviations: published for whole classes, applied here to the images named. It ends as soon as all forget images are
    misclassified. Where the attack does not cross the boundary the text's "nearest but incorrect" class is the
    likeliest other one at the attacked image; the public code then keeps the right label, and so trains to remember
    (``uncrossed=keep``). The code's rounding of attacked images to 8 bits is left out. The nearest classes
    are found once, on the original model.

    Not guaranteed: that ten epochs at so small a rate forget a few images; the outcome says so.

    Example:
        >>> BoundaryShrink.configure("instances").settings.lr
        0.001
    """

    name = "boundary-shrink"
    settings_type = ShrinkSettings
    presets: ClassVar[dict[str, dict[str, Any]]] = {"instances": _INSTANCES}

    def run(self, job: Job[ShrinkSettings]) -> Iterator[Row]:
        """Minimise the cross entropy to the nearest wrong classes by SGD."""
        nearest = job.remember("nearest", lambda: {"labels": self.nearest(job)})["labels"]
        optimizer = sgd(job)
        for step in job.steps(job.forget_batches.per_epoch):
            batch = job.forget_batch(step)
            targets = nearest.cpu()[batch.indices].to(job.device)
            loss = F.cross_entropy(train_logits(job, batch.pixels), targets)
            yield descend(job, optimizer, {"loss_forget": loss})

    @staticmethod
    def nearest(job: Job[ShrinkSettings]) -> Tensor:
        """The nearest wrong class (N,) of each forget image on the original model."""
        if job.original.num_classes < 2:
            raise DataError("boundary-shrink", expected="a classifier with two classes or more", got="one")
        settings = job.settings
        fgsm = settings.attack == "fgsm"
        steps = 1 if fgsm else settings.iterations

        def crossed(part: Tensor) -> Tensor:
            pixels, labels = job.forget.batch(part).to(job.device), job.forget.labels[part].to(job.device)
            moved = ascend_linf(
                job.original,
                pixels,
                labels,
                bound=settings.bound,
                step_size=settings.bound if fgsm else settings.step_size,
                iterations=steps,
            )
            with torch.no_grad():
                logits = job.original(moved)
            return (logits.argmax(1) if settings.uncrossed == "keep" else runner_up(logits, labels)).cpu()

        fit = Fitting("forget_batch")
        batches = torch.arange(len(job.forget)).split(settings.forget_batch)
        found = [label for batch in batches for label in fit(batch, crossed)]
        job.meter.count(forward=len(job.forget) * (steps + 1), backward=len(job.forget) * steps)
        return torch.cat(found)


class BoundaryExpand(Method[BoundarySettings]):
    """Fine-tune the forget set to an extra shadow class, and deploy without it.

    Publication: Chen et al., CVPR 2023 (see `BoundaryShrink`), section "Boundary Expanding".

    Needs: the forget set alone.

    Settings: the public code's (SGD 1e-5, momentum .9, batches of 64, 10 epochs). Preset ``instances`` takes the
    optimiser and limit that the methods for single images share. The row of the shadow class starts uniform in ±1/√d,
    like a fresh linear layer.

    The shadow output is kept beside the head instead of inside it, which is the same function; so the deployed
    classifier always has its b outputs, and the stop test measures the pruned one.

    Deviations: published for whole classes, applied here to the images named. It ends as soon as all forget images are
    misclassified by the pruned classifier.

    Not guaranteed: that an image whose shadow output wins is misclassified once that output is cut off; training only
    lowers all b logits against the shadow's. The outcome says what was reached.

    Example:
        >>> BoundaryExpand.configure().settings.max_epochs
        10
    """

    name = "boundary-expand"
    settings_type = BoundarySettings
    presets: ClassVar[dict[str, dict[str, Any]]] = {"instances": _INSTANCES}

    def run(self, job: Job[BoundarySettings]) -> Iterator[Row]:
        """Minimise the cross entropy to the shadow class by SGD."""
        shadow = job.track("shadow", self._shadow(job))
        optimizer = sgd(job, [*trainable(job), *shadow.parameters()])
        for step in job.steps(job.forget_batches.per_epoch):
            batch = job.forget_batch(step)
            with job.autocast():
                logits = widened_logits(job.model, shadow, train_features(job, batch.pixels)).float()
            targets = torch.full_like(batch.labels, job.model.num_classes)
            yield descend(job, optimizer, {"loss_forget": F.cross_entropy(logits, targets)})

    @staticmethod
    def _shadow(job: Job[BoundarySettings]) -> nn.Linear:
        width, source = job.model.head.in_features, job.generator("shadow")
        shadow = nn.Linear(width, 1, bias=job.model.head.bias is not None)
        with torch.no_grad():
            for parameter in shadow.parameters():
                parameter.uniform_(-(width**-0.5), width**-0.5, generator=source)
        return shadow.to(job.device)


def widened_logits(model: Any, shadow: nn.Linear, features: Tensor) -> Tensor:
    """Logits (n, b + 1) of a classifier and its shadow class, last, from its features (n, d)."""
    if model.projector is not None:
        features = model.projector(features)
    return torch.cat([model.head(features), shadow(features)], dim=1)
