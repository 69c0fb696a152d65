"""Standing out, against SciPy and scikit-learn, with samples that do and do not."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy, ks_2samp
from sklearn.metrics import log_loss, roc_auc_score

from stakes.analyses import streisand
from stakes.analyses.context import Context, SkipAnalysis
from stakes.analyses.streisand import effect, measures
from stakes.errors import DataError

numbers = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


def test_measures_are_scipys_and_scikit_learns() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((20, 4), generator=draws)
    labels = torch.randint(4, (20,), generator=draws)
    found = measures(logits, labels)
    shares = logits.double().softmax(1).numpy()
    assert found["entropy"].numpy() == pytest.approx(entropy(shares, axis=1))
    assert float(found["loss"].mean()) == pytest.approx(log_loss(labels.numpy(), shares, labels=range(4)))
    assert found["confidence"].numpy() == pytest.approx(shares.max(axis=1))


def test_certain_logits_stay_finite() -> None:
    found = measures(torch.tensor([[1e4, 0.0]]), torch.tensor([1]))
    assert all(bool(value.isfinite().all()) for value in found.values())


@settings(max_examples=30, deadline=None)
@given(first=numbers, second=numbers)
def test_delta_counts_pairs(first: list[float], second: list[float]) -> None:
    found = effect(torch.tensor(first), torch.tensor(second))
    signs = [(x > y) - (x < y) for x, y in product(first, second)]
    assert found.delta == pytest.approx(sum(signs) / len(signs))
    assert effect(torch.tensor(second), torch.tensor(first)).delta == pytest.approx(-found.delta)


def test_effects_are_scipys_and_scikit_learns() -> None:
    draws = torch.Generator().manual_seed(0)
    one, two = torch.randn(60, generator=draws) + 0.5, torch.randn(80, generator=draws)
    found, test = effect(one, two), ks_2samp(one.numpy(), two.numpy())
    assert (found.ks, found.p) == (pytest.approx(test.statistic), pytest.approx(test.pvalue))
    auc = roc_auc_score([1] * 60 + [0] * 80, torch.cat([one, two]).numpy())
    assert found.delta == pytest.approx(2 * auc - 1)


def test_the_same_sample_does_not_stand_out_and_another_does() -> None:
    sample = torch.randn(200, generator=torch.Generator().manual_seed(0))
    same = effect(sample, sample)
    assert (same.delta, same.ks, same.p) == (0.0, 0.0, 1.0)
    apart = effect(sample + 100, sample)
    assert (apart.delta, apart.ks) == (1.0, 1.0)
    assert apart.p < 1e-50
    with pytest.raises(DataError, match="two samples"):
        effect(sample, sample[:0])


def test_the_section(context: Context) -> None:
    section = streisand.analysis(context)
    assert section.numbers["unseen_images"] == 120
    loss = section.numbers["loss_delta_after"]
    assert loss > section.numbers["loss_delta_before"]  # type: ignore[operator]
    assert f"loss {loss:+.2f}" in section.sentence
    assert {row[0] for row in section.tables[0].rows} == {"loss", "confidence", "entropy"}


def test_unseen_images_as_forget_set_do_not_stand_out(unchanged: Context) -> None:
    test = unchanged.run.split.test
    assert test is not None
    split = dataclasses.replace(unchanged.run.split, forget=test.subset(range(0, 360, 2)))
    unchanged.run = dataclasses.replace(unchanged.run, split=split)
    for name, value in streisand.analysis(unchanged).numbers.items():
        if "_delta_" in name and not name.endswith("misclassified"):
            assert abs(value or 0.0) < 0.2, name


def test_without_unseen_images(context: Context) -> None:
    context.run = dataclasses.replace(context.run, split=dataclasses.replace(context.run.split, test=None))
    with pytest.raises(SkipAnalysis, match="unseen"):
        streisand.analysis(context)
