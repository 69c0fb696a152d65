"""Accuracy by class, against scikit-learn."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sklearn.metrics import recall_score

from stakes.analyses import class_level
from stakes.analyses.class_level import by_class
from stakes.analyses.context import Context, SkipAnalysis


def test_it_is_scikit_learns_recall() -> None:
    draws = torch.Generator().manual_seed(0)
    labels, predicted = (torch.randint(5, (300,), generator=draws) for _ in range(2))
    expected = 100 * recall_score(labels.numpy(), predicted.numpy(), average=None)
    assert by_class(predicted, labels, 5).accuracy.tolist() == pytest.approx(expected.tolist())


def test_a_class_without_images_is_unknown() -> None:
    found = by_class(torch.tensor([0]), torch.tensor([0]), 2)
    assert found.images.tolist() == [1, 0]
    assert found.accuracy.isnan().tolist() == [False, True]


def test_classes_add_up_to_the_record(context: Context) -> None:
    context.settings = context.settings.model_copy(update={"test_images": 50})
    section = class_level.analysis(context)
    (table,) = section.tables
    images = [float(row[1]) for row in table.rows]  # type: ignore[arg-type]
    record = context.run.record
    for column, figures in ((2, record.before), (3, record.after)):
        mean = sum(n * float(row[column]) for n, row in zip(images, table.rows, strict=True)) / sum(images)  # type: ignore[arg-type]
        assert mean == pytest.approx(figures.test_accuracy), "every test image counts, whatever the sample"
    assert "forgotten_class_after_percent" not in section.numbers


def test_the_forgotten_class_and_the_others(context: Context) -> None:
    split = dataclasses.replace(context.run.split, spec="class:3")
    context.run = dataclasses.replace(context.run, split=split)
    section = class_level.analysis(context)
    test = split.test
    assert test is not None
    predicted = context.run.after(test.batch(slice(None))).argmax(1)
    own = test.labels == 3
    right = predicted == test.labels
    assert section.numbers["forgotten_class_after_percent"] == pytest.approx(
        100 * float(right[own].float().mean())
    )
    assert section.numbers["other_classes_after_percent"] == pytest.approx(
        100 * float(right[~own].float().mean())
    )
    assert "forgotten class 3" in section.sentence
    assert any("forgotten class" in str(row[0]) for row in section.tables[0].rows)


def test_an_unchanged_model_loses_nothing(unchanged: Context) -> None:
    section = class_level.analysis(unchanged)
    assert section.numbers["largest_loss_of_a_class_points"] == 0.0
    assert all(row[4] == 0.0 for row in section.tables[0].rows)


def test_without_test_images_it_says_what_would_help(context: Context) -> None:
    split = dataclasses.replace(context.run.split, test=None)
    context.run = dataclasses.replace(context.run, split=split)
    with pytest.raises(SkipAnalysis, match="--data"):
        class_level.analysis(context)
