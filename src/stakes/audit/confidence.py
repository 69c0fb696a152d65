"""The attack by confidence and entropy: a classifier of the model's outputs, cross-validated."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stakes.audit.outputs import Array, entropy, margins, top_margin


def signals(logits: Tensor, labels: Tensor) -> Array:
    """(N, 3): log-odds of the true label, log-odds of the predicted class, entropy in nats."""
    return np.stack([margins(logits, labels), top_margin(logits), entropy(logits)], axis=1)


def cross_validated_scores(positive: Array, negative: Array, *, folds: int, seed: int) -> tuple[Array, Array]:
    """Score every image by a logistic regression that was fitted without it; higher: more like the positives.

    Each signal enters as its rank-free standardised value and its square, so that standing out on either side counts.

    Args:
        positive, negative: (n, s) and (m, s) signals.
        folds: stratified; fewer where a group is smaller.

    Returns:
        Scores (n,) and (m,). As the fit chooses the side, this attack has no sign: an area under their curve below 0.5
        comes of folds whose fits do not carry over, which is common with few positives, and tells nothing.

    Source:
        scikit-learn's cross_val_predict. Fewer than about 20 positives give a weak attack.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    values = np.concatenate([positive, negative])
    labels = np.r_[np.ones(len(positive), int), np.zeros(len(negative), int)]
    model = make_pipeline(
        StandardScaler(),
        PolynomialFeatures(2, include_bias=False),
        StandardScaler(),
        LogisticRegression(class_weight="balanced", max_iter=2000),
    )
    splits = StratifiedKFold(
        min(folds, len(positive), len(negative)), shuffle=True, random_state=seed % 2**32
    )
    scores = cross_val_predict(model, values, labels, cv=splits, method="decision_function")
    return scores[: len(positive)], scores[len(positive) :]
