"""Two losses against each other: images to keep, and images to forget."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.methods.job import Batch, Job
from stakes.methods.tuning import train_logits

Passes = Literal["separate", "joint"]
Weights = Literal["share", "sum"]


def opposing_losses(
    job: Job[Any],
    kept: Batch,
    gone: Batch,
    *,
    passes: Passes = "separate",
    weights: Weights = "share",
    ceiling: float | None = None,
) -> dict[str, Tensor]:
    """−w_f · CE of the images to forget and w_s · CE of those to keep.

    Args:
        passes: one network pass for each batch, so that each has BatchNorm statistics of its own, or one for both.
        weights: ``share``, w_f = n_f/(n_f + n_s) and w_s = 1 − w_f; ``sum``, 1 and 1.
        ceiling: the cross-entropy, in nats, beyond which an image to forget pushes no further; None: never.

    Returns:
        ``loss_del`` and ``loss_ret``, scalars; their sum is what to minimise.
    """
    if passes == "joint":
        logits = train_logits(job, torch.cat([kept.pixels, gone.pixels]))
        logits_kept, logits_gone = logits[: len(kept)], logits[len(kept) :]
    else:
        logits_kept, logits_gone = train_logits(job, kept.pixels), train_logits(job, gone.pixels)
    share = len(gone) / (len(gone) + len(kept))
    w_gone, w_kept = (share, 1 - share) if weights == "share" else (1.0, 1.0)
    deletion = F.cross_entropy(logits_gone, gone.labels, reduction="none").clamp_max(ceiling or torch.inf)
    return {
        "loss_del": -w_gone * deletion.mean(),
        "loss_ret": w_kept * F.cross_entropy(logits_kept, kept.labels),
    }
