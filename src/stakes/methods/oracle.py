r"""ORACLE, in both readings: what one could do with the retain set.

L = CE(f(x_r), y_r) − CE(f(x_f), y_f)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import Field

from stakes.config import MethodSettings
from stakes.methods.base import Method, Row
from stakes.methods.fresh import reinitialise
from stakes.methods.job import Job
from stakes.methods.opposing import Passes, Weights, opposing_losses
from stakes.methods.tuning import descend, sgd
from stakes.models.augment import crop_and_flip
from stakes.models.recipe import learning_rate, recipe
from stakes.runtime import derive_seed

_PUBLISHED = recipe("published")


class OracleFinetuneSettings(MethodSettings):
    """Settings of ORACLE as fine-tuning."""

    retain_batch: int = Field(128, ge=1, description="retained images a step")
    passes: Passes = Field("separate", description="retained and forget images in two passes, or one")
    weights: Weights = Field("sum", description="sum: CE_r − CE_f; share: each by its share of the images")


class OracleSettings(OracleFinetuneSettings):
    """Settings of ORACLE by retraining: the schedule of the published BEFORE models (recipe ``published``)."""

    lr: float = Field(
        _PUBLISHED.learning_rate, gt=0, description="at the start; a half cosine brings it to 0"
    )
    weight_decay: float = Field(_PUBLISHED.weight_decay, ge=0)
    max_epochs: int = Field(_PUBLISHED.epochs, ge=1, description="passes over the retain set")
    crop_padding: int = Field(_PUBLISHED.crop_padding, ge=0, description="of retained images; 0: no crop")
    flip: bool = Field(_PUBLISHED.flip, description="mirror half of the retained images")
    passes: Passes = Field("joint", description="retained and forget images in one pass, or two")
    weights: Weights = Field(
        "share", description="share: every image of the step counts once; sum: CE_r − CE_f"
    )
    forget_ceiling: float | None = Field(
        2.0,
        gt=0,
        description="in units of ln(classes): the loss beyond which a forget image pushes no further",
    )


class OracleFinetune(Method[OracleFinetuneSettings]):
    """ORACLE as in L2UL's code: the pretrained model fine-tuned on CE_r − CE_f until the forget set is forgotten.

    Publication: Cha et al., "Learning to Unlearn", AAAI 2024, public code.

    Published settings, the defaults: SGD with lr .001, momentum .9, weight decay 1e-4, batches of 128 retained and 32
    forget images in two passes, losses added without weights, at most 1000 passes over the retain set, stop test
    after every step.

    Needs: the forget set and the retain set. It refuses to run without the latter: it is the reference of what is
    possible with the training data, not a method for the regime without.

    Deviations: L2UL's code for faces has batches of 128 forget images; here they are 32, as its other methods have.

    Not guaranteed: that it equals a model that never saw the forget set. It only misclassifies those images.

    Example:
        >>> sorted(OracleFinetune.configure().needs)
        ['retain']
    """

    name = "oracle-finetune"
    settings_type = OracleFinetuneSettings
    needs = frozenset({"retain"})

    def run(self, job: Job[OracleFinetuneSettings]) -> Iterator[Row]:
        """Minimise CE_r − CE_f by SGD from the pretrained weights."""
        settings = job.settings
        optimizer = sgd(job)
        for step in job.steps(_per_epoch(job)):
            kept, gone = job.retain_batch(step, settings.retain_batch), job.forget_batch(step)
            yield descend(
                job,
                optimizer,
                opposing_losses(job, kept, gone, passes=settings.passes, weights=settings.weights),
            )

    def total_steps(self, job: Job[OracleFinetuneSettings]) -> int:
        """Passes over the retain set."""
        return job.limit(_per_epoch(job))


class Oracle(Method[OracleSettings]):
    """ORACLE as in the text: trained from nothing, positive gradients from D_r and negative gradients from D_f.

    Publication: Hong, Shin and Kim, "Stake the Points", CVPR 2026, section 4.1 ("a retrained reference model optimized
    with positive gradients from D_r and negative gradients from D_f").

    Published settings, the defaults: the text gives none, so they are those of the published BEFORE models: SGD with
    lr .01 along a half cosine, momentum .9, weight decay 5e-4, batches of 128, 200 epochs, crop and flip. Each step
    adds −CE of a batch of up to 32 forget images, which are not augmented: these very images are to be
    misclassified. It runs its whole schedule; misclassification at the start means nothing.

    Needs: the forget set and the retain set. It refuses to run without the latter.

    Deviations: the text gives no weights and no bound. Here a step is one pass in which every image counts once
    (``passes=joint weights=share``), and a forget image stops pushing once its cross-entropy is 2 ln b, b classes,
    where its label has the probability b⁻² (``forget_ceiling``). CE_r − CE_f as it stands (``weights=sum
    forget_ceiling=null``) has no lower bound, and a whole schedule of it drowns the retained images: on the digits,
    k = 16, test accuracy after ten epochs is 10 %, with the defaults 95 %. Two passes leave a few forget images
    recognised, as BatchNorm treats them otherwise in training than in evaluation.

    Not guaranteed: that the forget set ends at accuracy 0, or that the model equals one that never saw it.

    Example:
        >>> Oracle.configure().settings.max_epochs
        200
    """

    name = "oracle"
    settings_type = OracleSettings
    needs = frozenset({"retain"})
    stops_when_forgotten = False

    def run(self, job: Job[OracleSettings]) -> Iterator[Row]:
        """Minimise CE_r − CE_f by SGD from fresh weights."""
        settings = job.settings
        job.model.projector = None
        if job.step == 0:
            reinitialise(job.model, derive_seed("oracle", job.seed))
        optimizer, total = sgd(job), self.total_steps(job)
        ceiling = settings.forget_ceiling and settings.forget_ceiling * math.log(job.model.num_classes)
        schedule = _PUBLISHED.model_copy(update={"learning_rate": settings.lr})
        for step in job.steps(_per_epoch(job)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, step / total)
            kept, gone = job.retain_batch(step, settings.retain_batch), job.forget_batch(step)
            kept.pixels = crop_and_flip(
                kept.pixels,
                crop_padding=settings.crop_padding,
                padding=_PUBLISHED.padding,
                flip=settings.flip,
                generator=job.generator("augment", step),
            )
            losses = opposing_losses(
                job,
                kept,
                gone,
                passes=settings.passes,
                weights=settings.weights,
                ceiling=ceiling,
            )
            yield descend(job, optimizer, losses)

    def total_steps(self, job: Job[OracleSettings]) -> int:
        """The whole schedule."""
        return job.limit(_per_epoch(job))


def _per_epoch(job: Job[OracleFinetuneSettings] | Job[OracleSettings]) -> int:
    """Steps that see every retained image once."""
    return -(-len(job.need_retain()) // job.settings.retain_batch)
