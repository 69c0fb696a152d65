"""What a run costs: image passes through the network, forward and backward apart, and seconds, phase by phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from stakes.spread import whole_batch


@dataclass
class PhaseCost:
    """Cost of one phase: images sent forward, images sent backward, seconds of wall clock."""

    forward: int = 0
    backward: int = 0
    seconds: float = 0.0


class Meter:
    """Counts the images that pass through watched networks, in the phase that is open.

    A backward pass is counted when the gradient actually reaches the network's output, so a forward pass
    under ``no_grad`` costs one and a training step costs one and one. Where many processes share a pass, each counts
    the whole batch, so the counts are those of one process.

    Args:
        clock: seconds from any start; one that runs backwards counts as one that stands still.

    Example:
        >>> import torch
        >>> meter, network = Meter(), torch.nn.Linear(2, 2)
        >>> with meter.phase("probes"), meter.watching(network):
        ...     network(torch.zeros(5, 2)).sum().backward()
        >>> meter.phases["probes"].forward, meter.phases["probes"].backward
        (5, 5)
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.phases: dict[str, PhaseCost] = {}
        self._clock = clock
        self._open = PhaseCost()
        self._under_way: list[tuple[str, float]] = []
        self._paused = False

    @contextmanager
    def phase(self, name: str) -> Iterator[PhaseCost]:
        """Open a phase; opening a name again adds to it."""
        before, self._open = self._open, self.phases.setdefault(name, PhaseCost())
        self._under_way.append((name, self._clock()))
        try:
            yield self._open
        finally:
            self._open.seconds += self._since(self._under_way.pop()[1])
            self._open = before

    def totals(self) -> dict[str, dict[str, float]]:
        """All phases as plain numbers, those under way up to now; `add` takes them back."""
        totals = {name: asdict(cost) for name, cost in self.phases.items()}
        for name, started in self._under_way:
            totals[name]["seconds"] += self._since(started)
        return totals

    def add(self, totals: Mapping[str, Mapping[str, float]]) -> None:
        """Count what an earlier call of the same run has spent."""
        for name, spent in totals.items():
            cost = self.phases.setdefault(name, PhaseCost())
            cost.forward += int(spent["forward"])
            cost.backward += int(spent["backward"])
            cost.seconds += spent["seconds"]

    def _since(self, started: float) -> float:
        return max(0.0, self._clock() - started)

    def count(self, *, forward: int = 0, backward: int = 0) -> None:
        """Add passes that hooks cannot see (functional calls)."""
        self._open.forward += forward
        self._open.backward += backward

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Count every call of ``network`` inside the block."""
        handle = network.register_forward_hook(self._on_forward)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing by hook inside the block; the caller uses `count`."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _on_forward(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if self._paused:
            return
        images = whole_batch(len(inputs[0]))
        self._open.forward += images
        # Networks of transformers wrap what they give.
        output = getattr(output, "logits", output)
        if isinstance(output, Tensor) and output.requires_grad:
            phase = self._open

            def on_backward(gradient: Tensor) -> Tensor:
                phase.backward += images
                return gradient

            output.register_hook(on_backward)
