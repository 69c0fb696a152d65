r"""SalUn: random relabelling of the weights that the forget loss depends on most.

m   = 1(|∇_θ L_f(θ_o)| ≥ γ),   L_f = −E_{D_f} CE(f(x), y),   γ such that a given share of weights is kept
θ_u = m ⊙ (θ_o + Δθ) + (1 − m) ⊙ θ_o,   Δθ by random relabelling
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from stakes.methods.base import Method, Row
from stakes.methods.job import Job
from stakes.methods.random_label import (
    RelabelSettings,
    relabel_losses,
    relabel_needs,
    relabel_per_epoch,
)
from stakes.methods.tuning import descend, sgd
from stakes.models.classifier import Classifier


class SalUnSettings(RelabelSettings):
    """Settings of SalUn."""

    share: float = Field(0.5, gt=0, le=1, description="share of all weights that may change")


def saliency_mask(gradients: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Mark the weights with the largest |gradient|, ``share`` of all weights of all tensors together.

    Returns:
        uint8 tensors on the CPU, shaped like the gradients, ⌈share · N⌉ ones in all. Among equal gradients the first
        in order are taken, so that the mask is the same on every device.

    Example:
        >>> saliency_mask({"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([2.0, 0.0])}, 0.5)
        {'a': tensor([0, 1], dtype=torch.uint8), 'b': tensor([1, 0], dtype=torch.uint8)}
    """
    flat = torch.cat([gradient.detach().abs().flatten().cpu() for gradient in gradients.values()])
    count = -int(-share * len(flat) // 1)
    chosen = torch.zeros(len(flat), dtype=torch.uint8)
    chosen[flat.sort(descending=True, stable=True).indices[:count]] = 1
    parts = chosen.split([gradient.numel() for gradient in gradients.values()])
    return {
        name: part.view(gradient.shape)
        for (name, gradient), part in zip(gradients.items(), parts, strict=True)
    }


def forget_gradient(model: Classifier, batches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The gradient of −Σ CE(f(x), y) by every parameter at fixed weights, in evaluation mode.

    Args:
        batches: pixels (n, C, H, W) and labels (n,) on the model's device.
    """
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    model.eval()
    for pixels, labels in batches:
        loss = -F.cross_entropy(model(pixels).float(), labels, reduction="sum")
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for into, gradient in zip(total.values(), found, strict=True):
            if gradient is not None:
                into.add_(gradient)
    return total


class SalUn(Method[SalUnSettings]):
    """Random relabelling through a saliency mask.

    Publication: Fan, Liu, Zhang, Wong, Wei and Liu, "SalUn: Empowering Machine Unlearning via Gradient-based Weight
    Saliency in Both Image Classification and Generation", ICLR 2024.

    Needs: the forget set alone by default; with ``retain_weight`` above 0 the retain set too, as published.

    Settings: half of the weights are salient and new labels differ from the old, as published. Without retained
    images nothing is published: optimiser, batches and limit are then those shared by the methods here. Preset
    ``paper`` is the public command for CIFAR-10: SGD .1, momentum .9, weight decay 5e-4, batches of 256, 10 epochs,
    with retained images.

    Deviations: it ends as soon as all forget images are misclassified. With retained images the two terms are
    summed in each step as in the text; the public code alternates passes over the two sets and draws new labels
    among all classes in every pass (``new_labels=any``, ``redraw=true``). The mask is made from the gradient at the
    original weights, as in the text; the public code moves the weights while it sums the gradient.

    Not guaranteed: that the masked half holds nothing of the forget set. BatchNorm's running statistics are not
    weights and may drift (``batchnorm=freeze`` keeps them).

    Example:
        >>> SalUn.configure("paper").settings.retain_weight
        1.0
    """

    name = "salun"
    settings_type = SalUnSettings
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "retain": {"retain_weight": 1.0},
        "paper": {
            "lr": 0.1,
            "weight_decay": 5e-4,
            "forget_batch": 256,
            "max_epochs": 10,
            "retain_weight": 1.0,
        },
    }

    def __init__(self, settings: SalUnSettings) -> None:
        super().__init__(settings)
        self.needs = relabel_needs(settings)

    def run(self, job: Job[SalUnSettings]) -> Iterator[Row]:
        """Relabel at random; put all but the salient weights back after each step."""
        made = job.remember("saliency", lambda: self._mask(job))
        optimizer = sgd(job)
        # The model that the work began with: the original may remember what an earlier request deleted.
        origin = dict((job.start or job.original).named_parameters())
        kept = {name: (mask == 0).to(job.device) for name, mask in made.items()}
        for step in job.steps(relabel_per_epoch(job)):
            row = descend(job, optimizer, relabel_losses(job, step))
            with torch.no_grad():
                for name, parameter in job.model.named_parameters():
                    parameter.copy_(torch.where(kept[name], origin[name], parameter))
            yield row

    def total_steps(self, job: Job[SalUnSettings]) -> int:
        """The most steps of this job."""
        return job.limit(relabel_per_epoch(job))

    @staticmethod
    def _mask(job: Job[SalUnSettings]) -> dict[str, Tensor]:
        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for part in torch.arange(len(job.forget)).split(job.settings.forget_batch):
                yield job.forget.batch(part).to(job.device), job.forget.labels[part].to(job.device)

        job.meter.count(forward=len(job.forget), backward=len(job.forget))
        original = (job.start or job.original).clone().requires_grad_(True)
        return saliency_mask(forget_gradient(original, batches()), job.settings.share)
