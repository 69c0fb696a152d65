"""What a call gives: a model, a record, and the same again."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from api_runs import SETTINGS, run
from stakes.anchors.anchors import Anchors
from stakes.api import unlearn
from stakes.errors import ConfigError
from stakes.methods import StructGuard
from tinydigits import NAMES, anchors, digits_model, split


def test_forgets_and_says_so(unbroken):
    folder, result = unbroken
    record, images = result.record, split().forget
    assert record.forgotten
    assert record.stop_reason == "forgotten"
    assert record.forget_accuracy == 0.0
    assert record.steps == len(result.history) >= 4, "too short a run to interrupt"
    assert record.before.forget_accuracy == 100.0
    assert record.already_misclassified == 0
    assert record.verdict.startswith("Forgotten")
    predicted = result.classifier(images.batch(slice(None))).argmax(1)
    assert bool((predicted != images.labels).all())
    test = split().test
    right = (result.classifier(test.batch(slice(None))).argmax(1) == test.labels).float().mean()
    assert record.test_accuracy == pytest.approx(100 * float(right))
    assert {path.name for path in (folder / "run").iterdir()} == {
        "config.yaml",
        "record.json",
        "history.jsonl",
        "anchors.safetensors",
        "model.safetensors",
        "config.json",
    }


def test_costs_are_counted(unbroken):
    phases = {phase.name: phase for phase in unbroken[1].record.phases}
    assert set(phases) == {"evaluate before", "probes", "unlearn", "evaluate after"}
    measured = 3 + 60 + 100
    assert phases["evaluate before"].forward_images == phases["evaluate after"].forward_images == measured
    assert phases["probes"].forward_images == phases["probes"].backward_images == 3 * 3 * 4
    steps, probes = unbroken[1].record.steps, 9
    # A step sends its forget images and probes both ways; the importance does so for every probe once.
    sizes = [(4, 4, 1)[step % 3] + (2, 1)[step % 2] for step in range(steps)]
    assert phases["unlearn"].backward_images == sum(sizes) + probes
    assert phases["unlearn"].forward_images > phases["unlearn"].backward_images


def test_the_record_is_complete(unbroken):
    record, forget = unbroken[1].record, split()
    assert record.method == "structguard"
    assert record.preset == "paper"
    assert record.seed == 0
    assert record.settings["lr"] == 0.003
    assert record.settings["probes"]["epsilon"] == 1.0
    assert record.hashes.model_before == digits_model("resnet10").fingerprint()
    assert record.hashes.model_after == unbroken[1].classifier.fingerprint() != record.hashes.model_before
    assert record.hashes.forget_set == forget.forget.fingerprint()
    assert record.hashes.test_set == forget.test.fingerprint()
    assert record.hashes.retain_set == forget.retain.fingerprint()
    assert record.hashes.anchors == anchors().fingerprint()
    assert record.hashes.probes
    assert record.versions["torch"]


@pytest.mark.parametrize("kind", ["small", "resnet10"])
def test_who_names_nothing_gets_the_default_preset(kind):
    """On small grey images as well, and with the use of the model kept."""
    record = unlearn(digits_model(kind), split(), anchors=anchors(), device="cpu").record
    assert (record.method, record.preset) == ("structguard", "default")
    usual = StructGuard.configure("default").for_images(len(split().forget))
    assert record.settings == usual.settings.model_dump(mode="json")
    assert record.forgotten
    assert record.test_accuracy > 80


def test_the_model_given_is_not_changed(tmp_path):
    model = digits_model("resnet10").clone().train().requires_grad_(True)
    before = model.fingerprint()
    run(tmp_path, model=model)
    assert model.fingerprint() == before
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_in_memory_gives_what_a_folder_gives(unbroken, tmp_path):
    result = run(tmp_path)
    assert result.record.digest() == unbroken[1].record.digest()
    assert result.history == unbroken[1].history
    assert result.classifier.fingerprint() == unbroken[1].classifier.fingerprint()
    pixels = split().test.batch(slice(None))
    assert torch.equal(result.classifier(pixels), unbroken[1].classifier(pixels))


def test_takes_pairs_of_pixels_and_labels(unbroken, tmp_path):
    sets_of = {name: getattr(split(), name) for name in ("forget", "test", "retain")}
    pairs = {name: (images.batch(slice(None)), images.labels) for name, images in sets_of.items()}
    result = run(tmp_path, **pairs)
    assert result.classifier.fingerprint() == unbroken[1].classifier.fingerprint()
    assert result.record.after == unbroken[1].record.after
    lonely = run(tmp_path, forget=pairs["forget"])
    assert lonely.record.test_accuracy is None
    assert lonely.record.retain_accuracy is None
    assert lonely.record.forgotten


def test_a_configured_method_is_taken(unbroken, tmp_path):
    result = run(tmp_path, method=StructGuard.configure("paper", SETTINGS), settings=None)
    assert result.classifier.fingerprint() == unbroken[1].classifier.fingerprint()
    with pytest.raises(ConfigError, match="both ways"):
        run(tmp_path, method=StructGuard.configure(), settings=SETTINGS)


def test_another_seed_gives_another_model(unbroken, tmp_path):
    assert run(tmp_path, seed=1).classifier.fingerprint() != unbroken[1].classifier.fingerprint()


def test_rows_of_anchors_are_found_by_name(unbroken, tmp_path):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    shuffled = Anchors(anchors().matrix[order], tuple(NAMES[row] for row in order))
    assert run(tmp_path, anchors=shuffled).record.digest() == unbroken[1].record.digest()
    # Negative control: rows without names are taken in their own order.
    moved = Anchors(anchors().matrix[order])
    assert run(tmp_path, anchors=moved).classifier.fingerprint() != unbroken[1].classifier.fingerprint()


# -- run folders -----------------------------------------------------------------------------------------------


def test_two_folders_hold_the_same_bytes(unbroken, tmp_path):
    run(tmp_path / "cache", out=tmp_path / "run")
    names = {"config.yaml", "history.jsonl", "model.safetensors", "config.json"}
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (unbroken[0] / "run" / name).read_bytes(), name


def test_the_same_call_again_does_no_work(unbroken, tmp_path):
    folder, result = unbroken
    before = {path: path.read_bytes() for path in (folder / "run").iterdir()}
    told = []
    again = run(tmp_path / "no cache", out=folder / "run", progress=lambda *args, **_: told.append(args))
    assert not told
    assert not (tmp_path / "no cache").exists()
    assert again.record == result.record
    assert again.history == result.history
    assert again.classifier.fingerprint() == result.classifier.fingerprint()
    assert {path: path.read_bytes() for path in (folder / "run").iterdir()} == before


SCRIPT = """
import sys, torch
from stakes import load_checkpoint
model = load_checkpoint(sys.argv[1])
torch.set_num_threads(1)
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
"""


def test_a_fresh_process_gives_the_same_logits(unbroken, tmp_path):
    pixels = split().test.batch(slice(None))
    torch.save(pixels, tmp_path / "pixels.pt")
    paths = [str(unbroken[0] / "run"), str(tmp_path / "pixels.pt"), str(tmp_path / "logits.pt")]
    subprocess.run([sys.executable, "-c", SCRIPT, *paths], check=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wanted = unbroken[1].classifier(pixels)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), wanted)


def test_gradients_are_recorded_whatever_the_caller_does_without(unbroken, tmp_path):
    with torch.no_grad():
        again = run(tmp_path)
    assert again.record.hashes.model_after == unbroken[1].record.hashes.model_after
