"""Measures of separation against scikit-learn, by hand, and at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stakes.audit.roc import auc, auc_interval, by_chance, curve, rate_at, separation, two_sided


def groups(shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    return draws.normal(shift, 1, 60).round(1), draws.normal(0, 1, 1500).round(1)  # rounded: ties


@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0])
def test_auc_is_that_of_scikit_learn(shift: float) -> None:
    positive, negative = groups(shift)
    labels = np.r_[np.ones(60), np.zeros(1500)]
    assert auc(positive, negative) == pytest.approx(roc_auc_score(labels, np.r_[positive, negative]))


def test_interval_holds_the_estimate_and_is_seeded() -> None:
    positive, negative = groups(0.5)
    low, high = auc_interval(positive, negative, resamples=199, seed=3)
    assert low < auc(positive, negative) < high
    assert (low, high) == auc_interval(positive, negative, resamples=199, seed=3)
    assert auc_interval(positive[:1], negative, resamples=199, seed=3) == (0.0, 1.0)


@pytest.mark.parametrize("count", [2, 3, 4, 8, 16])
def test_few_images_are_seldom_told_apart_by_chance(count: int) -> None:
    """The plain bootstrap said so far more often where the images are few."""
    draws = np.random.default_rng(count)
    wrong = 0
    for seed in range(200):
        low, high = auc_interval(draws.normal(size=count), draws.normal(size=200), resamples=49, seed=seed)
        wrong += not low <= 0.5 <= high
    assert wrong <= 18, "5 % of 200, and three standard errors"


def test_equal_scores_are_chance() -> None:
    assert by_chance(np.ones(5), np.ones(9))
    assert not by_chance(np.ones(9), np.zeros(9))


def test_rate_lets_no_more_negatives_pass_than_allowed() -> None:
    positive, negative = groups(2.0)
    found = rate_at(positive, negative, 0.01)
    false, true = curve(positive, negative)
    assert found == pytest.approx(100 * true[false <= 0.01].max())
    assert rate_at(positive, negative[:99], 0.01) is None
    assert rate_at(positive, negative[:999], 0.001) is None
    assert rate_at(np.full(5, -9.0), negative, 0.01) == 0.0


def test_reading_has_a_sign() -> None:
    readings = [separation(*groups(shift), resamples=199, seed=0).reading for shift in (1.5, -1.5, 0.0)]
    assert readings[0] == "look like training images"
    assert readings[1].startswith("stand out")
    assert readings[2].startswith("are not told apart")


def test_two_sides_find_what_hides_in_the_middle_of_an_auc() -> None:
    """Half far above and half far below: the AUC is chance, and yet every one stands out."""
    _, negative = groups(0)
    positive = np.r_[np.full(30, 9.0), np.full(30, -9.0)]
    found = separation(positive, negative, resamples=199, seed=0)
    assert found.auc == pytest.approx(0.5, abs=0.01)
    assert found.rates["both", 0.01] == 100.0
    assert found.rates["both", 0.001] == 100.0


def test_two_sides_of_the_negatives_are_spread_evenly() -> None:
    _, negative = groups(0)
    _, out = two_sided(negative[:1], np.unique(negative))
    assert out.mean() == pytest.approx(0.5, abs=0.02)
