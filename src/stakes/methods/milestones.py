"""Moments worth keeping: the deployed classifier when half, most, nearly all and all of the forget set is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from stakes.models.classifier import Classifier

SHARES = (50, 80, 95, 100)
"""Percent of the forget images that are misclassified."""

Keep = Callable[[int, dict[str, Tensor]], None]


class Milestones:
    """Keeps the deployed classifier the first time that at least 50, 80, 95 and 100 % of the images are misclassified.

    What has been reached is part of the job's saved state, so a resumed job keeps the same moments.

    Args:
        keep: given the step and ``Classifier.exported_state()``; of one step at most once, whatever it reaches.

    Example:
        >>> marks = Milestones(lambda step, state: None)
        >>> marks.newly_reached(20.0), marks.newly_reached(30.0), marks.newly_reached(0.0)
        ((50, 80), (), (95, 100))
    """

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._reached = 0

    def newly_reached(self, forget_accuracy: float) -> tuple[int, ...]:
        """Which of `SHARES` a forget accuracy (percent) reaches for the first time."""
        found = tuple(share for share in SHARES if self._reached < share <= 100 - forget_accuracy)
        self._reached = max((self._reached, *found))
        return found

    def measured(self, step: int, forget_accuracy: float, classifier: Classifier) -> None:
        """Keep the classifier if its forget accuracy (percent, over the whole forget set) is a milestone."""
        if self.newly_reached(forget_accuracy):
            self._keep(step, classifier.exported_state())

    def state_dict(self) -> dict[str, Any]:
        """What has been reached."""
        return {"reached": self._reached}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._reached = int(state_dict["reached"])
