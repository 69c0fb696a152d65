"""What a classifier says about images, in the forms that attacks work on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stakes.data.images import ImageSet
from stakes.errors import NumericalError
from stakes.runtime import evaluating

Array = NDArray[np.float64]


@torch.no_grad()
def logits_of(classifier: nn.Module, images: ImageSet, *, batch: int, device: torch.device) -> Tensor:
    """Logits (N, b) of all images in evaluation mode and float32, given as float64 on the CPU.

    Raises:
        NumericalError: logits that are NaN or infinite.
    """
    with evaluating(classifier):
        parts = [
            classifier(images.batch(slice(start, min(start + batch, len(images)))).to(device)).cpu()
            for start in range(0, len(images), batch)
        ]
    logits = torch.cat(parts).double()
    if not bool(logits.isfinite().all()):
        raise NumericalError("logits of the model", expected="finite numbers", got="NaN or infinity")
    return logits


def log_probability(logits: Tensor, labels: Tensor) -> Array:
    """log p(y | x) (N,), at most 0."""
    return _array(logits.log_softmax(1).gather(1, labels[:, None]).squeeze(1))


def margins(logits: Tensor, labels: Tensor) -> Array:
    """z_y − log Σ_{c≠y} exp z_c (N,): log-odds of the label.

    Example:
        >>> margins(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([0])).tolist()
        [1.0]
    """
    chosen = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf")).logsumexp(1)
    return _array(chosen - others)


def entropy(logits: Tensor) -> Array:
    """Entropy of the predicted distribution (N,) in nats, in [0, ln b]."""
    logs = logits.log_softmax(1)
    return _array(-(logs.exp() * logs).sum(1))


def top_margin(logits: Tensor) -> Array:
    """Log-odds of the predicted class (N,), whichever it is."""
    return margins(logits, logits.argmax(1))


def _array(values: Tensor) -> Array:
    found: Array = values.double().cpu().numpy()
    return found
