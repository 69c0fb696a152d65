"""Retrieval against torchmetrics, brute force and its own claims."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_hit_rate

from stakes.analyses import retrieval
from stakes.analyses.context import Context
from stakes.analyses.retrieval import RANKS, search
from stakes.errors import DataError


def problem(seed: int, queries: int = 7, gallery: int = 23, classes: int = 4) -> tuple[Tensor, ...]:
    draws = torch.Generator().manual_seed(seed)
    return (
        torch.randn((queries, 5), generator=draws),
        torch.randn((gallery, 5), generator=draws),
        torch.randint(classes, (queries,), generator=draws),
        torch.randint(classes, (gallery,), generator=draws),
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(1, 8))
def test_scores_are_torchmetrics(seed: int, classes: int) -> None:
    queries, gallery, asked, labels = problem(seed, classes=classes)
    found = search(queries, gallery, asked, labels)
    # torchmetrics takes scores of 0 and below for "not retrieved": only the order matters here.
    scores = 2 + F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    for at, row in enumerate(scores):
        target = labels == asked[at]
        assert bool(found.answerable[at]) == bool(target.any())
        if not target.any():
            continue
        assert float(found.precision[at]) == pytest.approx(float(retrieval_average_precision(row, target)))
        for place, k in enumerate(RANKS):
            assert float(found.hits[at, place]) == float(retrieval_hit_rate(row, target, top_k=k))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_query_is_not_its_own_result(seed: int) -> None:
    _, gallery, _, labels = problem(seed)
    rows = torch.arange(0, len(gallery), 2)
    found = search(gallery[rows], gallery, labels[rows], labels, itself=rows, neighbours=30)
    for at, row in enumerate(rows.tolist()):
        others = torch.arange(len(gallery)) != row
        alone = search(gallery[[row]], gallery[others], labels[[row]], labels[others])
        assert torch.equal(found.hits[at], alone.hits[0])
        torch.testing.assert_close(found.precision[at], alone.precision[0], equal_nan=True)
        assert row not in found.neighbours[at].tolist()
        assert sorted(found.neighbours[at].tolist())[8:] == sorted(set(range(len(gallery))) - {row})


def test_blocks_change_nothing() -> None:
    queries, gallery, asked, labels = problem(3, queries=40, gallery=50)
    whole, tiny = (search(queries, gallery, asked, labels, block_bytes=size) for size in (2**26, 1))
    assert torch.equal(whole.neighbours, tiny.neighbours)
    assert torch.equal(whole.hits, tiny.hits)
    torch.testing.assert_close(whole.precision, tiny.precision, equal_nan=True)


def test_clusters_are_found_and_noise_is_not() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    noise = torch.randn((200, 16), generator=draws)
    tight = 10 * torch.eye(4, 16)[labels] + 0.01 * noise
    rows = torch.arange(200)
    perfect = search(tight, tight, labels, labels, itself=rows).percent()
    assert perfect == {"r1": 100.0, "r5": 100.0, "r10": 100.0, "map": pytest.approx(100.0)}
    chance = search(noise, noise, labels, labels, itself=rows).percent()
    # One in four shares the class; its average precision is little more.
    assert chance["r1"] == pytest.approx(25, abs=10)
    assert chance["map"] == pytest.approx(25, abs=5)
    apart = search(tight, tight, (labels + 1) % 4, labels).percent()
    assert apart["r10"] == 0.0


def test_scale_does_not_matter() -> None:
    queries, gallery, asked, labels = problem(4)
    scaled = search(7 * queries, 0.1 * gallery, asked, labels)
    torch.testing.assert_close(
        scaled.precision, search(queries, gallery, asked, labels).precision, equal_nan=True
    )


def test_what_does_not_fit_is_refused() -> None:
    queries, gallery, asked, labels = problem(0)
    with pytest.raises(DataError, match="features"):
        search(queries[:, :3], gallery, asked, labels)
    with pytest.raises(DataError, match="a gallery"):
        search(queries, gallery[:0], asked, labels[:0])


def test_no_class_in_the_gallery_is_unknown_not_zero() -> None:
    found = search(torch.eye(2), torch.eye(2), torch.tensor([5, 5]), torch.tensor([0, 1]))
    assert set(found.percent().values()) == {None}


def test_the_section(context: Context) -> None:
    section = retrieval.analysis(context)
    numbers = section.numbers
    assert numbers["gallery_images"] == 300
    assert numbers["retained_queries"] == 40
    assert numbers["forgotten_queries"] == 8
    assert numbers["retained_r1_before_percent"] > 90  # type: ignore[operator]
    assert f"{numbers['forgotten_r1_after_percent']:.1f} %" in section.sentence
    assert {figure.file: figure.personal for figure in section.figures} == {
        "retrieval-scores.svg": False,
        "retrieval-retained.png": False,
        "retrieval-forgotten.png": True,
    }
    gallery = context.images("retain")
    assert gallery is not None
    assert not set(gallery.hashes()) & set(context.run.split.forget.hashes())


def test_an_unchanged_model_retrieves_alike(unchanged: Context) -> None:
    numbers = retrieval.analysis(unchanged).numbers
    for name, value in numbers.items():
        if "_before_" in name:
            assert value == numbers[name.replace("_before_", "_after_")]


def test_test_images_stand_in_for_absent_ones(context: Context) -> None:
    context.run = dataclasses.replace(context.run, split=dataclasses.replace(context.run.split, retain=None))
    section = retrieval.analysis(context)
    assert "test images stand in" in section.limit
    assert section.sentence.startswith("Test images")
    assert section.numbers["test_r1_after_percent"] is not None
