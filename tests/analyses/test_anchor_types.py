"""Semantic anchors and visual prototypes, and which anchors an image is near to."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from stakes.analyses import anchor_types, radar
from stakes.analyses.anchor_types import class_pattern
from stakes.analyses.context import Context, SkipAnalysis
from stakes.analyses.radar import descriptions, overlap, top_anchors
from stakes.anchors import Anchors
from stakes.errors import AnchorError


def test_patterns_have_no_row_or_column_mean() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    pattern = class_pattern(torch.randn((60, 4), generator=draws), labels)
    assert pattern.shape == (3, 4)
    assert pattern.mean(0).abs().max() < 1e-6
    assert pattern.mean(1).abs().max() < 1e-6


def test_prototypes_are_centroids(context: Context) -> None:
    section = anchor_types.analysis(context)
    retain, test = (context.outputs("before", name).features.double() for name in ("retain", "test"))
    images = context.images("retain")
    shown = context.images("test")
    assert images is not None
    assert shown is not None
    centres = torch.stack([retain[images.labels == c].mean(0) for c in range(10)])
    predicted = cosine_similarity(test.numpy(), centres.numpy()).argmax(axis=1)
    share = 100 * float((torch.from_numpy(predicted) == shown.labels).float().mean())
    assert section.numbers["visual_own_anchor_before_percent"] == pytest.approx(share)
    assert share > 80


def test_an_unchanged_model_keeps_its_pattern(unchanged: Context) -> None:
    numbers = anchor_types.analysis(unchanged).numbers
    for kind in ("semantic", "visual"):
        assert numbers[f"{kind}_collapse_cosine"] == 0.0
        assert numbers[f"{kind}_pattern_correlation"] == pytest.approx(1.0)
        assert numbers[f"{kind}_own_anchor_before_percent"] == numbers[f"{kind}_own_anchor_after_percent"]
    shown = radar.analysis(unchanged).numbers
    assert {shown[f"{name}_top3_kept_percent"] for name in ("test", "forgotten")} == {100.0}


def test_without_retain_set_one_half_makes_prototypes_for_the_other(context: Context) -> None:
    split = dataclasses.replace(context.run.split, retain=None)
    context.run = dataclasses.replace(context.run, split=split)
    section = anchor_types.analysis(context)
    assert section.numbers["prototype_images"] == 60
    assert section.settings["measured on"] == "60 images"


def test_too_few_images_for_prototypes(context: Context) -> None:
    context.settings = context.settings.model_copy(update={"gallery": 4})
    with pytest.raises(SkipAnalysis, match="prototypes cannot be made"):
        anchor_types.analysis(context)


def test_overlap_of_nearest_anchors() -> None:
    draws = torch.Generator().manual_seed(0)
    structure = torch.randn((50, 6), generator=draws)
    assert overlap(structure, structure) == 1.0
    assert overlap(structure, -structure) == 0.0, "of six anchors the three nearest become the three farthest"
    chance = overlap(torch.randn((4000, 6), generator=draws), torch.randn((4000, 6), generator=draws))
    assert chance == pytest.approx(0.5, abs=0.02)
    assert torch.equal(top_anchors(structure, 2), structure.topk(2).indices)


def test_radar_tells_the_anchors_descriptions(context: Context) -> None:
    section = radar.analysis(context)
    first = section.tables[0].rows[0]
    assert first[5] == f"the shape of a {first[3]}"
    assert [figure.personal for figure in section.figures] == [False, True]
    affinities = [row[4] for row in section.tables[0].rows[:3]]
    assert affinities == sorted(affinities, reverse=True)


def test_anchors_that_do_not_say_what_they_were_made_of() -> None:
    for told in ({}, {"descriptions": "prose"}, {"descriptions": "[1]"}):
        assert descriptions(Anchors(torch.eye(3), ("a", "b", "c"), told)) == {}


def test_which_anchors_are_looked_from(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    assert context.anchors_title() == "anchors given"
    context.anchors_file = None
    assert context.anchors_title() == "anchors from bundled attributes"
    monkeypatch.setattr("stakes.analyses.context.build_anchors", _no_attributes)
    with pytest.raises(SkipAnalysis, match="--anchors"):
        context.anchors()
    context.run = dataclasses.replace(context.run, anchors=Anchors(torch.eye(10), ()))
    assert context.anchors_title() == "anchors of the run"
    assert context.anchors().class_names == context.run.before.class_names


def _no_attributes(names: tuple[str, ...]) -> Anchors:
    raise AnchorError("attributes", expected="bundled ones", got="none")
