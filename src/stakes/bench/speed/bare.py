"""The passes of a phase, remembered as they are made, and made again with nothing around them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stakes.config import Precision
from stakes.meter import Meter
from stakes.methods import Job
from stakes.methods.tuning import training
from stakes.models.classifier import Classifier
from stakes.models.fold import fold_batchnorm
from stakes.runtime import autocast

Back = Literal["no", "weights", "pixels"]


@dataclass(frozen=True)
class Pass:
    """One batch through the network, and back to what."""

    images: int
    back: Back = "no"


def counts(passes: Iterable[Pass]) -> tuple[int, int]:
    """Images sent forward and backward.

    Example:
        >>> counts([Pass(8, "weights"), Pass(4)])
        (12, 8)
    """
    made = list(passes)
    return sum(one.images for one in made), sum(one.images for one in made if one.back != "no")


class Recorder(Meter):
    """A meter that also remembers each pass, in the list that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[Pass] = []

    def count(self, *, forward: int = 0, backward: int = 0) -> None:
        """See `Meter.count`; taken for one batch."""
        super().count(forward=forward, backward=backward)
        if forward:
            self.passes.append(Pass(forward, "weights" if backward else "no"))

    def _on_forward(self, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if not self._paused:
            plain = getattr(output, "logits", output)
            learning = isinstance(plain, Tensor) and plain.requires_grad
            self.passes.append(Pass(len(inputs[0]), "weights" if learning else "no"))
        super()._on_forward(module, inputs, output)


class Stopwatch:
    """Seconds of a device: work that was only queued is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        """Seconds from any start."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()


class BareNetwork:
    """A network alone: the same batches, precision and mode as in a phase, random images, nothing else.

    A pass without a way back is one in evaluation mode and float32, as measuring is. One back to the weights is in
    training mode as the settings say, in the precision of the run; one back to the pixels is in evaluation mode in that
    precision, on the copy that makes probes. What goes back is the sum of the logits.

    Args:
        job: whose network, settings and precision it takes.
        folded: whether probes are made on the copy with BatchNorm folded in.
    """

    def __init__(self, job: Job[Any], *, folded: bool) -> None:
        self.device: torch.device = job.device
        self.precision: Precision = job.precision
        self.watch = Stopwatch(job.device)
        self._images = torch.zeros((0, *job.original.input_size))
        self._plain = job.original.clone().eval().requires_grad_(False)
        self._probed: Classifier = fold_batchnorm(self._plain) if folded else self._plain
        self._job = Job(
            original=job.original,
            model=job.original.clone().requires_grad_(True),
            forget=job.forget,
            settings=job.settings,
            device=job.device,
            precision=job.precision,
        )

    def seconds(self, passes: Sequence[Pass]) -> float:
        """The time of these passes, one after another."""
        self._draw(max((one.images for one in passes), default=0))
        start = self.watch.now()
        with torch.random.fork_rng(devices=[]):
            for one in passes:
                self._make(one)
        return self.watch.now() - start

    def _draw(self, most: int) -> None:
        if len(self._images) < most:
            draws = torch.Generator().manual_seed(0)
            self._images = torch.rand((most, *self._images.shape[1:]), generator=draws).to(self.device)

    def _make(self, one: Pass) -> None:
        pixels = self._images[: one.images]
        if one.back == "no":
            with torch.no_grad():
                self._plain(pixels)
            return
        with torch.enable_grad():
            if one.back == "pixels":
                pixels = pixels.clone().requires_grad_(True)
                network, leaves = self._probed, [pixels]
            else:
                training(self._job, one.images)
                network, leaves = self._job.model, list(self._job.model.parameters())
            with autocast(self.device, self.precision):
                logits = network(pixels)
            torch.autograd.grad(logits.float().sum(), leaves, allow_unused=True)
