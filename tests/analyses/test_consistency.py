"""Consistency against scikit-learn, and its density against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import gaussian_kde
from sklearn.metrics.pairwise import cosine_similarity

from stakes.analyses import consistency as home
from stakes.analyses.consistency import consistency, density
from stakes.analyses.context import Context
from stakes.errors import DataError

GRID = np.linspace(-1, 1, 4001)


def test_cosines_are_scikit_learns() -> None:
    draws = torch.Generator().manual_seed(0)
    before, after = (torch.randn((30, 6), generator=draws) for _ in range(2))
    expected = np.diag(cosine_similarity(before.numpy(), after.numpy()))
    assert consistency(before, after).numpy() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(DataError, match="one shape"):
        consistency(before, after[:3])


def test_density_is_scipys_where_the_edge_is_far() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.05
    ours = density(values, GRID)
    assert ours == pytest.approx(gaussian_kde(values.numpy())(GRID), abs=1e-9)


def test_density_integrates_to_one_at_the_edge() -> None:
    draws = torch.Generator().manual_seed(0)
    values = 1 - 0.1 * torch.rand(400, generator=draws, dtype=torch.float64) ** 2
    ours, plain = density(values, GRID), gaussian_kde(values.numpy())(GRID)
    assert ours is not None
    assert trapezoid(ours, GRID) == pytest.approx(1, abs=1e-3)
    assert trapezoid(plain, GRID) < 0.9, "unfolded, mass is lost beyond 1"


def test_identical_models_are_consistent(unchanged: Context) -> None:
    section = home.analysis(unchanged)
    for name in ("forget", "retain", "test"):
        assert section.numbers[f"{name}_mean_cosine"] == pytest.approx(1.0, abs=1e-9)
    assert (unchanged.folder / "consistency.svg").is_file(), "a point without a density is drawn all the same"


def test_a_changed_model_is_less_so(context: Context) -> None:
    section = home.analysis(context)
    assert 0 < section.numbers["forget_mean_cosine"] < 0.999  # type: ignore[operator]
    assert section.numbers["retain_images"] == 300
    low, middle = section.tables[0].rows[1][4], section.tables[0].rows[1][3]
    assert low < middle  # type: ignore[operator]
