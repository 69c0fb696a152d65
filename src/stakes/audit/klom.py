"""Distances between a model and models that were retrained without the forget set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stakes.audit.outputs import Array
from stakes.models.classifier import Classifier

BINS, FLOOR, CLIP = 20, 1e-5, 100.0
CEILING = -np.log(FLOOR)  # of KLoM: not one unlearned margin in a bin with a retrained one


def klom(unlearned: Array, retrained: Array) -> Array:
    """KL divergence of margins for every image: D_KL(margins of unlearned models ‖ margins of retrained ones).

    For each image both groups of margins, clipped to ±100, are counted in 20 equal bins between the least and the
    greatest of them all; a bin that unlearned models fill and retrained ones do not counts 1e-5 for the latter.

    Args:
        unlearned: (u, N) log-odds of the true label, one row a model.
        retrained: (r, N).

    Returns:
        (N,) in nats, from 0 to ln(1e5) = 11.5.

    Example:
        >>> klom(np.array([[1.0], [2.0]]), np.array([[1.0], [2.0]])).tolist()
        [0.0]

    Source:
        Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching" (2024), appendix E.1, with the
        direction, bins and floor of the authors' benchmark code. It compares distributions over trainings: they use a
        hundred models a side. With one unlearned model and few retrained ones it says little more than whether the
        margin of the one lies among those of the others.
    """
    first, second = np.clip(unlearned, -CLIP, CLIP), np.clip(retrained, -CLIP, CLIP)
    low = np.minimum(first.min(0), second.min(0))
    spread = np.maximum(first.max(0), second.max(0)) - low
    spread[spread == 0] = 1.0
    p, q = (_histogram(group, low, spread) for group in (first, second))
    filled = p > 0
    terms = np.where(filled, p * np.log(np.where(filled, p, 1.0) / np.maximum(q, FLOOR)), 0.0)
    return np.asarray(terms.sum(0), np.float64)


def _histogram(margins: Array, low: Array, spread: Array) -> Array:
    """(BINS, N) shares."""
    bins = np.minimum(((margins - low) / spread * BINS).astype(int), BINS - 1)
    return np.asarray((bins[None] == np.arange(BINS)[:, None, None]).mean(1), np.float64)


def left_out(retrained: Array) -> Array:
    """`klom` of each retrained model against the others, averaged: what a flawless unlearning would get. (N,)."""
    rest = [klom(retrained[at : at + 1], np.delete(retrained, at, axis=0)) for at in range(len(retrained))]
    return np.asarray(np.mean(rest, axis=0), np.float64)


def margin_distance(first: Array, second: Array) -> float:
    """Mean absolute difference of margins, in log-odds, each clipped to ±100; (N,) each, at least 0.

    What KLoM cannot say with few models: how far apart two of them are on these images.

    Example:
        >>> margin_distance(np.array([1.0, 500.0]), np.array([2.0, 100.0]))
        0.5
    """
    return float(np.abs(np.clip(first, -CLIP, CLIP) - np.clip(second, -CLIP, CLIP)).mean())


def agreement(first: Tensor, second: Tensor) -> float:
    """Percent of images for which two models predict the same class; logits (N, b) each."""
    return float(100 * (first.argmax(1) == second.argmax(1)).double().mean())


def parameter_distance(first: Classifier, second: Classifier) -> float | None:
    """‖θ₁ − θ₂‖ / ‖θ₂‖ over all parameters (no BatchNorm statistics); None where they are not of one shape.

    Networks that compute the same may lie far apart (neurons can be permuted), so only its size beside that of two
    retrained models means something.
    """
    mine, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    if {n: p.shape for n, p in mine.items()} != {n: p.shape for n, p in theirs.items()}:
        return None
    apart = sum(float((mine[n].double().cpu() - theirs[n].double().cpu()).square().sum()) for n in mine)
    size = sum(float(theirs[n].double().cpu().square().sum()) for n in mine)
    return float(torch.tensor(apart / size).sqrt()) if size > 0 else None
