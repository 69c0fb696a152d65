"""Predictions and accuracy, streamed over a set of images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stakes.data.images import ImageSet
from stakes.errors import NumericalError
from stakes.memory import Fitting
from stakes.processes import Processes, spread, spreading
from stakes.runtime import evaluating

_NONE = -1


@torch.no_grad()
def predict(
    classifier: nn.Module,
    images: ImageSet,
    *,
    batch: int = 256,
    device: torch.device | None = None,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Tensor:
    """Predicted class of every image, in float32 and evaluation mode, in the order of the set.

    Inside `stakes.processes.spread` the processes take whole batches each, so every image is seen once and in the batch
    that one process would see it in: the answers are the same bytes.

    Args:
        classifier: maps pixels (n, C, H, W) in [0, 1] to logits (n, b). The mode of each part is restored afterwards.
        batch: images a pass; fewer where that many do not fit into memory.
        on_batch: told the number of images done after each pass.

    Returns:
        (N,) int64 on the CPU.

    Raises:
        NumericalError: logits are NaN.
        OutOfMemoryError: not even one image fits.
    """
    device, fit = device or next(classifier.parameters()).device, Fitting("eval_batch")
    processes = spreading() or Processes()
    starts = range(0, len(images), batch)
    own = starts[processes.share(len(starts))]
    predicted = torch.full((len(own), batch), _NONE)
    with evaluating(classifier), spread(False):
        for row, start in enumerate(own):
            pixels = images.batch(slice(start, min(start + batch, len(images))))
            logits = torch.cat(fit(pixels, lambda part: classifier(part.to(device))))
            # argmax takes NaN for the largest: a ruined model would seem to have forgotten everything.
            if bool(logits.isnan().any()):
                break
            predicted[row, : len(pixels)] = logits.argmax(dim=1).cpu()
            on_batch(min((row + 1) * processes.count * batch, len(images)))
    found = processes.gather(predicted, len(starts)).flatten()[: len(images)]
    if bool((found == _NONE).any()):
        start = int((found == _NONE).nonzero()[0])
        raise NumericalError(
            f"logits of images {start} to {min(start + batch, len(images)) - 1}",
            expected="numbers",
            got="NaN",
            fix="The weights diverged: try a smaller lr.",
        )
    return found


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of right predictions in percent, in [0, 100].

    Example:
        >>> accuracy(torch.tensor([1, 2]), torch.tensor([1, 3]))
        50.0
    """
    return 100.0 * float((predicted == labels).sum()) / len(labels)
