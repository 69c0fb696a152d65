"""What a dry run says, against what a run takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tinydigits
from stakes import cli
from stakes.api import unlearn
from stakes.config import RunSettings
from stakes.console import estimate_tables
from stakes.estimate import Estimate, _seconds_per_image, estimate, saved_bytes
from stakes.methods import find_method
from stakes.models import Classifier
from stakes.models.checkpoint import save_checkpoint
from stakes.records import Phase

FEW = tinydigits.FEW_PROBES | {"max_steps": 3, "probe_batch": 6}


@pytest.fixture(scope="module")
def run() -> RunSettings:
    return RunSettings(device="cpu")


@pytest.mark.parametrize("name", ["structguard", "neggrad"])
def test_a_run_stays_within_its_estimate(tmp_path: Path, run: RunSettings, name: str) -> None:
    settings = FEW | {"lr": 1e-6} if name == "structguard" else {"max_steps": 3, "lr": 1e-6}
    method = find_method(name).configure("paper" if name == "structguard" else None, settings)
    model, split, cache = tinydigits.digits_model(), tinydigits.split(3), tmp_path / "cache"
    found = estimate(model, split, method, run, out=tmp_path / "run", cache=cache)
    assert not any(tmp_path.iterdir()), "nothing is written"
    result = unlearn(model, split, anchors=tinydigits.anchors(), method=method, cache=cache, device="cpu")
    for phase in result.record.phases:
        bound = found.phases[phase.name]
        assert phase.forward_images <= bound.forward, phase
        assert phase.backward_images <= bound.backward, phase
    assert result.record.steps == found.steps == 3
    written = sum(file.stat().st_size for file in cache.glob("probes/*/*.safetensors"))
    if name == "structguard":
        assert 0 < written - found.disk["probes (cache)"] < 3 * 4096, "labels and headers beside the pixels"
        again = estimate(model, split, method, run, out=tmp_path / "run", cache=cache)
        assert again.phases["probes"].forward == 0
        assert "probes (cache)" not in again.disk
    else:
        assert written == found.phases["probes"].forward == 0
    assert found.seconds > 0
    assert min(found.free.values()) > 0


EVERYTHING = {
    "probes.kind": "inverted",
    "probes.inversion.batches": 2,
    "probes.inversion.batch": 6,
    "probes.inversion.iterations": 3,
    "retention": "soft",
    "probe_mixing": True,
    "variants": 2,
    "precondition": "patches",
    "settle": 9,
    "max_steps": 3,
    "probe_batch": 6,
    "lr": 1e-6,
}


def test_inverted_probes_and_all_that_goes_with_them(tmp_path: Path, run: RunSettings) -> None:
    model, split, cache = tinydigits.digits_model(), tinydigits.split(3), tmp_path / "cache"

    def look(**changes: Any) -> Estimate:
        method = find_method("structguard").configure("paper", EVERYTHING | changes)
        return estimate(model, split, method, run, out=tmp_path / "run", cache=cache)

    def do(**changes: Any) -> dict[str, Phase]:
        settings = EVERYTHING | changes
        call = {"preset": "paper", "settings": settings, "cache": cache, "device": "cpu"}
        result = unlearn(model, split, anchors=tinydigits.anchors(), **call)  # type: ignore[arg-type]
        return {phase.name: phase for phase in result.record.phases}

    found = look()
    assert not any(tmp_path.iterdir()), "nothing is written"
    for name, phase in do().items():
        bound = found.phases[name]
        assert phase.forward_images <= bound.forward, phase
        assert phase.backward_images <= bound.backward, phase
        if name == "probes":
            assert phase.forward_images == bound.forward == phase.backward_images == bound.backward == 12 * 3
    written = sum(file.stat().st_size for file in cache.glob("probes/*/*.safetensors"))
    assert 0 < written - found.disk["probes (cache)"] < 2 * 4096, "labels and headers beside the pixels"
    assert look().phases["probes"].forward == 0
    assert "probes (cache)" not in look().disk
    more = look(**{"probes.inversion.batches": 5})
    assert more.phases["probes"].forward == 3 * 6 * 3, "two of five are there"
    assert look(**{"probes.inversion.iterations": 4}).phases["probes"].forward == 12 * 4
    step = "activations of a step"
    assert found.memory[step] == saved_bytes(model) * (3 * 3 + 6), (
        "three images, two copies of each, six probes"
    )


def test_memory_of_a_step_grows_with_the_network(run: RunSettings) -> None:
    def network(width: int) -> Classifier:
        layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10)
        )
        return Classifier.from_network(layers, class_names=tinydigits.NAMES, input_size=tinydigits.SIZE)

    # The input, and the outputs of ReLU, each once; flattening shares its storage; a softmax of 10 logits.
    assert saved_bytes(network(8)) == pytest.approx(4 * (64 + 8 * 64 + 10), abs=64)
    assert saved_bytes(network(16)) > 1.8 * saved_bytes(network(8))


def test_measuring_changes_nothing(run: RunSettings, tmp_path: Path) -> None:
    model = tinydigits.digits_model()
    before, state = model.fingerprint(), torch.random.get_rng_state()
    method = find_method("neggrad").configure()
    estimate(model, tinydigits.split(3), method, run, out=tmp_path, cache=tmp_path)
    assert model.fingerprint() == before
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("more", [["--json"], []])
def test_the_command_says_it_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    save_checkpoint(tinydigits.digits_model("resnet10"), tmp_path / "model")
    words: list[Any] = ["unlearn", "--model", tmp_path / "model", "--data", "digits", "--forget", "random:4"]
    words += ["--out", tmp_path / "run", "--cache", tmp_path / "cache", "--device", "cpu", "--dry-run", *more]
    words += ["--preset", "paper"]
    monkeypatch.setattr(sys, "argv", ["stakes", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    said = capsys.readouterr().out
    if more:
        found = json.loads(said)
        assert found["phases"]["probes"]["forward"] == 4 * 20 * 100
        assert found["memory_bytes"] == sum(found["memory"].values())
    else:
        assert "8,000" in said
        assert "free where cache goes" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_one_stalled_pass_is_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a pass of one image can take seconds: a clock that counts 10 ms an image, and one stall."""
    clock, passes = [0.0], []

    def work(count: int) -> None:
        passes.append(count)
        clock[0] += 0.01 * count + (30.0 if len(passes) == 2 else 0.0)

    monkeypatch.setattr("stakes.estimate.time.perf_counter", lambda: clock[0])
    assert _seconds_per_image(work, 256, torch.device("cpu")) == pytest.approx(0.01)
    assert max(passes) == 64


def test_a_run_that_ends_with_its_schedule_stays_within_what_is_said_of_it(
    tmp_path: Path, run: RunSettings
) -> None:
    inversion = {
        "probes.inversion.batches": 1,
        "probes.inversion.batch": 16,
        "probes.inversion.iterations": 2,
    }
    method = find_method("structguard").configure(
        "default", inversion | {"settle": 40, "max_steps": 200, "del_weight": 30.0}
    )
    model, split, told = tinydigits.digits_model(), tinydigits.split(3), list[tuple[int, int]]()

    def progress(phase: str, done: int, total: int, **figures: float) -> None:
        if phase == "unlearn":
            told.append((done, total))

    found = estimate(model, split, method, run, out=tmp_path / "run", cache=tmp_path / "cache")
    assert (found.schedule, found.steps) == (40, 200)
    record = unlearn(model, split, method=method, device="cpu", progress=progress).record
    unlearned = next(phase for phase in record.phases if phase.name == "unlearn")
    assert record.forgotten
    assert record.steps == 40
    assert unlearned.forward_images <= found.scheduled.forward < found.phases["unlearn"].forward
    assert unlearned.backward_images <= found.scheduled.backward < found.phases["unlearn"].backward
    assert 0 < found.scheduled_seconds < found.seconds
    assert found.to_json()["scheduled_seconds"] == found.scheduled_seconds
    assert told == [(step, 40) for step in range(1, 41)]
    said = str(estimate_tables(found)[2])
    assert "a schedule of 40 steps, and up to 200 until all is forgotten" in said


def test_progress_goes_on_by_the_limit_after_the_schedule() -> None:
    """A run that forgets too slowly: its bar is not full while it goes on, and is when it ends."""
    still = {"lr": 1e-9, "settle": 3, "max_steps": 6, "recalibrate": False}
    told = list[tuple[int, int]]()
    unlearn(
        tinydigits.digits_model(),
        tinydigits.split(3),
        preset="default",
        settings=still | {"probes.inversion.batches": 1, "probes.inversion.iterations": 1},
        device="cpu",
        progress=lambda phase, done, total, **_: told.append((done, total)) if phase == "unlearn" else None,
    )
    assert told == [(1, 3), (2, 3), (3, 3), (4, 6), (5, 6), (6, 6)]


def test_a_method_without_a_schedule(tmp_path: Path, run: RunSettings) -> None:
    method = find_method("neggrad").configure(None, {"max_steps": 3})
    found = estimate(
        tinydigits.digits_model(), tinydigits.split(3), method, run, out=tmp_path, cache=tmp_path
    )
    assert found.schedule == 0
    assert "up to 3 steps; most methods stop" in str(estimate_tables(found)[2])
