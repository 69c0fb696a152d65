"""Losses and figures of an unlearning in TensorBoard, W&B, MLflow or Trackio, through accelerate's trackers."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stakes.errors import ConfigError, MissingExtraError
from stakes.progress import Progress, silent
from stakes.records import Figures, Record

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "stakes"


class Tracker(StrEnum):
    """Trackers that can be named; each is the name of its package too."""

    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"
    trackio = "trackio"


class Tracking:
    """One run followed by some trackers. Made by `tracking`.

    A tracker is started by the first thing it is told, so a refused request leaves no empty run behind. One that
    fails later is let go with a warning: it must not cost the unlearning.
    """

    def __init__(
        self, trackers: Sequence[GeneralTracker], config: Mapping[str, str | float | int | bool | None]
    ) -> None:
        self._waiting = list(trackers)
        self._live: list[GeneralTracker] = []
        self._config = dict(config)

    def following(self, progress: Progress = silent) -> Progress:
        """The same progress, with each unlearning step told to the trackers too."""

        def report(phase: str, done: int, total: int, **figures: float) -> None:
            progress(phase, done, total, **figures)
            if phase == "unlearn" and figures:
                self.log(figures, done)

        return report

    def final(self, record: Record) -> None:
        """Tell the accuracies before and after, in percent, and whether the forget set is forgotten (1 or 0)."""
        values = _named("before", record.before) | _named("after", record.after)
        self.log(values | {"forgotten": float(record.forgotten)}, record.steps)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Tell numbers of one step to every tracker that still works."""
        while self._waiting:
            tracker = self._waiting.pop(0)
            if self._try(tracker, "start"):
                self._live.append(tracker)
                self._try(tracker, "store_init_configuration", self._config)
        for tracker in list(self._live):
            self._try(tracker, "log", dict(values), step=step)

    def finish(self) -> None:
        """Close all trackers, also after an interruption; what they were told stays."""
        self._waiting.clear()
        for tracker in list(self._live):
            self._try(tracker, "finish")
        self._live.clear()

    def _try(self, tracker: GeneralTracker, call: str, *values: Any, **named: Any) -> bool:
        try:
            getattr(tracker, call)(*values, **named)
        except Exception as error:  # noqa: BLE001  # anything may come out of somebody else's service
            if tracker in self._live:
                self._live.remove(tracker)
            warnings.warn(
                f"tracker {tracker.name} failed and is left out from here on; the run goes on: {error}",
                stacklevel=2,
            )
            return False
        return True


@contextmanager
def tracking(
    trackers: Sequence[str | GeneralTracker],
    *,
    folder: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> Iterator[Tracking]:
    """Follow one unlearning with trackers; they are closed however the block ends.

    What they get is the method's losses of each step, ``config``, and the accuracies of the record: no images, paths,
    names of classes or hashes. W&B and MLflow add what they always add by themselves, such as the command line and the
    host's name; see their documentation. Nothing is sent anywhere unless a tracker that sends is named.
    An unlearning that resumes tells again the steps since its last safe point, with the same values; one whose folder
    is finished already is not told again.

    Args:
        trackers: names (`Tracker`), or objects derived from ``accelerate.tracking.GeneralTracker``.
        folder: the run folder; TensorBoard writes into ``tracking`` inside it. Needed for TensorBoard alone.
        config: settings to show beside the run; nested ones get dotted names.

    Raises:
        ConfigError: an unknown name, or TensorBoard without a folder.
        MissingExtraError: accelerate or the tracker's package is not installed.

    Example:
        >>> with tracking(["tensorboard"], folder="runs/first") as tracked:  # doctest: +SKIP
        ...     result = stakes.unlearn(model, images, out="runs/first", progress=tracked.following())
        ...     tracked.final(result.record)
    """
    opened = [_opened(tracker, folder) for tracker in trackers]
    finished = folder is not None and (Path(folder) / "record.json").is_file()
    tracked = Tracking([] if finished else opened, _flat(config or {}))
    try:
        yield tracked
    finally:
        tracked.finish()


def _opened(tracker: str | GeneralTracker, folder: str | Path | None) -> GeneralTracker:
    """The tracker object, not started yet."""
    if not isinstance(tracker, str):
        return tracker
    if tracker not in Tracker.__members__:
        raise ConfigError("tracker", expected=", ".join(Tracker), got=repr(tracker))
    for package in ("accelerate", tracker):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"tracker {tracker}: {package} is not installed",
                fix=f"Install it with: pip install 'stakes[track]' {tracker}.",
            )
    import accelerate.tracking as theirs

    kinds: dict[str, Any] = {
        Tracker.tensorboard: theirs.TensorBoardTracker,
        Tracker.wandb: theirs.WandBTracker,
        Tracker.mlflow: theirs.MLflowTracker,
        Tracker.trackio: theirs.TrackioTracker,
    }
    kind = kinds[tracker]
    where = []
    if kind.requires_logging_directory:
        if folder is None:
            raise ConfigError(f"tracker {tracker}", expected="a run folder to write into", got="none")
        where = [str(Path(folder) / "tracking")]
    made: GeneralTracker = kind(PROJECT, *where)
    return made


def _named(when: str, figures: Figures) -> dict[str, float]:
    values = {name: getattr(figures, f"{name}_accuracy") for name in ("test", "retain", "forget")}
    return {f"{when}/{name}_accuracy": value for name, value in values.items() if value is not None}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str | float | int | bool | None]:
    """Dotted names and plain values, which is all that trackers take."""
    flat: dict[str, str | float | int | bool | None] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner if isinstance(inner, (str, int, float, bool)) else str(inner)
    return flat
