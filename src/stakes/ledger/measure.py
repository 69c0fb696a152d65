"""Measuring a model on the images of requests."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from stakes.ledger.gather import Gatherer, Place
from stakes.ledger.view import Request
from stakes.metrics.accuracy import predict
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent


def recognised(
    classifier: Classifier,
    requests: Iterable[Request],
    gatherer: Gatherer,
    found: dict[str, Place],
    *,
    batch: int = 256,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> dict[int, tuple[str, ...]]:
    """Which images of which requests a classifier still puts into their own class.

    An image that several requests name is measured once and counts for each. Measured in float32 and evaluation mode
    on the deployed path; a request that is forgotten does not appear.

    Args:
        found: where the images are (`Gatherer.find`).

    Returns:
        For each request that is not forgotten, the hashes of its recognised images.
    """
    asked = list(requests)
    names = list(dict.fromkeys(name for request in asked for name in request.images))
    if not names:
        return {}
    # A deployed model may count its classes in another order than the ledger's.
    images = gatherer.join(names, found).for_classes(classifier.class_names).with_size(classifier.input_size)
    progress("check", 0, len(names))
    predicted = predict(
        classifier.to(device or torch.device("cpu")),
        images,
        batch=batch,
        device=device,
        on_batch=lambda done: progress("check", done, len(names)),
    )
    right = {name for name, hit in zip(names, (predicted == images.labels).tolist(), strict=True) if hit}
    by_request = {
        request.number: tuple(name for name in request.images if name in right) for request in asked
    }
    return {number: hits for number, hits in by_request.items() if hits}
