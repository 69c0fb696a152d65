"""Predictions and accuracy, streamed over a set of images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stakes.data.images import ImageSet
from stakes.errors import NumericalError
from stakes.memory import Fitting


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

    Args:
        classifier: maps pixels (n, C, H, W) in [0, 1] to logits (n, b). Its mode is restored afterwards.
        batch: images a pass; fewer where that many do not fit into memory.
        on_batch: told the number of images done after each pass.

    Returns:
        (N,) int64 on the CPU.

    Raises:
        NumericalError: logits are NaN.
        OutOfMemoryError: not even one image fits.
    """
    device, fit = device or next(classifier.parameters()).device, Fitting("eval_batch")
    training = classifier.training
    classifier.eval()
    predicted = []
    try:
        for start in range(0, len(images), batch):
            pixels = images.batch(slice(start, min(start + batch, len(images))))
            logits = torch.cat(fit(pixels, lambda part: classifier(part.to(device))))
            # argmax takes NaN for the largest: a ruined model would seem to have forgotten everything.
            if bool(logits.isnan().any()):
                raise NumericalError(
                    f"logits of images {start} to {start + len(pixels) - 1}",
                    expected="numbers",
                    got="NaN",
                    fix="The weights diverged: try a smaller lr.",
                )
            predicted.append(logits.argmax(dim=1).cpu())
            on_batch(start + len(pixels))
    finally:
        classifier.train(training)
    return torch.cat(predicted) if predicted else torch.empty(0, dtype=torch.int64)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of right predictions in percent, in [0, 100].

    Example:
        >>> accuracy(torch.tensor([1, 2]), torch.tensor([1, 3]))
        50.0
    """
    return 100.0 * float((predicted == labels).sum()) / len(labels)
