r"""The way back: of all models between the first weights and the last ones, the nearest that has forgotten enough.

Steps of a finite size, and copies that are forgotten with the images, carry a model past the place where the last image
is forgotten, and what lies past it costs accuracy. On the straight line θ(t) = θ_0 + t (θ_T − θ_0) the least share t
that is still enough is found by halving; forget images alone decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from stakes.methods.job import Job
from stakes.runtime import evaluating

HALVINGS = 6  # 2⁻⁶ of the way is near enough


class Way:
    """The straight line from the weights that a network had first to those it has now.

    Args:
        first: the network that the work began with.
        network: the one that moved. What the first has not (a projector) stays as it is.
        after: called whenever the network was put somewhere else.

    Example:
        >>> first, moved = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> _ = first.weight.data.fill_(1.0), moved.weight.data.fill_(3.0)
        >>> Way(first, moved).least(lambda: moved.weight.item() >= 1.5)
        0.25
        >>> moved.weight.item()
        1.5
    """

    def __init__(
        self, first: nn.Module, network: nn.Module, after: Callable[[], None] = lambda: None
    ) -> None:
        before = first.state_dict()
        self._now = {
            name: value
            for name, value in network.state_dict().items()
            if name in before and value.is_floating_point()
        }
        self._from = {name: before[name].to(value) for name, value in self._now.items()}
        self._to = {name: value.clone() for name, value in self._now.items()}
        self._after = after

    @torch.no_grad()
    def go(self, share: float) -> None:
        """Put the network a share t of the way along."""
        for name, value in self._now.items():
            # The end is exact: what was tested there is what stays.
            there = self._to[name]
            value.copy_(there if share == 1 else torch.lerp(self._from[name], there, share))
        self._after()

    def least(self, enough: Callable[[], bool]) -> float:
        """Go to the least share that is enough, to within 2⁻⁶, and return it; the whole way is taken to be enough.

        Not guaranteed: the least of all, where a nearer share is enough and one farther is not.
        """
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            self.go(middle)
            low, high = (low, middle) if enough() else (middle, high)
        self.go(high)
        return high


@torch.no_grad()
def surest_label(job: Job[Any]) -> float:
    """The highest probability, in [0, 1], that the deployed model gives the label of an image to forget."""
    highest = 0.0
    with evaluating(job.model):
        for part in torch.arange(len(job.forget)).split(job.forget_batches.size):
            logits = job.model(job.forget.batch(part).to(job.device)).float()
            own = job.forget.labels[part].to(job.device).unsqueeze(1)
            highest = max(highest, float(logits.softmax(dim=1).gather(1, own).max()))
            job.meter.count(forward=len(part))
    return highest
