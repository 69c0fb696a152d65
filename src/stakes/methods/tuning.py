"""What methods that fine-tune have in common: optimiser, one pass in training mode, one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stakes.memory import in_parts
from stakes.methods.base import Row
from stakes.methods.job import Job


def trainable(job: Job[Any]) -> list[nn.Parameter]:
    """All parameters of the model; a projector that it deploys through joins the saved state here."""
    if job.model.projector is not None:
        job.track("projector", job.model.projector)
    return list(job.model.parameters())


def sgd(job: Job[Any], parameters: Iterable[nn.Parameter] | None = None) -> torch.optim.SGD:
    """SGD with the lr, momentum and weight decay of the settings, as part of the saved state."""
    settings = job.settings
    return job.track(
        "optimizer",
        torch.optim.SGD(
            trainable(job) if parameters is None else parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        ),
    )


def training(job: Job[Any], images: int) -> None:
    """Training mode for a pass of so many images.

    One image gives no statistics of a batch (BatchNorm refuses a single value), so BatchNorm then uses what it has.
    """
    job.training()
    if images == 1:
        for module in job.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def train_logits(job: Job[Any], pixels: Tensor) -> Tensor:
    """Logits (n, b), float32, of the model in training mode and in the precision of the run."""
    training(job, len(pixels))
    with job.autocast():
        logits = in_parts(job.model, pixels, job.most_images)
    return logits.float()


def train_features(job: Job[Any], pixels: Tensor) -> Tensor:
    """Features (n, d) of the model in training mode; the caller sets the precision."""
    training(job, len(pixels))
    return in_parts(job.model.features, pixels, job.most_images)


def descend(
    job: Job[Any],
    optimizer: torch.optim.Optimizer,
    losses: Mapping[str, Tensor],
    before_step: Callable[[], None] = lambda: None,
) -> Row:
    """One step down the sum of the losses; the row to log.

    In fp16 the loss is scaled so that small gradients do not vanish; a step whose gradients overflow is left out,
    and the next ones have half the scale. The row then holds the scale as ``loss_scale``.

    Args:
        before_step: called when the gradients are there.
    """
    total = torch.stack(list(losses.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    scaler = job.scaler
    scaled = {"loss_scale": scaler.get_scale()} if scaler.is_enabled() else {}
    scaler.scale(total).backward()
    scaler.unscale_(optimizer)
    before_step()
    scaler.step(optimizer)
    scaler.update()
    logged = {name: float(value.detach()) for name, value in losses.items()}
    return logged | {"loss": float(total.detach())} | scaled
