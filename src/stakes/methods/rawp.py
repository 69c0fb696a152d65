"""RAWP: adversarial weight perturbation, repeated until the forget set is forgotten.

w_l ← w_l + γ ‖w_l‖ ∇_l / ‖∇_l‖,   ∇_l = ∂ CE(f(x_f), y_f) / ∂w_l,   for each layer l
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from stakes.config import MethodSettings
from stakes.methods.base import Method, Row
from stakes.methods.job import Job
from stakes.methods.tuning import train_logits, trainable


class RawpSettings(MethodSettings):
    """Settings of RAWP. ``lr``, ``momentum`` and ``weight_decay`` have no effect: γ alone sets the step."""

    gamma: float = Field(0.01, gt=0, description="γ: length of a step relative to the norm of the layer")


class Rawp(Method[RawpSettings]):
    """RAWP: step each layer by γ‖w‖ along its normalised gradient of the forget loss, until all is forgotten.

    Publication: Wu, Xia and Wang, "Adversarial Weight Perturbation Helps Robust Generalization", NeurIPS 2020, whose
    perturbation Hong, Shin and Kim (CVPR 2026) compare with under this name.

    Published settings, the defaults: γ = .01, that of Wu et al.'s code for adversarial training (TRADES: .005). As
    there, a layer is a weight of two or more dimensions; biases and normalisation stay. Batches of 32 forget images
    and at most 1000 passes over them are L2UL's, BatchNorm in training mode.

    Needs: the forget set alone.

    Deviations: no code or formula of RAWP as an unlearning method is public, so the repetition until forgotten is
    our reading: Wu et al. take one step and undo it after the update. There is no line search. A batch of one image
    uses BatchNorm's running statistics.

    Not guaranteed: anything about the other images; a layer with a zero gradient is left where it is.

    Example:
        >>> Rawp.configure(overrides={"gamma": 0.005}).settings.gamma
        0.005
    """

    name = "rawp"
    settings_type = RawpSettings
    search: ClassVar[dict[str, tuple[float, float]]] = {"gamma": (0.001, 0.1)}

    def run(self, job: Job[RawpSettings]) -> Iterator[Row]:
        """Perturb the layers, batch by batch."""
        parameters = trainable(job)
        for step in job.steps(job.forget_batches.per_epoch):
            batch = job.forget_batch(step)
            loss = F.cross_entropy(train_logits(job, batch.pixels), batch.labels)
            job.model.zero_grad(set_to_none=True)
            # Along its direction alone, so the scale of a precision stays in.
            job.scaler.scale(loss).backward()
            ascend(parameters, job.settings.gamma)
            yield {"loss_del": -float(loss.detach())}


@torch.no_grad()
def ascend(parameters: Iterable[nn.Parameter], gamma: float) -> None:
    """Move each weight w of two or more dimensions by γ‖w‖ along its gradient; others stay.

    Example:
        >>> weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> weight.grad = torch.tensor([[0.0, -9.0]])
        >>> ascend([weight], 0.1)
        >>> weight.tolist()
        [[3.0, 3.5]]
    """
    for weight in parameters:
        if weight.dim() < 2 or weight.grad is None:
            continue
        length = weight.grad.norm()
        if length > 0:
            # Normalised first: γ‖w‖/‖∇‖ alone can overflow where the gradient almost vanishes.
            weight.add_(weight.grad / length * (gamma * weight.norm()))
