"""One unlearning at work: what a method is handed, and what the base does around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from stakes.anchors.anchors import Anchors
from stakes.config import MethodSettings, Precision
from stakes.data.images import ImageSet
from stakes.errors import DataError
from stakes.joined_probes import Probes
from stakes.meter import Meter
from stakes.models.classifier import Classifier
from stakes.runtime import autocast, derive_seed, generator, loss_scaler

S = TypeVar("S", bound=MethodSettings)


class Stateful(Protocol):
    """Anything with PyTorch's state protocol: modules, optimisers, schedulers."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take a state back."""


T = TypeVar("T", bound=Stateful)


class StateStore(Protocol):
    """Where a job keeps its state between interruptions."""

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state, or None."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state."""

    def remember(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return what ``make`` gave under this name, calling it only the first time."""


class NoStore:
    """A store that keeps nothing: a job in memory alone."""

    def load(self) -> None:
        """There is never an earlier state."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Drop the state."""

    def remember(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Make it anew."""
        return make()


@dataclass(frozen=True)
class Batches:
    """Batches of N items in an order drawn anew each epoch, addressed by step so that any step can be resumed."""

    count: int
    size: int
    seed: int
    name: str

    @property
    def per_epoch(self) -> int:
        """Steps that see every item once."""
        return -(-self.count // self.size)

    def at(self, step: int) -> Tensor:
        """Item numbers of a step."""
        epoch, place = divmod(step, self.per_epoch)
        order = torch.randperm(self.count, generator=generator("order", self.name, self.seed, epoch))
        return order[place * self.size : (place + 1) * self.size]


@dataclass
class Batch:
    """Pixels (n, C, H, W) and labels (n,) on the job's device, and the item numbers they came from."""

    pixels: Tensor
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Job(Generic[S]):
    """Everything a method may use, and the model it changes.

    Attributes:
        original: the model before, in evaluation mode, without gradients; never changed.
        model: the model to unlearn; the method changes it in place.
        start: the model that the work began with; the original itself, unless another model's answers are kept.
        forget: the forget set.
        settings: the method's settings.
        step: steps done; a resumed job starts where it stopped.
        probes, anchors, retain: there where the method says that it needs them.
        most_images: of a training pass whose activations may be in memory at once; None: all of the batch.
    """

    original: Classifier
    model: Classifier
    forget: ImageSet
    settings: S
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "fp32"
    probes: Probes | None = None
    anchors: Anchors | None = None
    retain: ImageSet | None = None
    meter: Meter = field(default_factory=Meter)
    store: StateStore = field(default_factory=NoStore)
    step: int = 0
    most_images: int | None = None
    start: Classifier | None = None
    _tracked: dict[str, Stateful] = field(default_factory=dict)
    _resumed: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._batches: dict[str, Batches] = {}
        self._resumed = self.store.load() or {}
        self.step = int(self._resumed.get("step", 0))

    # -- what a method calls -------------------------------------------------------------------------------

    def track(self, name: str, item: T) -> T:
        """Make a module or optimiser part of the saved state; in a resumed job it gets its state back here."""
        self._tracked[name] = item
        if name in self._resumed:
            item.load_state_dict(self._resumed[name])
        return item

    def remember(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Compute named tensors once; a resumed job reads them back.

        They come contiguous, on the CPU and in the order of their names, whether just computed or read, so that
        sums over them round alike.
        """

        def plain() -> dict[str, Tensor]:
            return {key: value.detach().cpu().contiguous() for key, value in make().items()}

        return dict(sorted(self.store.remember(name, plain).items()))

    def steps(self, per_epoch: int) -> Iterator[int]:
        """Step numbers from the resumed one to the limit that the settings give.

        The global generators are seeded for each step, for the sake of layers such as dropout that know no other.
        """
        limit = self.limit(per_epoch)
        while self.step < limit:
            torch.manual_seed(derive_seed("step", self.seed, self.step))
            yield self.step

    def limit(self, per_epoch: int) -> int:
        """The most steps, where a pass takes so many."""
        return self.settings.limit(per_epoch)

    def forget_batch(self, step: int) -> Batch:
        """The forget images of a step, ``settings.forget_batch`` at a time."""
        return self._batch(self.forget, self.forget_batches, step)

    def probe_batch(self, step: int) -> Batch:
        """The probes of a step with their target labels, ``settings.probe_batch`` at a time."""
        return self._batch(self.need_probes(), self.probe_batches, step)

    def retain_batch(self, step: int, size: int) -> Batch:
        """Retained images of a step, for methods that need them."""
        retain = self.need_retain()
        return self._batch(retain, self._cycle("retain", len(retain), size), step)

    @property
    def forget_batches(self) -> Batches:
        """How the forget set is cut into batches."""
        return self._cycle("forget", len(self.forget), self.settings.forget_batch)

    @property
    def probe_batches(self) -> Batches:
        """How the probe set is cut into batches."""
        return self._cycle("probes", len(self.need_probes()), self.settings.probe_batch)

    def need_probes(self) -> Probes:
        """The probe set of a method that declares it."""
        if self.probes is None:
            raise DataError(
                "this method", expected="a probe set", got="none", fix='Add "probes" to its needs.'
            )
        return self.probes

    def need_anchors(self) -> Anchors:
        """The anchors of a method that declares them."""
        if self.anchors is None:
            raise DataError("this method", expected="anchors", got="none", fix='Add "anchors" to its needs.')
        return self.anchors

    def need_retain(self) -> ImageSet:
        """The retain set of a method that declares it."""
        if self.retain is None:
            raise DataError(
                "this method", expected="the retain set", got="none", fix='Add "retain" to its needs.'
            )
        return self.retain

    def generator(self, *name: object) -> torch.Generator:
        """A CPU generator of this job's seed for one purpose."""
        return generator("job", self.seed, *name)

    def training(self) -> None:
        """Put the model into training mode, or, where the settings freeze BatchNorm, let it stay as it is measured."""
        self.model.train(self.settings.batchnorm == "update")

    def autocast(self) -> Any:
        """The precision of the run as a context."""
        return autocast(self.device, self.precision)

    @cached_property
    def scaler(self) -> torch.amp.GradScaler:
        """What scales the loss where the precision of the run needs it, as part of the saved state."""
        scaler = loss_scaler(self.device, self.precision)
        return self.track("scaler", scaler) if scaler.is_enabled() else scaler

    # -- what the base calls -------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The whole state after a step."""
        return {"step": self.step, **{name: item.state_dict() for name, item in self._tracked.items()}}

    def _cycle(self, name: str, count: int, size: int) -> Batches:
        return Batches(count, min(size, count), self.seed, name)

    def _batch(self, images: ImageSet | Probes, batches: Batches, step: int) -> Batch:
        indices = batches.at(step)
        pixels = images.batch(indices).to(self.device, non_blocking=True)
        return Batch(pixels, images.labels[indices].to(self.device), indices)
