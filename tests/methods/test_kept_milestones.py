"""Milestones: what is kept, that it repeats, and that keeping it changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tinydigits
from stakes.analyses.snapshots import read_snapshot, snapshots
from stakes.api import unlearn
from stakes.config import RunSettings
from stakes.errors import ConfigError
from stakes.methods.milestones import SHARES, Milestones
from stakes.runs import RunFolder
from stakes.unlearning import Unlearned

CALL: dict[str, Any] = {
    "method": "neggrad",
    "settings": {"lr": 0.004, "max_steps": 80},
    "device": "cpu",
    "measure_every": 1,
}


def forget(out: Path | None, **call: Any) -> Unlearned:
    return unlearn(tinydigits.digits_model("resnet10"), tinydigits.split(12), out=out, **CALL | call)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Unlearned]:
    out = tmp_path_factory.mktemp("kept") / "run"
    return out, forget(out, milestones=True)


def test_each_share_once_and_in_order() -> None:
    told: list[int] = []
    marks = Milestones(lambda step, state: told.append(step))
    model = tinydigits.digits_model("small")
    for step, accuracy in enumerate((100.0, 50.1, 50.0, 60.0, 10.0, 5.0, 5.0, 0.0, 0.0)):
        marks.measured(step, accuracy, model)
    assert told == [2, 4, 5, 7]
    again = Milestones(lambda step, state: told.append(step))
    again.load_state_dict(marks.state_dict())
    assert again.newly_reached(0.0) == ()


def test_the_weights_kept_are_those_of_the_history(kept: tuple[Path, Unlearned]) -> None:
    out, result = kept
    split = tinydigits.split(12)
    gone = {int(row["step"]): 100 - row["forget_accuracy"] for row in result.history}
    wanted = {next((s for s in sorted(gone) if gone[s] >= share), None) for share in SHARES} - {None}
    found = dict(snapshots(out, 1000))
    assert set(found) == wanted
    assert len(found) >= 3, "the forgetting went too fast to test anything"
    for step, path in found.items():
        classifier = read_snapshot(result.classifier, path)
        wrong = classifier(split.forget.batch(slice(None))).argmax(1) != split.forget.labels
        assert 100 * float(wrong.float().mean()) == pytest.approx(gone[step], abs=1e-4)
    assert result.record.stop_reason == "forgotten"
    last = load_file(found[result.record.steps])
    assert all(torch.equal(value, last[name]) for name, value in result.classifier.exported_state().items())


def test_nothing_else_changes(kept: tuple[Path, Unlearned], tmp_path: Path) -> None:
    out, result = kept
    plain = forget(tmp_path / "run")
    assert plain.history == result.history
    assert plain.record.hashes == result.record.hashes
    assert not (tmp_path / "run" / "snapshots").exists()
    assert result.record.run == plain.record.run | {"milestones": True}
    assert plain.record.phases[-1].forward_images == result.record.phases[-1].forward_images
    for name in ("model.safetensors", "history.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_resumed_run_keeps_the_same_files(kept: tuple[Path, Unlearned], tmp_path: Path) -> None:
    out, result = kept
    steps = sorted(dict(snapshots(out, 1000)))
    for stop in (steps[0], steps[1] + 1):

        def interrupt(phase: str, done: int, total: int, stop: int = stop, **figures: float) -> None:
            if phase == "unlearn" and done == stop:
                raise Killed

        with pytest.raises(Killed):
            # The last state that was saved lies before the interruption: steps are taken again.
            forget(tmp_path / "run", milestones=True, checkpoint_seconds=1e-9, progress=interrupt)
    assert forget(tmp_path / "run", milestones=True).record.digest() == result.record.digest()
    files = {path.name: path.read_bytes() for path in (tmp_path / "run" / "snapshots").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (out / "snapshots").iterdir()}


def test_the_end_is_measured_where_the_last_step_was_not(tmp_path: Path) -> None:
    settings = {"lr": 0.004, "max_steps": 44}
    result = forget(tmp_path / "run", milestones=True, measure_every=1000, settings=settings)
    assert result.record.stop_reason == "step limit"
    assert result.record.after.forget_accuracy <= 50, "too few steps to test anything"
    assert [step for step, _ in snapshots(tmp_path / "run", 9)] == [44]


def test_a_path_that_does_not_work_yet_is_no_milestone(tmp_path: Path) -> None:
    """A projector that starts at random misclassifies everything at once."""
    settings = tinydigits.FEW_PROBES | {"max_steps": 4}
    found = {}
    for least in (0.0, 1.0):
        out = tmp_path / f"run-{least}"
        more = {"stop_probe_accuracy": least, "lr": 1e-5, "projector_lr": 1e-5, "reg_weight": 0}
        result = forget(
            out,
            method="structguard",
            preset="authors",
            settings=settings | more,
            anchors=tinydigits.anchors(),
            cache=tmp_path / "cache",
            milestones=True,
        )
        assert result.history[0]["forget_accuracy"] <= 50, "else there is nothing to leave out"
        found[least] = snapshots(out, 9)
    assert found[0.0]
    assert found[1.0] == []


class Killed(BaseException):
    """What no handler expects."""


def test_a_kill_after_the_last_saved_step_loses_no_milestone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call: dict[str, Any] = {
        "method": "structguard",
        "preset": "paper",
        "settings": tinydigits.FEW_PROBES
        | {
            "max_steps": 3,
            "stop_probe_accuracy": 0.001,
            "projector": "none",
            "lr": 0.1,
            "reg_weight": 0,
            "align_weight": 0,
        },
        "anchors": tinydigits.anchors(),
        "cache": tmp_path / "cache",
        "milestones": True,
        "measure_every": 10,
        "checkpoint_seconds": 1e-9,
    }
    forget(tmp_path / "whole", **call)
    wanted = [step for step, _ in snapshots(tmp_path / "whole", 9)]
    assert wanted == [3]
    save = RunFolder.save

    def killed(folder: RunFolder, state: Any) -> None:
        save(folder, state)
        if state["step"] == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", killed)
        with pytest.raises(Killed):
            forget(tmp_path / "cut", **call)
    forget(tmp_path / "cut", **call)
    assert [step for step, _ in snapshots(tmp_path / "cut", 9)] == wanted


def test_milestones_need_a_folder() -> None:
    with pytest.raises(ConfigError, match="run folder"):
        forget(None, milestones=True)


def test_requests_without_milestones_are_told_as_before_there_were_any() -> None:
    assert "milestones" not in RunSettings().model_dump()
    assert RunSettings(milestones=True).model_dump(exclude={"device"})["milestones"] is True
    assert RunSettings().with_overrides({"milestones": True}).milestones
    assert not RunSettings(milestones=True).with_overrides({"milestones": False}).milestones
