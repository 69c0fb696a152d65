"""Runs that were interrupted or damaged go on as if nothing had happened; other requests are refused."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from api_runs import SETTINGS, interrupt, model_bytes, run
from stakes.anchors.anchors import Anchors
from stakes.data.forget import ForgetSplit
from stakes.errors import ModelError, RunFolderError
from stakes.models import Classifier
from tinydigits import NAMES, digits_model, known, split


@pytest.mark.parametrize(
    ("phase", "at"),
    [
        ("evaluate before", 0),
        ("evaluate before", 163),
        ("probes", 0),
        ("probes", 3),
        ("probes", 9),
        ("unlearn", 1),
        ("unlearn", 2),
        ("unlearn", 4),
        ("evaluate after", 0),
        ("evaluate after", 163),
    ],
)
def test_interrupted_and_resumed_is_as_if_nothing_had_happened(unbroken, tmp_path, phase, at):
    call = {"out": tmp_path / "run", "probe_chunk": 3}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cache", progress=interrupt(phase, at), **call)
    assert not (tmp_path / "run" / "record.json").exists()
    result = run(tmp_path / "cache", **call)
    uncut = run(tmp_path / "cache 2", out=tmp_path / "run 2", probe_chunk=3)
    assert model_bytes(tmp_path / "run") == model_bytes(tmp_path / "run 2")
    assert result.record.digest() == uncut.record.digest()
    assert result.history == uncut.history
    assert not (tmp_path / "run" / "state").exists()


def test_interrupted_again_and_again(unbroken, tmp_path):
    steps = unbroken[1].record.steps
    for at in range(1, steps):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cache", out=tmp_path / "run", progress=interrupt("unlearn", at))
    result = run(tmp_path / "cache", out=tmp_path / "run")
    assert model_bytes(tmp_path / "run") == model_bytes(unbroken[0] / "run")
    assert result.history == unbroken[1].history


def test_a_damaged_state_starts_the_steps_again(unbroken, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cache", out=tmp_path / "run", progress=interrupt("unlearn", 3))
    state = tmp_path / "run" / "state" / "job.pt"
    state.write_bytes(state.read_bytes()[:-100])
    told = []
    run(
        tmp_path / "cache",
        out=tmp_path / "run",
        progress=lambda phase, done, *_, **__: told.append((phase, done)),
    )
    assert ("unlearn", 1) in told
    assert model_bytes(tmp_path / "run") == model_bytes(unbroken[0] / "run")


def changed_forget() -> ForgetSplit:
    return ForgetSplit(forget=known().subset([5, 6]), test=split().test, retain=split().retain)


DIFFERENT: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "settings.lr": {"settings": SETTINGS | {"lr": 0.02}},
    "method": {"method": "neggrad", "settings": {}},
    "hashes.forget_set": {"forget": changed_forget},
    "hashes.test_set": {"forget": lambda: ForgetSplit(forget=split().forget, retain=split().retain)},
    "hashes.retain_set": {"forget": lambda: ForgetSplit(forget=split().forget, test=split().test)},
    "hashes.model": {"model": lambda: digits_model("small")},
    "hashes.anchors": {"anchors": Anchors(torch.eye(10, 12).roll(1, 0), NAMES)},
    "request.note": {"request": {"note": "x"}},
    "retain_sample": {"retain_sample": 5},
}


@pytest.mark.parametrize("difference", DIFFERENT)
def test_another_request_on_the_same_folder_is_refused(unbroken, tmp_path, difference):
    call = {name: value() if callable(value) else value for name, value in DIFFERENT[difference].items()}
    before = model_bytes(unbroken[0] / "run")
    with pytest.raises(RunFolderError, match="another request") as caught:
        run(tmp_path, out=unbroken[0] / "run", **call)
    if difference != "method":
        assert difference in str(caught.value)
    assert model_bytes(unbroken[0] / "run") == before


def test_another_normalisation_is_another_request(unbroken, tmp_path):

    model = digits_model("resnet10")
    other = Classifier.from_network(model.to_network(), class_names=NAMES, input_size=(1, 8, 8))
    assert other.fingerprint() == model.fingerprint()
    with pytest.raises(RunFolderError, match=r"hashes\.model_config"):
        run(tmp_path, out=unbroken[0] / "run", model=other)


def test_device_and_pace_may_change_between_calls(unbroken, tmp_path):
    again = run(
        tmp_path, out=unbroken[0] / "run", eval_batch=7, checkpoint_seconds=1, probe_chunk=5, device="auto"
    )
    assert again.record == unbroken[1].record


def test_a_damaged_result_is_not_handed_out(unbroken, tmp_path):
    shutil.copytree(unbroken[0] / "run", tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError):
        run(tmp_path, out=tmp_path / "run")


@pytest.mark.parametrize("at", [1, 5])
def test_interrupted_before_the_step_limit(tmp_path, at):
    gentle = SETTINGS | {"lr": 1e-6, "max_steps": 5}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", out=tmp_path / "cut", settings=gentle, progress=interrupt("unlearn", at))
    run(tmp_path / "c", out=tmp_path / "cut", settings=gentle)
    run(tmp_path / "c", out=tmp_path / "uncut", settings=gentle)
    assert model_bytes(tmp_path / "cut") == model_bytes(tmp_path / "uncut")
