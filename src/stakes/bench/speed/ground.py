"""What every slice stands on: a variant, the request, and how much of it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pydantic import Field

from stakes.anchors.anchors import Anchors
from stakes.bench.speed.bare import BareNetwork, Stopwatch
from stakes.config import RunSettings, Settings
from stakes.data.forget import ForgetSplit
from stakes.errors import ConfigError, DataError
from stakes.meter import Meter
from stakes.methods import Job, Method
from stakes.methods.job import NoStore, StateStore
from stakes.models.classifier import Classifier

PROBES, SETUP, STEPS, TESTS, EVALUATION = "probes", "set-up", "steps", "stop test", "evaluation"
PHASES = (PROBES, SETUP, STEPS, TESTS, EVALUATION)


class SpeedSettings(Settings):
    """How much is measured of each phase."""

    rounds: int = Field(
        5, ge=1, description="times that each slice is measured, after one that only warms up"
    )
    most_passes: int = Field(
        1024, ge=1, description="images a phase may send in a round before it is cut into a slice"
    )
    steps: int = Field(4, ge=2, description="steps in a round")


@dataclass(frozen=True)
class Variant:
    """A configured method under a name.

    Attributes:
        preset: its name, for the report.
        steps: how many it takes, from a record of it; None where that is not known.
    """

    label: str
    method: Method[Any]
    preset: str | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Extent:
    """What a phase is made of, and how much of it is measured.

    Attributes:
        forward, backward: images sent in the whole phase.
        how: ``whole``, or what was measured and by what it was scaled.
    """

    forward: int
    backward: int
    how: str

    @classmethod
    def of(cls, forward: int, backward: int, measured: int, whole: int, what: str) -> Extent:
        """One that is scaled by the number of something."""
        how = "whole" if measured == whole else f"{measured} of {whole} {what}; scaled by {what}"
        return cls(forward, backward, how)


@dataclass(frozen=True)
class Sample:
    """A phase in one round: seconds of the whole phase, those of its passes alone, and its extent."""

    seconds: float
    bare: float
    extent: Extent


class WatchedJob(Job[Any]):
    """Tells when a step begins: what a method does before its first one is set-up."""

    on_step: Callable[[], None] | None = None

    def steps(self, per_epoch: int) -> Iterator[int]:
        """See `Job.steps`."""
        for step in super().steps(per_epoch):
            if self.on_step is not None:
                self.on_step()
            yield step


@dataclass(frozen=True)
class Ground:
    """A variant on a request.

    Raises:
        ConfigError, DataError: the method needs anchors or a retain set, and there are none.
    """

    variant: Variant
    original: Classifier
    split: ForgetSplit
    anchors: Anchors | None
    run: RunSettings
    device: torch.device
    speed: SpeedSettings

    def __post_init__(self) -> None:
        needs, name = self.variant.method.needs, f"method {self.variant.method.name}"
        if "retain" in needs and self.split.retain is None:
            raise DataError(name, expected="the retain set", got="none")
        if "anchors" in needs and self.anchors is None:
            raise ConfigError(name, expected="anchors", got="none", fix="Pass anchors=.")

    @property
    def settings(self) -> Any:
        """Those of the method."""
        return self.variant.method.settings

    @property
    def probes(self) -> int:
        """How many the whole request has; 0 for a method without any."""
        if "probes" not in self.variant.method.needs:
            return 0
        return int(self.settings.probes.number(len(self.split.forget)))

    @cached_property
    def watch(self) -> Stopwatch:
        """The clock of the device."""
        return Stopwatch(self.device)

    @cached_property
    def bare(self) -> BareNetwork:
        """The network alone."""
        return BareNetwork(self.job(), folded=self.settings.probes.kind == "adversarial")

    def job(
        self, *, meter: Meter | None = None, store: StateStore | None = None, **changes: Any
    ) -> WatchedJob:
        """A job of the variant on the request."""
        needs = self.variant.method.needs
        given: dict[str, Any] = {
            "original": self.original,
            "model": self.original.clone().requires_grad_(True),
            "forget": self.split.forget,
            "settings": self.settings,
            "seed": self.run.seed,
            "device": self.device,
            "precision": self.run.precision,
            "anchors": self.anchors if "anchors" in needs else None,
            "retain": self.split.retain if "retain" in needs else None,
            "meter": meter or Meter(),
            "store": store or NoStore(),
        }
        return WatchedJob(**given | changes)
