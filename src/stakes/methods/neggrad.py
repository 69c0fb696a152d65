"""NEGGRAD: gradient ascent on the forget set and nothing else: L = −CE(f(x_f), y_f)."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn import functional as F

from stakes.config import MethodSettings
from stakes.methods.base import Method, Row
from stakes.methods.job import Job
from stakes.methods.tuning import descend, sgd, train_logits


class NegGrad(Method[MethodSettings]):
    """NEGGRAD: climb the cross-entropy of the forget set until every image of it is misclassified.

    Publication: Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020, as the baseline
    of Cha et al., "Learning to Unlearn", AAAI 2024 (L2UL).

    Published settings, the defaults: SGD with lr .001, momentum .9 and weight decay 1e-4, batches of 32 forget
    images, at most 1000 passes over them, BatchNorm in training mode.

    Needs: the forget set alone. No probe, no retained image.

    Deviations: the stop test comes after every step (L2UL's code tests after every pass over the forget set, which
    is the same for up to 32 images). A batch of one image uses BatchNorm's running statistics.

    Not guaranteed: anything about the other images. The loss has no lower bound, and nothing protects them.

    Example:
        >>> NegGrad.configure().settings.forget_batch
        32
    """

    name = "neggrad"
    settings_type = MethodSettings

    def run(self, job: Job[MethodSettings]) -> Iterator[Row]:
        """Minimise −CE by SGD."""
        optimizer = sgd(job)
        for step in job.steps(job.forget_batches.per_epoch):
            batch = job.forget_batch(step)
            loss = -F.cross_entropy(train_logits(job, batch.pixels), batch.labels)
            yield descend(job, optimizer, {"loss_del": loss})
