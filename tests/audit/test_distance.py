"""Distances to retrained models: by hand, and on models of which we know what they saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from controls import evidence, never, saw
from scipy.special import rel_entr

from stakes.audit.evidence import Skipped
from stakes.audit.klom import BINS, CEILING, agreement, klom, left_out, margin_distance, parameter_distance
from stakes.audit.references import Reference
from stakes.audit.sections.distance import distance
from stakes.audit.sections.relearning import relearning
from stakes.models import Classifier, build_network
from stakes.report.section import Section


def retrained(count: int) -> list[Reference]:
    return [Reference(f"retrained {at}", never(True, seed=2 + at)) for at in range(count)]


def test_klom_against_numpy_and_scipy() -> None:
    draws = np.random.default_rng(0)
    unlearned, others = draws.normal(0, 1, (50, 7)), draws.normal(0.5, 1, (80, 7))
    found = klom(unlearned, others)
    for image in range(7):
        both = np.r_[unlearned[:, image], others[:, image]]
        edges = np.linspace(both.min(), both.max(), BINS + 1)
        p = np.histogram(unlearned[:, image], edges)[0] / 50
        q = np.histogram(others[:, image], edges)[0] / 80
        q = np.where(p > 0, np.maximum(q, 1e-5), q)
        assert found[image] == pytest.approx(np.sum(rel_entr(p, q)), abs=1e-9)


def test_klom_of_equals_is_zero_and_bounded() -> None:
    same = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert klom(same, same).tolist() == [0, 0]
    assert klom(np.full((2, 1), 500.0), np.full((3, 1), -500.0)) == pytest.approx(CEILING)
    assert pytest.approx(np.log(1e5)) == CEILING
    assert klom(np.ones((1, 1)), np.ones((3, 1))).tolist() == [0]


def test_left_out_is_small_for_models_alike() -> None:
    alike = np.random.default_rng(0).normal(size=(40, 20))
    assert left_out(alike).mean() < klom(np.full((1, 20), 30.0), alike).mean()


def test_margin_distance_by_hand() -> None:
    assert margin_distance(np.array([1.0, -3.0]), np.array([0.5, 2.0])) == pytest.approx(2.75)
    assert margin_distance(np.array([900.0]), np.array([-900.0])) == pytest.approx(200), "clipped as for KLoM"


def test_agreement_and_parameters_by_hand() -> None:
    assert agreement(torch.eye(4), torch.eye(4).roll(1, 0)) == 0
    assert agreement(torch.eye(4), torch.eye(4)) == 100
    model = never(True)
    assert parameter_distance(model, model) == 0
    doubled = model.clone()
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter.mul_(2)
    assert parameter_distance(doubled, model) == pytest.approx(1)
    other = Classifier.from_network(
        build_network("resnet10", num_classes=3, width=4), class_names=model.class_names, input_size=(3, 8, 8)
    )
    assert parameter_distance(model, other) is None


def test_controls(tmp_path: Path) -> None:
    """A model that never saw the wrong labels is near the retrained ones, the one that saw them is far."""
    far, near = (
        distance(evidence(tmp_path, model, wrong=True, retrained=retrained(3)))
        for model in (saw(True), never(True))
    )
    assert isinstance(far, Section)
    assert isinstance(near, Section)
    assert far.numbers["agreement_forget_after"] < 20  # type: ignore[operator]
    assert near.numbers["agreement_forget_after"] > 80  # type: ignore[operator]
    assert near.numbers["klom_forget_after"] < near.numbers["klom_forget_before"]  # type: ignore[operator]
    assert near.numbers["klom_forget_before"] == far.numbers["klom_forget_after"]
    assert near.numbers["klom_forget_retrained"] is not None
    apart = near.numbers["margins_forget_retrained"]
    assert near.numbers["margins_forget_after"] < 3 * apart < far.numbers["margins_forget_after"]  # type: ignore[operator]
    assert near.numbers["margins_forget_before"] == far.numbers["margins_forget_after"]
    assert "ceiling" not in near.limit
    assert "3 retrained models" in near.limit


def test_models_that_say_not_what_they_saw_are_taken_on_trust(tmp_path: Path) -> None:
    told = [replace(retrained(1)[0], seen=frozenset())]
    for models, trust in ((retrained(1), "1 of 1 retrained models"), (told, "")):
        for attack in (distance, relearning):
            found = attack(evidence(tmp_path, never(True), wrong=True, retrained=models))
            assert isinstance(found, Section)
            assert ("on trust" in found.limit) == bool(trust)
            assert trust in found.limit


def test_one_retrained_model_gives_no_klom(tmp_path: Path) -> None:
    found = distance(evidence(tmp_path, never(True), wrong=True, retrained=retrained(1)))
    assert isinstance(found, Section)
    assert not any(name.startswith("klom") for name in found.numbers)
    assert found.numbers["margins_forget_retrained"] is None
    assert found.numbers["margins_forget_after"] > 0  # type: ignore[operator]
    assert "at least two" in found.limit


def test_a_klom_that_cannot_tell_says_so(tmp_path: Path) -> None:
    """Both models saw the wrong labels: neither's margins lie among the two of the others."""
    found = distance(evidence(tmp_path, saw(True), wrong=True, retrained=retrained(2)))
    assert isinstance(found, Section)
    assert found.numbers["klom_forget_after"] == pytest.approx(CEILING, rel=0.01)
    assert "tells them not apart" in found.limit


def test_none_is_a_reason_to_skip(tmp_path: Path) -> None:
    found = distance(evidence(tmp_path, never(True), wrong=True))
    assert isinstance(found, Skipped)
    assert "--retrained" in found.reason
