"""Collapse over the steps of a run, and the weights a run kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stakes.analyses import collapse
from stakes.analyses.collapse import Moment, mean_collapse
from stakes.analyses.context import Context
from stakes.analyses.snapshots import read_snapshot, snapshots, with_weights
from stakes.errors import RunFolderError
from stakes.models.classifier import Classifier
from stakes.models.projector import Projector


def weights(classifier: Classifier) -> dict[str, Tensor]:
    return {name: value.clone().contiguous() for name, value in classifier.exported_state().items()}


def keep(run: Path, step: int, classifier: Classifier) -> None:
    (run / "snapshots").mkdir(exist_ok=True)
    save_file(weights(classifier), run / "snapshots" / f"step-{step}.safetensors")


def test_two_ends_where_nothing_was_kept(context: Context) -> None:
    section = collapse.analysis(context)
    assert section.numbers["measured_steps"] == 2
    assert section.numbers["mean_collapse_cosine"] is None
    assert "no snapshots" in section.limit
    first, last = section.tables[0].rows
    assert first[:2] == (0, 0.0)
    assert last[1] > 0  # type: ignore[operator]
    assert last[3] == pytest.approx(context.run.record.after.forget_accuracy)


def test_snapshots_are_moments(context: Context) -> None:
    run = context.run
    keep(run.path, 1, run.before)
    keep(run.path, 2, run.after)
    section = collapse.analysis(context)
    rows = section.tables[0].rows
    assert [row[0] for row in rows] == [0, 1, 2, run.record.steps]
    assert rows[1][1] == pytest.approx(0.0, abs=1e-6), "the original's weights: nothing has collapsed yet"
    assert rows[2][1:] == pytest.approx(rows[3][1:], abs=1e-5), "the last weights: all that will"
    assert section.numbers["mean_collapse_cosine"] == pytest.approx((rows[2][1] + rows[3][1]) / 3, abs=1e-6)  # type: ignore[operator]


def test_an_unchanged_model_has_not_collapsed(unchanged: Context) -> None:
    assert collapse.analysis(unchanged).numbers["collapse_cosine"] == 0.0


def test_few_of_many_snapshots(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    for step in range(1, 101):
        (tmp_path / "snapshots" / f"step-{step:04d}.safetensors").touch()
    (tmp_path / "snapshots" / "step-x.safetensors").touch()
    found = [step for step, _ in snapshots(tmp_path, 5)]
    assert (found[0], found[-1], len(found)) == (1, 100, 5)
    assert [step for step, _ in snapshots(tmp_path, 1000)] == list(range(1, 101))
    assert snapshots(tmp_path / "none", 5) == []


def test_weights_go_where_they_came_from(context: Context) -> None:
    before, after = context.run.before, context.run.after
    assert with_weights(before, weights(after)).fingerprint() == after.fingerprint()
    deployed = before.clone()
    deployed.projector = Projector(before.feature_width)
    other = before.clone()
    other.projector = Projector(before.feature_width, generator=torch.Generator().manual_seed(1))
    assert with_weights(other, weights(deployed)).fingerprint() == deployed.fingerprint()
    with pytest.raises(RuntimeError, match="projector"):
        with_weights(before, weights(deployed))


def test_a_damaged_snapshot_is_named(context: Context, tmp_path: Path) -> None:
    path = tmp_path / "step-1.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(RunFolderError, match="step-1"):
        read_snapshot(context.run.after, path)
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(RunFolderError, match="step-1"):
        read_snapshot(context.run.after, path)


def test_the_mean_is_over_steps_after_the_start() -> None:
    start, end = Moment(0, 0.0, 99.0, 100.0), Moment(9, 0.4, 90.0, 0.0)
    assert mean_collapse([start, end]) is None
    assert mean_collapse([start, dataclasses.replace(end, step=4, collapse=0.2), end]) == pytest.approx(0.3)
    assert end.gap == 90.0
