"""RMIA: the robust membership-inference attack with few reference models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def log_ratio(
    log_target: Array, reference: Array, unseen_by: NDArray[np.bool_], *, offline_a: float
) -> Array:
    """log of p(x | θ) / p(x), p(x) estimated from the models that did not see x.

    p(x) = ½ [(1 + a) p̄_out(x) + (1 − a)], where p̄_out is the mean over the reference models that did not see x,
    and a · p̄_out + 1 − a stands for the unknown mean over models that did.

    Args:
        log_target: (n,) log-probability of each image's label under the attacked model.
        reference: (n, m) probabilities of the labels under m reference models, in [0, 1].
        unseen_by: (n, m) whether model j did not see image i; at least one in every row.
        offline_a: a in [0, 1].

    Source:
        Zarifzadeh, Liu, Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024, offline attack;
        a = 0.3 is the default of the authors' tool, which can also tune it.
    """
    counts = unseen_by.sum(1)
    mean_out = np.where(unseen_by, reference, 0.0).sum(1) / counts
    return np.asarray(log_target - np.log(((1 + offline_a) * mean_out + 1 - offline_a) / 2), np.float64)


def rmia_scores(images: Array, population: Array, *, gamma: float) -> Array:
    """Share of the population z that x beats: P_z[(p(x|θ)/p(x)) / (p(z|θ)/p(z)) ≥ γ], in [0, 1].

    Args:
        images, population: (n,) and (z,) log ratios by `log_ratio`.
        gamma: γ > 0; 1 is the default of the authors' tool.

    Note:
        With one population for all images this is a growing step function of the log ratio itself. Where scores tie
        (many images below every z), the log ratio still orders them; the audit's ROC therefore uses the log ratio,
        whose curve has every point that the score's has, and more.

    Example:
        >>> rmia_scores(np.log([0.5, 2.0]), np.log([1.0, 3.0]), gamma=1.0).tolist()
        [0.0, 0.5]

    Source:
        Zarifzadeh, Liu, Shokri, ICML 2024, Eq. for LR(x, z) and the score. Assumes that reference models were trained
        as the attacked one was; with references of another kind it measures that difference too.
    """
    ordered = np.sort(population)
    return np.asarray(
        np.searchsorted(ordered, images - np.log(gamma), side="right") / len(ordered), np.float64
    )
