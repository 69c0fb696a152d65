"""What trackers are told, that they cost nothing, and that they are closed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

import stakes
from stakes.errors import ConfigError, MissingExtraError
from stakes.tracking import Tracker, tracking
from tinydigits import digits_model, split

accelerate_tracking = pytest.importorskip("accelerate.tracking", reason="extra 'track' is not installed")
STEPS = 5


class Notebook(accelerate_tracking.GeneralTracker):  # type: ignore[misc, name-defined]
    """A user's own tracker: writes down what it is told."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self, fails_at: int | None = None, interrupts_at: int | None = None) -> None:
        super().__init__()
        self.fails_at, self.interrupts_at = fails_at, interrupts_at
        self.told: list[tuple[int | None, dict[str, float]]] = []
        self.calls: list[str] = []
        self.config: dict[str, Any] = {}

    @property
    def tracker(self) -> Any:
        return self.told

    def start(self) -> None:
        self.calls.append("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        if step == self.fails_at:
            raise OSError("the service is away")
        self.told.append((step, values))
        if step == self.interrupts_at:
            self.interrupts_at = None
            signal.raise_signal(signal.SIGINT)

    def finish(self) -> None:
        self.calls.append("finish")


def forget(tracked: Any, out: Path, **changes: Any) -> stakes.Unlearned:
    result = stakes.unlearn(
        digits_model(),
        split(),
        method="neggrad",
        settings={"max_steps": STEPS, "lr": 1e-6} | changes,
        out=out,
        cache=out.parent / "cache",
        device="cpu",
        progress=tracked.following(),
    )
    tracked.final(result.record)
    return result


def test_a_tracker_is_told_each_step_and_the_figures(tmp_path: Path) -> None:
    own = Notebook()
    with tracking([own], folder=tmp_path / "run", config={"seed": 0, "settings": {"lr": 1e-6}}) as tracked:
        result = forget(tracked, tmp_path / "run")
        assert own.calls == ["start"]
    assert own.calls == ["start", "finish"]
    assert own.config == {"seed": 0, "settings.lr": 1e-6}
    steps = [(step, values) for step, values in own.told if "after/test_accuracy" not in values]
    assert steps == [
        (row["step"], {k: v for k, v in row.items() if k != "step"}) for row in result.history if len(row) > 1
    ]
    assert len(steps) == STEPS
    step, figures = own.told[-1]
    assert step == result.record.steps
    assert figures["after/test_accuracy"] == result.record.test_accuracy
    assert figures["before/forget_accuracy"] == 100.0
    assert figures["forgotten"] == 0.0


def test_following_changes_nothing(tmp_path: Path) -> None:
    with tracking([Notebook()]) as tracked:
        followed = forget(tracked, tmp_path / "one")
    with tracking([]) as tracked:
        alone = forget(tracked, tmp_path / "two")
    assert followed.record.digest() == alone.record.digest()


def test_a_tracker_that_fails_is_let_go(tmp_path: Path) -> None:
    broken, sound = Notebook(fails_at=2), Notebook()
    with (
        pytest.warns(UserWarning, match="tracker notebook failed .* the service is away"),
        tracking([broken, sound]) as tracked,
    ):
        forget(tracked, tmp_path / "run")
    assert [step for step, _ in broken.told] == [1]
    assert [step for step, _ in sound.told] == [*range(1, STEPS + 1), STEPS]


def test_ctrl_c_closes_the_tracker_and_the_same_call_goes_on(tmp_path: Path) -> None:
    first = Notebook(interrupts_at=2)
    with pytest.raises(KeyboardInterrupt), tracking([first]) as tracked:
        forget(tracked, tmp_path / "run")
    assert first.calls == ["start", "finish"]
    second = Notebook()
    with tracking([second]) as tracked:
        resumed = forget(tracked, tmp_path / "run")
    told = [step for step, _ in first.told + second.told]
    assert told == [*range(1, STEPS + 1), STEPS], "no step twice, none left out, and the figures"
    assert len(second.told) > 1
    with tracking([]) as tracked:
        assert forget(tracked, tmp_path / "whole").record.digest() == resumed.record.digest()


def test_nothing_is_started_for_a_refused_or_finished_run(tmp_path: Path) -> None:
    refused = Notebook()
    with pytest.raises(ConfigError), tracking([refused]) as tracked:
        forget(tracked, tmp_path / "run", no_such_setting=1)
    assert refused.calls == []
    with tracking([]) as tracked:
        forget(tracked, tmp_path / "run")
    again = Notebook()
    with tracking([again], folder=tmp_path / "run") as tracked:
        forget(tracked, tmp_path / "run")
    assert again.calls == []


def test_tensorboard_reads_it_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="extra 'track' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    config = {"seed": 0, "settings": {"lr": 1e-6, "epsilons": (0.5, 1.0), "preset": None}}
    with tracking(["tensorboard"], folder=run, config=config) as tracked:
        result = forget(tracked, run)
    events = EventAccumulator(str(run / "tracking" / "stakes")).Reload()
    assert set(events.Tags()["scalars"]) >= {"loss", "after/test_accuracy", "forgotten"}
    losses = {event.step: event.value for event in events.Scalars("loss")}
    assert losses == pytest.approx({row["step"]: row["loss"] for row in result.history})
    (after,) = events.Scalars("after/test_accuracy")
    assert (after.step, after.value) == (STEPS, pytest.approx(result.record.test_accuracy))
    assert json.loads((run / "record.json").read_text())["forgotten"] is False


def test_unknown_and_missing_trackers_are_refused_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="expected tensorboard, wandb, mlflow, trackio, got 'clipboard'"):
        tracking(["clipboard"]).__enter__()
    with pytest.raises(ConfigError, match="expected a run folder"):
        tracking(["tensorboard"]).__enter__()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(MissingExtraError, match=r"wandb is not installed.*'stakes\[track\]' wandb"):
        tracking(["wandb"]).__enter__()


@pytest.mark.parametrize("name", Tracker)
def test_every_named_tracker_is_one_of_accelerates(name: str) -> None:
    assert name in accelerate_tracking.LOGGER_TYPE_TO_CLASS
