"""The handwritten digits that ship inside scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from stakes.data.images import ImageSet

_SPLIT_SEED = 0


def read_digits() -> tuple[ImageSet, ImageSet]:
    """Give the training (1,437) and test (360) split of 1,797 grey 8 × 8 images, classes "0" to "9".

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998. Ink from 0 to 16 becomes round(255 · ink / 16). The split is stratified and the same
    everywhere; each part keeps the order of the file. Writers are not kept apart: test accuracy is that of a
    demo.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    pixels = torch.from_numpy(np.rint(found.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(found.target).long()
    names = [str(number) for number in range(10)]
    rows = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=found.target, random_state=_SPLIT_SEED
    )
    train, test = (torch.from_numpy(np.sort(part)) for part in rows)
    return (
        ImageSet.from_tensors(pixels[train], labels[train], names),
        ImageSet.from_tensors(pixels[test], labels[test], names),
    )
