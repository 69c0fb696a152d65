r"""Random relabelling: every forget image is learnt under a class that it does not have.

L = E_{(x,y)∈D_f, y'≠y} CE(f(x), y')  +  α E_{(x,y)∈D_r} CE(f(x), y)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from stakes.config import MethodSettings
from stakes.errors import DataError
from stakes.methods.base import Method, Need, Row
from stakes.methods.job import Job
from stakes.methods.tuning import descend, sgd, train_logits

NewLabels = Literal["other", "any"]


class RelabelSettings(MethodSettings):
    """What relabelling at random leaves open, for the methods that do it."""

    new_labels: NewLabels = Field("other", description="other: y' ≠ y; any: the right class may be drawn too")
    redraw: bool = Field(False, description="draw new labels for every pass over the forget set")
    retain_weight: float = Field(
        0.0, ge=0, description="α of the retained images; above 0 the method needs the retain set"
    )
    retain_batch: int = Field(256, ge=1, description="retained images a step")


def random_labels(
    labels: Tensor, num_classes: int, generator: torch.Generator, kind: NewLabels = "other"
) -> Tensor:
    """Draw a class (n,) for each image, uniform over the classes other than its label, or over all.

    Raises:
        DataError: there is no other class.

    Example:
        >>> random_labels(torch.tensor([0, 1]), 2, torch.Generator().manual_seed(0)).tolist()
        [1, 0]
    """
    if num_classes < 2:
        raise DataError("relabelling", expected="a classifier with two classes or more", got="one")
    if kind == "any":
        return torch.randint(num_classes, labels.shape, generator=generator)
    # A draw below the label stays, one at or above it moves up by one: uniform over the rest.
    drawn = torch.randint(num_classes - 1, labels.shape, generator=generator)
    return drawn + (drawn >= labels).long()


def relabel_needs(settings: RelabelSettings) -> frozenset[Need]:
    """The retain set where it is weighed in."""
    return frozenset({"retain"}) if settings.retain_weight else frozenset()


def relabel_per_epoch(job: Job[Any]) -> int:
    """Steps of an epoch: a pass over the forget set, or over the retain set where that is used and longer."""
    steps = job.forget_batches.per_epoch
    if job.settings.retain_weight:
        steps = max(steps, -(-len(job.need_retain()) // job.settings.retain_batch))
    return steps


def relabel_losses(job: Job[Any], step: int) -> dict[str, Tensor]:
    """The terms of L at a step."""
    settings, batch = job.settings, job.forget_batch(step)
    draw = step // job.forget_batches.per_epoch if settings.redraw else 0
    drawn = random_labels(
        job.forget.labels, job.model.num_classes, job.generator("labels", draw), settings.new_labels
    )
    targets = drawn[batch.indices].to(job.device)
    losses = {"loss_forget": F.cross_entropy(train_logits(job, batch.pixels), targets)}
    if settings.retain_weight:
        kept = job.retain_batch(step, settings.retain_batch)
        loss = F.cross_entropy(train_logits(job, kept.pixels), kept.labels)
        losses["loss_retain"] = settings.retain_weight * loss
    return losses


class RandomLabel(Method[RelabelSettings]):
    """Fine-tune on forget images under random wrong labels.

    Publication: Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020 (the baseline
    "random labels"); Graves, Nagisetty and Ganesh, "Amnesiac Machine Learning", AAAI 2021 (unlearning).

    Needs: the forget set alone; with ``retain_weight`` above 0 (preset ``retain``) the retain set too.

    Settings: neither publication gives settings for single images. The optimiser, batches and limit are those
    shared by the methods here. Labels are drawn once, among the other classes.

    Deviations: it ends as soon as all forget images are misclassified; Graves et al. run a fixed number of passes.
    With retained images the two terms are summed in each step.

    Not guaranteed: that images near the forgotten ones keep their class. Random classes are far away in feature
    space, so a retain-free run tends to disturb more than `BoundaryShrink`.

    Example:
        >>> sorted(RandomLabel.configure("retain").needs)
        ['retain']
    """

    name = "random-label"
    settings_type = RelabelSettings
    presets: ClassVar[dict[str, dict[str, Any]]] = {"retain": {"retain_weight": 1.0}}

    def __init__(self, settings: RelabelSettings) -> None:
        super().__init__(settings)
        self.needs = relabel_needs(settings)

    def run(self, job: Job[RelabelSettings]) -> Iterator[Row]:
        """Minimise L by SGD."""
        optimizer = sgd(job)
        for step in job.steps(relabel_per_epoch(job)):
            yield descend(job, optimizer, relabel_losses(job, step))

    def total_steps(self, job: Job[RelabelSettings]) -> int:
        """The most steps of this job."""
        return job.limit(relabel_per_epoch(job))
