"""Rows that hold on to visual prototypes in place of the data's anchors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchkit import STRUCTGUARD, Make, Write, records
from torch.nn import functional as F

from stakes.anchors import Anchors
from stakes.anchors.prototypes import visual_prototypes
from stakes.bench import run_bench
from stakes.bench.cells import expand
from stakes.bench.cost import grid_cost
from stakes.bench.grid import AnchorSource, load_grid
from stakes.bench.opening import Opening
from stakes.data import open_source
from stakes.data.images import ImageSet
from stakes.errors import AnchorError, ConfigError, DataError
from stakes.models.checkpoint import load_checkpoint
from stakes.models.projector import Projector

ROWS = [
    STRUCTGUARD | {"label": "semantic"},
    STRUCTGUARD | {"label": "visual", "anchors": "prototypes"},
]


def images_of(home: Path) -> ImageSet:
    train = open_source(str(home / "data"), size=(1, 8, 8)).train
    assert train is not None
    return train


def test_they_are_class_means_whatever_the_batch(home: Path) -> None:
    model, some = load_checkpoint(home / "model"), images_of(home)
    with torch.no_grad():
        features = model.features(some.batch(slice(None))).double()
    expected = F.normalize(torch.stack([features[some.labels == c].mean(0) for c in range(10)]), dim=1)
    for batch in (7, 256):
        found = visual_prototypes(model, some, batch=batch)
        torch.testing.assert_close(found.matrix.double(), expected, rtol=0, atol=1e-6)
    assert found.provenance["images"] == "300"
    assert found.class_names == model.class_names
    deployed = model.clone()
    deployed.projector = Projector(model.feature_width, init="identity")
    torch.testing.assert_close(visual_prototypes(deployed, some).matrix, found.matrix)


def test_a_class_without_images_is_named(home: Path) -> None:
    some = images_of(home)
    with pytest.raises(AnchorError, match="'7'"):
        visual_prototypes(load_checkpoint(home / "model"), some.subset(some.labels != 7))


def test_a_row_runs_with_them(write: Write, tmp_path: Path) -> None:
    report = run_bench(load_grid(write(methods=ROWS)), tmp_path / "out")
    assert not report.failed
    found = records(tmp_path / "out")
    assert found["visual"].request["anchors"] == "prototypes"
    assert found["visual"].hashes.anchors != found["semantic"].hashes.anchors
    assert found["visual"].hashes.probes == found["semantic"].hashes.probes


def test_the_cost_counts_them(grid_of: Make) -> None:
    grid = grid_of(methods=ROWS)
    semantic, visual = grid_cost(grid, expand(grid)).cells
    assert visual.unlearn.forward - semantic.unlearn.forward == 298
    assert visual.unlearn.backward == semantic.unlearn.backward


def test_only_methods_with_anchors_take_them(grid_of: Make) -> None:
    with pytest.raises(ConfigError, match="a method that uses anchors"):
        expand(grid_of(methods=[{"method": "neggrad", "anchors": "prototypes"}]))
    with pytest.raises(DataError, match="nothing at prototype"):
        grid_of(methods=[{"method": "structguard", "anchors": "prototype"}]).check_places()


def test_a_row_has_another_encoder_or_file(write: Write, home: Path, tmp_path: Path) -> None:
    """Anchors of its own reach the method, and another encoder makes another cell."""
    Anchors(torch.eye(10, 16).flip(0), tuple("0123456789")).save(tmp_path / "mine.safetensors")
    mine = STRUCTGUARD | {"label": "mine", "anchors": "mine.safetensors"}
    made = STRUCTGUARD | {"label": "made", "anchors": {"encoder": "minilm"}}
    report = run_bench(load_grid(write(methods=[ROWS[0], mine, made])), tmp_path / "out")
    assert not report.failed
    found = records(tmp_path / "out")
    assert found["mine"].hashes.anchors == Anchors.load(tmp_path / "mine.safetensors").fingerprint()
    assert found["made"].request["anchors"] == {"attributes": None, "encoder": "minilm"}
    assert len({one.hashes.anchors for one in found.values()}) == 3
    assert len({one.hashes.model_after for one in found.values()}) == 3


def test_anchors_are_encoded_once_for_all_workers(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept by what they are made of: other attributes are encoded anew."""
    grid = load_grid(write(methods=[STRUCTGUARD | {"label": "made", "anchors": {"encoder": "minilm"}}]))
    (cell, *_) = expand(grid)
    cache = tmp_path / "cache"
    first = Opening(grid, cache)
    classifier, split = first.problem(cell)
    made = first.anchors(cell, classifier, split)

    def refuse(*_: Any, **__: Any) -> Anchors:
        raise AssertionError("encoded again")

    monkeypatch.setattr("stakes.bench.opening.build_anchors", refuse)
    again = Opening(grid, cache).anchors(cell, classifier, split)
    assert made is not None
    assert again is not None
    assert again.fingerprint() == made.fingerprint()
    assert again.provenance == made.provenance
    (kept,) = (cache / "anchors").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-9])
    with pytest.raises(AssertionError, match="encoded again"):  # a damaged file is no answer
        Opening(grid, cache).anchors(cell, classifier, split)
    kept.write_bytes(whole)
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({name: [f"looks like {name}"] for name in classifier.class_names}))
    source = AnchorSource(attributes=str(mine))
    other = cell.entry.model_copy(update={"anchors": source})
    with pytest.raises(AssertionError, match="encoded again"):
        Opening(grid, cache).anchors(replace(cell, entry=other), classifier, split)
