"""What is refused before any work, and how runs end that do not forget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from api_runs import SETTINGS, run
from stakes.anchors.anchors import Anchors
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.errors import AnchorError, ConfigError, DataError, NumericalError
from stakes.models import Classifier
from tinydigits import NAMES, Small, digits_model, known, sets, split


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"method": "magic"}, ConfigError, r"structguard.*'magic'"),
        ({"preset": "huge"}, ConfigError, r"authors.*paper.*'huge'"),
        ({"settings": {"learning": 1}}, ConfigError, r"'learning'.*lr"),
        ({"settings": {"lr": -1}}, ConfigError, "lr"),
        ({"sed": 1}, ConfigError, "sed"),
        ({"device": "abacus"}, ConfigError, "device"),
        ({"anchors": Anchors(torch.eye(3), ("ant", "bee", "cow"))}, AnchorError, "'0'"),
        ({"anchors": Anchors(torch.eye(9, 12))}, AnchorError, "10 rows"),
        ({"test": sets()[1]}, DataError, "both ways"),
        ({"forget": (torch.rand(2, 1, 8, 8), [0, 10])}, DataError, "label of image 1"),
        ({"forget": (torch.rand(2, 1, 8, 8), [0])}, DataError, "labels"),
        ({"forget": (255 * torch.ones(2, 1, 8, 8), [0, 1])}, DataError, "divide by 255"),
        ({"forget": (torch.rand(2, 1, 10, 10), [0, 1])}, DataError, r"image size.*\(1, 8, 8\).*with_size"),
        ({"forget": (torch.rand(2, 3, 8, 8), [0, 1])}, DataError, "image size"),
        ({"forget": [torch.rand(2, 1, 8, 8)]}, DataError, "pair of pixels and labels"),
    ],
)
def test_bad_calls_are_refused_before_any_work(tmp_path, call, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path / "cache", out=tmp_path / "run", **call)
    assert not list(tmp_path.iterdir())


def test_other_classes_are_refused(tmp_path):
    reordered = ImageSet.from_tensors(torch.rand(1, 1, 8, 8), [0], tuple(reversed(NAMES)))
    with pytest.raises(DataError, match="Names and order"):
        run(tmp_path, forget=reordered)
    with pytest.raises(DataError, match="one image or more"):
        run(tmp_path, forget=known().subset([]))
    with pytest.raises(DataError, match=r"class_names=\[\.\.\.\]"):
        run(tmp_path, model=Small(), forget=(torch.rand(1, 1, 8, 8), [0]))


def test_a_method_that_trains_on_retained_images_needs_them(tmp_path):
    with pytest.raises(DataError, match="retain set"):
        run(tmp_path, method="unsir", settings={}, forget=ForgetSplit(forget=split().forget))


def mislabelled(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with a label that the model does not give them."""
    images = known().subset(range(3, 3 + count))
    return images.batch(slice(None)), (images.labels + 1) % 10


def test_images_misclassified_before_are_counted(tmp_path):
    right, wrong = split().forget, mislabelled(2)
    pixels = torch.cat([right.batch(slice(None)), wrong[0]])
    result = run(
        tmp_path, forget=(pixels, torch.cat([right.labels, wrong[1]])), method="neggrad", settings={}
    )
    assert result.record.already_misclassified == 2
    assert result.record.before.forget_accuracy == 60.0


@pytest.mark.parametrize("method", ["structguard", "neggrad"])
def test_all_misclassified_before(tmp_path, method):
    settings = SETTINGS if method == "structguard" else {}
    result = run(
        tmp_path / "c", forget=mislabelled(3), method=method, settings=settings, out=tmp_path / "run"
    )
    record = result.record
    assert record.stop_reason == "already forgotten"
    assert record.forgotten
    assert (record.steps, record.already_misclassified, result.history) == (0, 3, [])
    assert record.hashes.model_after == record.hashes.model_before
    assert result.classifier.fingerprint() == digits_model("resnet10").fingerprint()


def test_the_step_limit_is_no_error_and_no_success(tmp_path):
    gentle = SETTINGS | {"lr": 1e-6, "max_steps": 5}
    result = run(tmp_path / "cache", out=tmp_path / "run", settings=gentle)
    record = result.record
    assert (record.stop_reason, record.forgotten, record.steps) == ("step limit", False, 5)
    assert (
        record.verdict
        == "NOT forgotten: 3 of 3 images to forget are still recognised after 5 steps (step limit)."
    )
    saved = json.loads((tmp_path / "run" / "record.json").read_text())
    assert saved["forgotten"] is False


@pytest.mark.parametrize("method", ["structguard", "neggrad"])
@pytest.mark.parametrize("lr", [1e10, 1e30, 1e38])
def test_divergence_is_an_error_never_a_success(tmp_path, method, lr):
    settings = (SETTINGS if method == "structguard" else {"max_steps": 50}) | {"lr": lr, "momentum": 0.0}
    # Two labels, so that no single class which a ruined model may answer misses both by luck.
    forget = known().subset([0, 1, 2])
    with pytest.raises(NumericalError) as caught:
        run(
            tmp_path / "c",
            forget=forget,
            method=method,
            settings=settings,
            out=tmp_path / "run",
            checkpoint_seconds=1e-9,
        )
    assert caught.value.exit_code == 6
    assert not (tmp_path / "run" / "record.json").exists()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    state = torch.utils._pytree.tree_flatten(_state(tmp_path / "run"))[0]
    assert all(bool(torch.isfinite(v).all()) for v in state if isinstance(v, torch.Tensor)), (
        "a ruined state was kept"
    )


def _state(folder: Path) -> Any:
    from stakes.runs import RunFolder

    return RunFolder(folder).load() or {}


def test_twins_among_the_retained_images_are_told(tmp_path):
    """An image retained under the same pixels and label cannot be kept while its twin is forgotten."""
    train, _ = sets()
    rows = known().subset(range(2))
    pixels = torch.cat([rows.batch([0, 0, 1]), train.batch(slice(100, 110))])
    labels = torch.cat([rows.labels[[0, 0, 1]], train.labels[100:110]])
    retain = ImageSet.from_tensors(pixels, labels, NAMES)
    short = {"settings": SETTINGS | {"max_steps": 1}}
    (note,) = run(tmp_path, forget=ForgetSplit(forget=rows, retain=retain), **short).record.notes
    assert note.startswith("3 retained images have the same pixels and label as an image to forget")
    (note,) = run(
        tmp_path, forget=ForgetSplit(forget=rows, retain=retain.subset([2, 5])), **short
    ).record.notes
    assert note.startswith("1 retained image has the same pixels and label")
    assert run(tmp_path, **short).record.notes == ()


def test_a_model_that_only_guesses_is_told_of(tmp_path):
    model = digits_model("resnet10").clone()
    model.class_names = NAMES
    model.head.weight.data.copy_(model.head.weight.roll(1, dims=0).clone())
    model.head.bias.data.copy_(model.head.bias.roll(1, dims=0).clone())
    record = run(tmp_path, model=model, preset="default", settings={}, anchors=None).record
    assert record.steps == 0
    assert record.verdict.startswith("Nothing was unlearned: all")
    assert "no better than guessing" in record.notes[0]
    assert not run(tmp_path, method="before", settings={}).record.notes


@pytest.mark.parametrize(
    ("norm", "kind", "told"),
    [("none", "inverted", True), ("none", "adversarial", False), ("batch", "inverted", False)],
)
def test_that_probes_know_less_without_batchnorm_is_told(tmp_path, norm, kind, told):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.BatchNorm2d(1) if norm == "batch" else nn.Identity()
        network = nn.Sequential(layer, nn.Flatten(), nn.Linear(64, 10)).eval()
    model = Classifier.from_network(network, class_names=NAMES, input_size=(1, 8, 8))
    few = SETTINGS | {"max_steps": 1, "probes.kind": kind, "probes.inversion.iterations": 1}
    notes = run(tmp_path, model=model, settings=few).record.notes
    found = [note for note in notes if note.startswith("The model has no BatchNorm")]
    assert len(found) == int(told)
