"""Membership: RMIA by hand, and models that did and did not see the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controls import evidence, never, references, saw, sets

from stakes.audit.confidence import cross_validated_scores, signals
from stakes.audit.evidence import Skipped
from stakes.audit.outputs import entropy, log_probability, margins
from stakes.audit.references import Reference
from stakes.audit.rmia import log_ratio, rmia_scores
from stakes.audit.roc import auc
from stakes.audit.sections.membership import _matched, membership
from stakes.data.forget import ForgetSplit
from stakes.report.section import Section


def section(found: Any) -> Section:
    assert isinstance(found, Section)
    return found


def test_log_ratio_by_hand() -> None:
    """Image 0: unseen by both, p̄ = 0.3; image 1: unseen by the second alone, p̄ = 0.8."""
    reference = np.array([[0.2, 0.4], [0.99, 0.8]])
    unseen = np.array([[True, True], [False, True]])
    found = log_ratio(np.log([0.9, 0.5]), reference, unseen, offline_a=0.3)
    expected = [0.9 / ((1.3 * 0.3 + 0.7) / 2), 0.5 / ((1.3 * 0.8 + 0.7) / 2)]
    assert np.exp(found) == pytest.approx(expected)


def test_scores_count_pairs_and_order_as_the_ratio_does() -> None:
    draws = np.random.default_rng(0)
    x, z = draws.normal(size=50), draws.normal(size=40)
    found = rmia_scores(x, z, gamma=1.5)
    pairs = np.exp(x)[:, None] / np.exp(z)[None] >= 1.5
    assert found == pytest.approx(pairs.mean(1))
    assert (np.diff(found[np.argsort(x)]) >= 0).all()


def test_outputs_against_torch() -> None:
    logits = torch.randn((5, 4), generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([0, 1, 2, 3, 0])
    p = torch.softmax(logits, 1)
    true = p.gather(1, labels[:, None]).squeeze(1)
    assert np.exp(log_probability(logits, labels)) == pytest.approx(true.numpy())
    assert margins(logits, labels) == pytest.approx((true / (1 - true)).log().numpy())
    assert entropy(logits) == pytest.approx(torch.distributions.Categorical(p).entropy().numpy())


def test_cross_validation_does_not_see_what_is_not_there() -> None:
    draws = np.random.default_rng(0)
    noise = cross_validated_scores(draws.normal(size=(60, 3)), draws.normal(size=(300, 3)), folds=5, seed=0)
    assert 0.35 < auc(*noise) < 0.65
    apart = cross_validated_scores(
        draws.normal(-2, 1, (60, 3)), draws.normal(0, 1, (300, 3)), folds=5, seed=0
    )
    assert auc(*apart) > 0.9


def test_signals_have_a_row_an_image() -> None:
    assert signals(torch.zeros(4, 3).double(), torch.zeros(4, dtype=torch.int64)).shape == (4, 3)


@pytest.mark.parametrize("with_references", [True, False])
def test_controls(tmp_path: Path, with_references: bool) -> None:
    """The model that saw the images is found out, the one that did not is not."""
    main = "rmia" if with_references else "loss"
    given = {"references": references() if with_references else ()}
    seen = section(membership(evidence(tmp_path, saw(), **given)))
    not_seen = section(membership(evidence(tmp_path, never(), **given)))
    assert seen.numbers[f"{main}_after_auc_low"] > 0.6  # type: ignore[operator]
    low, high = (not_seen.numbers[f"{main}_after_auc_{side}"] for side in ("low", "high"))
    assert low < 0.5 < high  # type: ignore[operator]
    assert seen.numbers["outputs_after_auc"] > not_seen.numbers["outputs_after_auc"]  # type: ignore[operator]
    assert "look like training images" in seen.sentence
    assert "not told apart" in not_seen.sentence
    assert f"AUC {seen.numbers[f'{main}_after_auc']:.3f}" in seen.sentence


def test_what_stands_out_as_forgotten_is_a_leak_too(tmp_path: Path) -> None:
    """Wrong labels: a model that never saw them is surer of its own answer than on any unseen image."""
    found = section(membership(evidence(tmp_path, never(True), wrong=True)))
    assert found.numbers["loss_after_auc_high"] < 0.2  # type: ignore[operator]
    assert found.numbers["loss_after_tpr_1_low"] > 20  # type: ignore[operator]
    assert found.numbers["loss_after_tpr_1_both"] > 20  # type: ignore[operator]
    assert "stand out" in found.sentence


def test_too_few_unseen_images_are_said(tmp_path: Path) -> None:
    found = section(membership(evidence(tmp_path, never())))
    assert found.numbers["loss_after_tpr_0.1_both"] is None
    assert "at least 1000" in found.limit
    assert f"{found.numbers['unseen_images']} unseen" in found.limit


def test_unseen_images_have_the_classes_of_the_forgotten_ones() -> None:
    forget, test = torch.tensor([1] * 9 + [2]), torch.tensor([0, 1, 2] * 100)
    rows = _matched(forget, test, 50, seed=0)
    assert test[rows].bincount().tolist() == [0, 45, 5]
    assert len(_matched(forget, test, 10_000, seed=0)) == 111
    assert len(rows.unique()) == 50
    assert torch.equal(rows, _matched(forget, test, 50, seed=0))


def test_images_that_every_reference_saw_are_left_out(tmp_path: Path) -> None:
    forget = sets(False)[0]
    short = [one[:16] for one in forget.hashes()]
    first = Reference("knows ten", references(1)[0].classifier, frozenset(short[:10]))
    found = section(membership(evidence(tmp_path, saw(), references=[first])))
    assert found.numbers["forget_images"] == len(forget) - 10
    assert f"{len(forget)} forget and" in found.limit
    assert f"RMIA took {len(forget) - 10} and" in found.limit
    everything = Reference("knows all", first.classifier, frozenset(short))
    found = section(membership(evidence(tmp_path, saw(), references=[everything])))
    assert "rmia_after_auc" not in found.numbers
    assert "RMIA was left out" in found.limit
    assert "the 1 reference models" in found.limit
    assert "Without reference models" not in found.limit


def test_few_images_are_said(tmp_path: Path) -> None:
    forget, retain, test = sets(False)
    for count in (4, 40):
        split = ForgetSplit(forget=forget.subset(range(count)), retain=retain, test=test)
        found = section(membership(evidence(tmp_path, saw(), split=split)))
        assert ("too narrow" in found.limit) == (count == 4)
        few = count == 4 and found.numbers["outputs_after_auc_low"] > 0.5  # type: ignore[operator]
        assert "too few to say" in str(found.tables) or not few


def test_nothing_unseen_is_a_reason_to_skip(tmp_path: Path) -> None:
    forget, retain, test = sets(False)
    for split, reason in (
        (ForgetSplit(forget=forget, retain=retain), "no test images"),
        (ForgetSplit(forget=forget.subset([0]), test=test), "one forget image"),
    ):
        found = membership(evidence(tmp_path, never(), split=split))
        assert isinstance(found, Skipped)
        assert reason in found.reason


def test_same_call_same_bytes(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        folder = tmp_path / name
        result = membership(evidence(folder, never(), references=references(1)))
        found.append((section(result).model_dump_json(), (folder / "membership.svg").read_bytes()))
    assert found[0] == found[1]
