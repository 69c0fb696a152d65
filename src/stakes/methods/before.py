"""BEFORE: the model as it is."""

from __future__ import annotations

from collections.abc import Iterator

from stakes.config import MethodSettings
from stakes.methods.base import Method, Row
from stakes.methods.job import Job


class Before(Method[MethodSettings]):
    """BEFORE: change nothing, so that the model's own figures stand in a record like everyone else's.

    Publication: none; it is the first line of the tables of Hong, Shin and Kim, CVPR 2026.

    Needs: the forget set, to be measured on. No setting has an effect.

    Not guaranteed: forgetting. The record says ``finished`` after 0 steps, and "forgotten" only where the model
    misclassified every forget image all along.

    Example:
        >>> Before.configure().stops_when_forgotten
        False
    """

    name = "before"
    settings_type = MethodSettings
    stops_when_forgotten = False

    def run(self, job: Job[MethodSettings]) -> Iterator[Row]:
        """Take no step."""
        return iter(())

    def total_steps(self, job: Job[MethodSettings]) -> int:
        """None."""
        return 0
