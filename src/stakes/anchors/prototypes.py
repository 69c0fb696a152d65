"""Visual prototypes of a data set: class means of a classifier's features, as anchors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stakes.anchors.anchors import Anchors

if TYPE_CHECKING:
    from stakes.data.images import ImageSet
    from stakes.models.classifier import Classifier


@torch.no_grad()
def visual_prototypes(
    classifier: Classifier, images: ImageSet, *, batch: int = 256, device: torch.device | None = None
) -> Anchors:
    """a_c = norm(mean over the images of class c of the deployed features), streamed: memory is b × d.

    Args:
        classifier: the original one, in evaluation mode.
        images: retained images, at least one of each class.
        batch: images a pass.
        device: where to compute; by default where the classifier is.

    Returns:
        Anchors of the width of the features, so that no bridge is needed.

    Raises:
        AnchorError: a class without images.

    Source:
        Paper, section 4.3, Table 4 (Ours-vis). It uses retained images, which the paper's setting withholds from
        methods: it is there for comparison.

    Example:
        >>> visual_prototypes(classifier, split.retain).matrix.shape  # doctest: +SKIP
        torch.Size([10, 512])
    """
    device = device or classifier.mean.device
    sums = torch.zeros(classifier.num_classes, classifier.feature_width, dtype=torch.float64)
    for start in range(0, len(images), batch):
        part = slice(start, min(start + batch, len(images)))
        features = classifier.features(images.batch(part).to(device))
        if classifier.projector is not None:
            features = classifier.projector(features)
        sums.index_add_(0, images.labels[part], features.cpu().double())
    counts = torch.bincount(images.labels, minlength=classifier.num_classes)
    there = counts.nonzero().flatten()
    # The mean of one mean a class; classes without images are absent, and refused by name.
    made = Anchors.from_prototypes(sums[there] / counts[there, None], there, classifier.class_names)
    return Anchors(made.matrix, made.class_names, {**made.provenance, "images": str(len(images))})
