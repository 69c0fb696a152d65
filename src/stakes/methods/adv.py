r"""ADV: deletion balanced by adversarial probes; what L2UL is without weight importance.

    L = −n_f/(n_f + n_s) CE(f(x_f), y_f) + n_s/(n_f + n_s) CE(f(x_s), y_s)

n_f forget images and n_s probes with their target labels in the step.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from stakes.config import MethodSettings
from stakes.methods.base import Method, Row
from stakes.methods.job import Job
from stakes.methods.opposing import Passes, opposing_losses
from stakes.methods.tuning import descend, sgd


class AdvSettings(MethodSettings):
    """Settings of ADV: those of every method, with L2UL's defaults, and how the two batches are sent."""

    passes: Passes = Field(
        "separate",
        description="probes and forget images in two passes, or one; BatchNorm sees the difference",
    )


class Adv(Method[AdvSettings]):
    """ADV: climb the loss of the forget set while adversarial probes hold the decision boundary.

    Publication: Cha et al., "Learning to Unlearn: Instance-wise Unlearning for Pre-trained Classifiers", AAAI 2024
    (L2UL), the variant without weight importance.

    Published settings, the defaults: 20 probes an image by targeted L2-PGD (radius 4, step .1, 100 iterations), SGD
    with lr .001, momentum .9 and weight decay 1e-4, batches of 256 probes and 32 forget images, at most 1000 passes
    over the probes, BatchNorm in training mode, stop test after every step. (CIFAR-100 and ImageNet: 200 probes.)
    As in L2UL's code, probes and forget images go through the network in two passes, so each batch has BatchNorm
    statistics of its own; the text does not say, and ``passes=joint`` is the other reading.

    Needs: the forget set, and probes made from the original model. No retained image.

    Deviations: target classes are drawn uniformly among the other classes, as the text says (L2UL's code repeats
    one class where a draw hits the label). A pass of one image uses BatchNorm's running statistics. Batches are
    shuffled anew each epoch, L2UL's are not.

    Not guaranteed: that probes stand for retained images; that the forget set ends at accuracy 0 (the outcome says).

    Example:
        >>> Adv.configure().settings.probes.epsilon
        4.0
    """

    name = "adv"
    settings_type = AdvSettings
    needs = frozenset({"probes"})

    def run(self, job: Job[AdvSettings]) -> Iterator[Row]:
        """Minimise L by SGD."""
        optimizer = sgd(job)
        for step in job.steps(job.probe_batches.per_epoch):
            kept, gone = job.probe_batch(step), job.forget_batch(step)
            yield descend(job, optimizer, opposing_losses(job, kept, gone, passes=job.settings.passes))
