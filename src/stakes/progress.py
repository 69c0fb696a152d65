"""How long work tells the world where it stands."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the phase, how much of it is done, out of how much, and figures worth showing."""

    def __call__(self, phase: str, done: int, total: int, **figures: float) -> None:
        """Report; must be cheap and must not raise."""


def silent(phase: str, done: int, total: int, **figures: float) -> None:
    """Report nothing: the default in Python."""
