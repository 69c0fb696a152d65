"""L2UL: deletion, adversarial probes, and a pull back to the weights that the forget set hangs on least.

L = −n_f/(n_f + n_s) CE(f(x_f), y_f) + n_s/(n_f + n_s) CE(f(x_s), y_s) + λ · ½ Σ_i I_i (θ_i − θ_i⁰)²

I = 1 − minmax(MAS importance on the forget set), in each tensor
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from pydantic import Field
from torch import Tensor

from stakes.methods.adv import AdvSettings
from stakes.methods.base import Method, Row
from stakes.methods.importance import mas_importance, protection
from stakes.methods.job import Job
from stakes.methods.opposing import opposing_losses
from stakes.methods.tuning import descend, sgd, train_logits
from stakes.structure import regularisation


class L2ulSettings(AdvSettings):
    """Settings of L2UL: those of ADV and the weight of the regulariser."""

    reg_weight: float = Field(1.0, ge=0, description="λ")


class L2ul(Method[L2ulSettings]):
    """L2UL: ADV, with every weight pulled back the more, the less the forget set depends on it.

    Publication: Cha et al., "Learning to Unlearn: Instance-wise Unlearning for Pre-trained Classifiers", AAAI 2024.

    Published settings, the defaults: those of `Adv`, and λ = 1. I comes from the original model in the mode in which
    it is unlearned (BatchNorm included), as in the public code, batch by batch of the forget set.

    Needs: the forget set, and probes made from the original model. No retained image.

    Deviations: as for `Adv`; gradients for I do not pile up over batches, as they do in the public code with more
    than 32 forget images, where ``zero_grad`` is called on another copy of the model.

    Not guaranteed: as for `Adv`.

    Example:
        >>> L2ul.configure().settings.reg_weight
        1.0
    """

    name = "l2ul"
    settings_type = L2ulSettings
    needs = frozenset({"probes"})

    def run(self, job: Job[L2ulSettings]) -> Iterator[Row]:
        """Minimise L by SGD."""
        optimizer = sgd(job)
        weight = job.settings.reg_weight
        parameters = dict(job.model.named_parameters())
        origin = {name: value.detach() for name, value in job.original.named_parameters()}
        made = job.remember("importance", lambda: self._importance(job))
        guard = {name: value.to(job.device) for name, value in made.items()}
        for step in job.steps(job.probe_batches.per_epoch):
            kept, gone = job.probe_batch(step), job.forget_batch(step)
            losses = opposing_losses(job, kept, gone, passes=job.settings.passes)
            if weight:
                losses["loss_reg"] = weight * regularisation(guard, parameters, origin)
            yield descend(job, optimizer, losses)

    @staticmethod
    def _importance(job: Job[L2ulSettings]) -> dict[str, Tensor]:
        """I of every parameter of the original model."""
        # The original, not the model: a resumed job may have to make I again.
        view = copy.copy(job)
        view.model = job.original.clone().requires_grad_(True)

        def forward(pixels: Tensor) -> Tensor:
            job.meter.count(forward=len(pixels), backward=len(pixels))
            return train_logits(view, pixels)

        batches = (job.forget_batch(step).pixels for step in range(job.forget_batches.per_epoch))
        return protection(mas_importance(forward, dict(view.model.named_parameters()), batches))
