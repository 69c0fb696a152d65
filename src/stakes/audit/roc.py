"""How well a score tells two groups of images apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def auc(positive: Scores, negative: Scores) -> float:
    """Area under the ROC curve: P(s⁺ > s⁻) + ½ P(s⁺ = s⁻), in [0, 1]; 0.5 is chance.

    Args:
        positive: (n,) scores of one group, n ≥ 1.
        negative: (m,) scores of the other, m ≥ 1.

    Example:
        >>> auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
        0.875
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    upto = np.searchsorted(ordered, positive, side="right")
    return float((below + upto).mean() / (2 * len(ordered)))


def auc_interval(positive: Scores, negative: Scores, *, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the `auc`, both groups resampled (SciPy's bootstrap); it holds 0.5 wherever chance
    explains the difference.

    A few images resample to too narrow an interval: of 2 to 8 it left out 0.5 in up to 40 % of cases where there was
    nothing to find. So it leaves 0.5 out only where a two-sided Mann-Whitney test at 5 % does as well (SciPy's, normal
    approximation with ties). Its other end stays too near. From 0 to 1 where a group holds one image; of width 0 where
    enough images are wholly apart.
    """
    from scipy import stats

    if len(positive) < 2 or len(negative) < 2:
        return 0.0, 1.0
    found = stats.bootstrap(
        (positive, negative),
        auc,
        paired=False,
        vectorized=False,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
    if by_chance(positive, negative):
        return min(low, 0.5), max(high, 0.5)
    return low, high


def by_chance(positive: Scores, negative: Scores, level: float = 0.05) -> bool:
    """Whether a two-sided Mann-Whitney test does not tell the groups apart (SciPy).

    Example:
        >>> by_chance(np.array([3.0, 4.0]), np.arange(5.0)), by_chance(np.arange(50.0, 60), np.arange(50.0))
        (True, False)
    """
    from scipy import stats

    if np.ptp(np.r_[positive, negative]) == 0:
        return True
    found = stats.mannwhitneyu(positive, negative, alternative="two-sided", method="asymptotic")
    return not found.pvalue < level


def rate_at(positive: Scores, negative: Scores, false_positives: float) -> float | None:
    """True-positive rate in percent at a false-positive rate of at most ``false_positives`` (a fraction).

    The best threshold that lets at most that share of the negatives pass; None where there are fewer than
    1 / ``false_positives`` negatives, since then not one may pass and the rate is not resolved.

    Example:
        >>> rate_at(np.array([5.0, 6.0]), np.arange(100.0) / 100, 0.01)
        100.0
    """
    if len(negative) * false_positives < 1:
        return None
    allowed = int(len(negative) * false_positives + 1e-9)
    # The highest negative that must not pass: everything above it does.
    barrier = np.sort(negative)[::-1][allowed] if allowed < len(negative) else -np.inf
    return float(100 * (positive > barrier).mean())


def two_sided(positive: Scores, negative: Scores) -> tuple[Scores, Scores]:
    """Turn scores into how far out they lie among the negatives on either side: |2F(s) − 1| and beyond.

    F is the empirical distribution of the negatives (mid-ranks). Scores outside all negatives get 1 plus their
    distance in units of the negatives' spread, so that order among them is kept.
    """
    ordered = np.sort(negative)
    low, high = ordered[0], ordered[-1]
    spread = (high - low) or 1.0

    def outness(scores: Scores) -> Scores:
        rank = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
        inside = np.abs(rank / len(ordered) - 1)
        beyond = np.maximum(low - scores, scores - high)
        return np.asarray(np.where(beyond > 0, 1 + np.maximum(beyond, 0) / spread, inside), np.float64)

    return outness(positive), outness(negative)


@dataclass(frozen=True)
class Separation:
    """How far an attack tells forget images (positive) from unseen ones (negative).

    Attributes:
        auc, low, high: area under the ROC curve and its 95 % interval; below 0.5 the forget images have the lower
            scores.
        rates: percent of the forget images found at 1 % and 0.1 % false positives, looking on the high side, on the
            low side, and on both; None where there are too few unseen images.
    """

    auc: float
    low: float
    high: float
    rates: dict[tuple[str, float], float | None]
    positive: Scores
    negative: Scores

    @property
    def reading(self) -> str:
        """What it means for the images: three cases, by whether the interval holds 0.5 (see `auc_interval`)."""
        if self.low > 0.5:
            return "look like training images"
        if self.high < 0.5:
            return "stand out (they look less like training images than unseen ones do)"
        return "are not told apart from unseen images on average"


def separation(positive: Scores, negative: Scores, *, resamples: int, seed: int) -> Separation:
    """Measure a score from all sides."""
    low, high = auc_interval(positive, negative, resamples=resamples, seed=seed)
    sides: dict[str, tuple[Scores, Scores]] = {
        "high": (positive, negative),
        "low": (-positive, -negative),
        "both": two_sided(positive, negative),
    }
    rates = {(side, rate): rate_at(*scores, rate) for side, scores in sides.items() for rate in (0.01, 0.001)}
    return Separation(auc(positive, negative), low, high, rates, positive, negative)


def curve(positive: Scores, negative: Scores) -> tuple[Any, Any]:
    """False- and true-positive rates of the ROC curve, both in [0, 1] (scikit-learn)."""
    from sklearn.metrics import roc_curve

    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    false, true, _ = roc_curve(labels, np.r_[positive, negative])
    return false, true
