"""The base of all methods: it owns the checks, the stop test, progress, history and resumption."""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from stakes.config import MethodSettings, build
from stakes.data.images import ImageSet
from stakes.errors import ConfigError, NumericalError
from stakes.interrupts import deferred
from stakes.methods.job import Job
from stakes.methods.milestones import Milestones
from stakes.metrics.accuracy import accuracy, predict
from stakes.models.classifier import Classifier
from stakes.processes import current
from stakes.progress import Progress, silent
from stakes.runtime import derive_seed

Need = Literal["probes", "anchors", "retain"]
StopReason = Literal["forgotten", "already forgotten", "step limit", "finished"]
S = TypeVar("S", bound=MethodSettings)
Row = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What a method ends with: the classifier to deploy, steps done, and why it stopped."""

    classifier: Classifier
    steps: int
    stop_reason: StopReason


@dataclass(frozen=True)
class ForFew:
    """What a preset sets otherwise where at most so many images are to be forgotten."""

    images: int
    changes: Mapping[str, Any]


class Method(ABC, Generic[S]):
    """A way to forget. An author writes ``run``; everything around it is done here.

    Class attributes:
        name: as on the command line.
        settings_type: the method's settings with their published defaults.
        presets: named changes to those defaults.
        default_preset: the one taken when none is named.
        for_few: by preset, what it sets otherwise for a small request; settings of the user's own go before it.
        without_batchnorm: by preset, what it sets otherwise where the request is not small and the network keeps no
            statistics of its training images; settings of the user's own go before it.
        in_sequence: by preset, what it sets otherwise for requests that follow each other, in place of what it sets for
            a small one.
        with_unlabelled: by preset, what it sets otherwise where the request is not small and unlabelled images are
            given.
        needs: of ``"probes"``, ``"anchors"``, ``"retain"`` what it works with beside the forget set.
        search: settings that `stakes tune` searches where a plan names none, each with its least and greatest value,
            by their logarithm; empty: the learning rate from a tenth to ten times of what it is.
        stops_when_forgotten: whether the base ends it once every forget image is misclassified on the deployed
            path; a method with a fixed length says no.

    Example:
        >>> class Noise(Method[MethodSettings]):
        ...     name, settings_type = "noise", MethodSettings
        ...     def run(self, job):
        ...         for step in job.steps(per_epoch=1):
        ...             for parameter in job.model.parameters():
        ...                 noise = torch.randn(parameter.shape, generator=job.generator(step))
        ...                 parameter.data.add_(0.01 * noise)
        ...             yield {}
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[MethodSettings]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    default_preset: ClassVar[str | None] = None
    for_few: ClassVar[Mapping[str, ForFew]] = {}
    without_batchnorm: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    with_unlabelled: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    in_sequence: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    search: ClassVar[Mapping[str, tuple[float, float]]] = {}
    # Not ClassVar: where the settings decide, __init__ sets them on the instance.
    needs: frozenset[Need] = frozenset()
    stops_when_forgotten: bool = True

    _asked: tuple[str | None, Mapping[str, Any]] | None = None
    """Preset and overrides that it was configured with."""
    _one_of_many: bool = False
    """Whether other requests follow on the model that it leaves."""

    def __init__(self, settings: S) -> None:
        self.settings = settings

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"

    @classmethod
    def configure(cls, preset: str | None = None, overrides: Mapping[str, Any] | None = None) -> Method[Any]:
        """Build the method from a preset's name and dotted overrides.

        A preset can have other settings for a small request: `for_images` puts them in.

        Raises:
            ConfigError: unknown preset, unknown setting, or a wrong value.
        """
        if preset is not None and preset not in cls.presets:
            known = ", ".join(sorted(cls.presets)) or "no presets; leave it out"
            raise ConfigError(f"preset of {cls.name}", expected=known, got=repr(preset))
        preset = preset or cls.default_preset
        return cls._configured(preset, cls.presets[preset] if preset else {}, overrides or {})

    @classmethod
    def _configured(
        cls, preset: str | None, changes: Mapping[str, Any], overrides: Mapping[str, Any]
    ) -> Method[Any]:
        settings = build(cls.settings_type, {}).with_overrides(changes)
        method = cls(settings.with_overrides(overrides))  # type: ignore[arg-type]
        method._asked = preset, overrides
        return method

    def for_images(self, images: int, *, batchnorm: bool = True, unlabelled: bool = False) -> Method[Any]:
        """The method as it is for a request of so many images: with what its preset sets for few, if they are few.

        If they are not, with what it sets for a network without BatchNorm, and where there are unlabelled images. What
        was overridden stays. `unlearn` and a bench do this themselves.

        Args:
            images: to be forgotten.
            batchnorm: whether the network has BatchNorm layers that keep statistics (`stakes.layer_statistics`).
            unlabelled: whether unlabelled images are given.

        Raises:
            ConfigError: an override that does not go with what the preset sets.

        Example:
            >>> from stakes.methods import StructGuard
            >>> method = StructGuard.configure("default")
            >>> [method.for_images(k).settings.settle for k in (16, 64)]
            [250, 100]
            >>> method.for_images(64, batchnorm=False).settings.settle
            250
            >>> StructGuard.configure("thorough").for_images(64, unlabelled=True).settings.margin
            2.5
        """
        preset, overrides = self._asked or (None, {})
        if preset is None:
            return self
        few = self.for_few.get(preset)
        small = few is not None and images <= few.images
        changes: dict[str, Any] = {}
        if self._one_of_many and preset in self.in_sequence:
            changes |= self.in_sequence[preset]
        elif few is not None and small:
            changes |= few.changes
        if not small and not batchnorm:
            changes |= self.without_batchnorm.get(preset, {})
        if not small and unlabelled:
            changes |= self.with_unlabelled.get(preset, {})
        found = self._configured(preset, {**self.presets[preset], **changes}, overrides)
        found._one_of_many = self._one_of_many
        return self if found.settings == self.settings else found

    def one_of_many(self) -> Method[Any]:
        """The method for a request that others follow, on the model that it leaves.

        What such requests cost adds up, so `for_images` then puts in what the preset sets for a sequence, where it says
        so. A ledger does this itself.

        Example:
            >>> from stakes.methods import StructGuard
            >>> method = StructGuard.configure("default")
            >>> [one.for_images(16).settings.variants for one in (method, method.one_of_many())]
            [2, 0]
        """
        found = copy.copy(self)
        found._one_of_many = True
        return found

    @abstractmethod
    def run(self, job: Job[S]) -> Iterator[Row]:
        """Change ``job.model`` step by step, yielding the losses of each step to be logged.

        Take step numbers from ``job.steps``, hand modules and optimisers to ``job.track``, and draw every
        random number from ``job.generator``: then interruption and resumption come for free.
        """

    def deploy(self, job: Job[S]) -> Classifier:
        """The classifier that would be shipped now: by default the model itself."""
        return job.model

    def may_stop(self, job: Job[S]) -> bool:
        """Whether the stop test means anything yet; by default it always does."""
        return True

    def works(self, job: Job[S]) -> bool:
        """Whether the deployed path does anything yet; a path that starts at random misclassifies everything."""
        return True

    def finish(self, job: Job[S], forgotten: Callable[[], bool]) -> Row | None:
        """Change the model a last time, once every forget image is misclassified; by default nothing.

        ``forgotten`` is the stop test on the model as it is now. Figures that are returned stand in the history, in the
        row of the last step; None says that images came back, and the steps go on.
        """
        return {}

    def total_steps(self, job: Job[S]) -> int:
        """The most steps this job can take."""
        batches = job.probe_batches if "probes" in self.needs else job.forget_batches
        return job.limit(batches.per_epoch)

    def expected_steps(self, job: Job[S]) -> int:
        """The steps to show progress by: those of a schedule, since most runs end with it, and the most after it."""
        most = self.total_steps(job)
        schedule = job.settings.schedule(job.forget_batches.per_epoch, most)
        return schedule if job.step <= schedule else most


class ForgetCheck:
    """The stop test: is every forget image misclassified, in evaluation mode, on the classifier to deploy?

    A few of those that were still recognised last time are looked at first, so that most tests cost next to nothing;
    only a yes needs, and gets, the whole forget set in the batches of the final measurement.
    """

    few: ClassVar[int] = 8

    def __init__(self, forget: ImageSet, batch: int, device: torch.device) -> None:
        self.forget, self.batch, self.device = forget, batch, device
        self._recognised = torch.arange(len(forget))

    def accuracy(self, classifier: Classifier) -> float:
        """Forget accuracy in percent over the whole set."""
        right = self._predict(classifier, self.forget) == self.forget.labels
        self._recognised = right.nonzero().flatten()
        return accuracy(right, torch.ones_like(right))

    def forgotten(self, classifier: Classifier) -> bool:
        """Whether none is recognised."""
        first, second, rest = self._recognised.tensor_split([min(self.few, self.batch), self.batch])
        for looked, others in ((first, torch.cat([second, rest])), (second, rest)):
            if len(looked):
                part = self.forget.subset(looked)
                right = self._predict(classifier, part) == part.labels
                if right.any():
                    self._recognised = torch.cat([looked[right], others])
                    return False
        return self.accuracy(classifier) == 0.0

    def _predict(self, classifier: Classifier, images: ImageSet) -> Tensor:
        return predict(classifier, images, batch=self.batch, device=self.device)


def carry_out(
    method: Method[Any],
    job: Job[Any],
    *,
    eval_batch: int = 256,
    measure_every: int = 10,
    checkpoint_seconds: float = 60.0,
    milestones: Milestones | None = None,
    progress: Progress = silent,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Outcome:
    """Run a method until the forget set is forgotten or its limit is reached.

    Each row given to ``on_row`` holds ``step``, the method's losses and, where it was measured on the whole
    set, ``forget_accuracy`` in percent on the deployed path. ``milestones`` are told each of these measurements, and of
    one more at the end where the last step has none.

    Raises:
        NumericalError: a loss or weight is NaN or infinite; what was saved before is kept.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
    """
    # What a method remembers belongs to this run: a grid runs the same object with every seed.
    method = copy.copy(method)
    job.track("body", job.model.body)
    job.track("head", job.model.head)
    if milestones is not None:
        job.track("milestones", milestones)
    check = ForgetCheck(job.forget, eval_batch, job.device)
    if job.step == 0 and method.stops_when_forgotten and check.forgotten(method.deploy(job)):
        return Outcome(method.deploy(job), 0, "already forgotten")

    def forgotten() -> bool:
        return current().agree(check.forgotten(method.deploy(job)))

    devices = [job.device] if job.device.type == "cuda" else []
    # Dropout draws from the global generators: `Job.steps` seeds them for each step, and here they are put back.
    with deferred() as interrupted, torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed("setup", job.seed))
        saved = time.monotonic()
        for losses in method.run(job):
            _refuse_nonfinite(losses, job.step)
            job.step += 1
            done = current().agree(method.stops_when_forgotten and method.may_stop(job))
            finished = method.finish(job, forgotten) if done and forgotten() else None
            done = finished is not None
            row = {"step": float(job.step), **losses, **(finished or {})}
            if done or job.step % measure_every == 0:
                row["forget_accuracy"] = 0.0 if done else check.accuracy(method.deploy(job))
                _mark(milestones, method, job, row["forget_accuracy"])
            on_row(row)
            expected = job.step if done else method.expected_steps(job)
            progress("unlearn", job.step, expected, **{k: v for k, v in row.items() if k != "step"})
            if done:
                # Nothing to save: the steps since the last safe point lead here again.
                if current().agree(interrupted(), any_of=True):
                    raise KeyboardInterrupt
                _refuse_nonfinite_weights(job)
                return Outcome(method.deploy(job), job.step, "forgotten")
            # Clocks and signals differ between processes, and what they do next must not.
            halt = current().agree(interrupted(), any_of=True)
            if halt or current().agree(time.monotonic() - saved > checkpoint_seconds):
                _refuse_nonfinite_weights(job)
                job.store.save(job.state())
                saved = time.monotonic()
            if halt:
                raise KeyboardInterrupt
    _refuse_nonfinite_weights(job)
    if milestones is not None and job.step % measure_every:
        _mark(milestones, method, job, check.accuracy(method.deploy(job)))
    return Outcome(method.deploy(job), job.step, "step limit" if method.stops_when_forgotten else "finished")


def _mark(milestones: Milestones | None, method: Method[Any], job: Job[Any], forget_accuracy: float) -> None:
    if milestones is not None and method.works(job):
        milestones.measured(job.step, forget_accuracy, method.deploy(job))


def _refuse_nonfinite(losses: Row, step: int) -> None:
    for name, value in losses.items():
        if not math.isfinite(value):
            raise NumericalError(
                f"step {step + 1}: {name} is {value}",
                expected="a finite loss",
                fix="What was saved before is kept. Try a smaller lr, or precision fp32.",
            )


def _refuse_nonfinite_weights(job: Job[Any]) -> None:
    """A state is only saved, and a model only handed out, while every weight and statistic is a number."""
    running = [(k, v) for k, v in job.model.named_buffers() if k.endswith(("running_mean", "running_var"))]
    for name, value in [*job.model.named_parameters(), *running]:
        if not bool(torch.isfinite(value).all()):
            raise NumericalError(
                f"step {job.step}: weight {name}",
                expected="finite values",
                got="NaN or infinity",
                fix="What was saved before is kept. Try a smaller lr, or precision fp32.",
            )
