"""The family of errors that a user can cause and mend.

Every message says what was expected, what came, and what to do next. The command line prints the message
without a traceback and exits with the class's ``exit_code``; in Python they are ordinary exceptions.
"""

from __future__ import annotations


def shown(value: object, most: int = 60) -> str:
    """A value in a message: its ``repr``, cut to ``most`` characters.

    Example:
        >>> shown("y" * 9, most=6)
        "'yyyy…"
    """
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


class StakesError(Exception):
    """Base of all errors caused by input or environment.

    Args:
        what: the thing that is wrong, without a full stop.
        expected: what would have been accepted.
        got: what came instead.
        fix: the next step, a sentence.

    Example:
        >>> raise DataError("row number", expected="0 to 49999", got="50000", fix="Rows count from 0.")
        Traceback (most recent call last):
        ...
        stakes.errors.DataError: row number: expected 0 to 49999, got 50000. Rows count from 0.
    """

    exit_code = 2

    def __init__(self, what: str, *, expected: str = "", got: str = "", fix: str = "") -> None:
        parts = [p for p in (f"expected {expected}" if expected else "", f"got {got}" if got else "") if p]
        message = what + (": " + ", ".join(parts) if parts else "")
        if not message.endswith((".", "!", "?")):
            message += "."
        super().__init__(message + (f" {fix}" if fix else ""))


class ConfigError(StakesError):
    """A setting is unknown, of the wrong type, or out of range."""


class DataError(StakesError):
    """Images, labels, class names or a forget request do not fit together or cannot be read."""


class ModelError(StakesError):
    """A network cannot be split into features and head, or does not fit the data."""


class CheckpointError(ModelError):
    """A checkpoint is missing, damaged, unsafe, or does not fit its configuration."""


class AnchorError(StakesError):
    """Attributes or anchors are missing, malformed, or made for other classes."""


class RunFolderError(StakesError):
    """A run folder belongs to another request or is not a run."""


class MissingExtraError(StakesError):
    """An optional dependency is not installed."""


class OutputError(StakesError):
    """A file cannot be written: no space, no permission, or not a folder."""

    exit_code = 4


class NetworkError(StakesError):
    """A service or hub cannot be reached, refused the key, or answered nonsense."""

    exit_code = 5


class NumericalError(StakesError):
    """A step produced NaN or infinity; the last good state was kept."""

    exit_code = 6


class OutOfMemoryError(StakesError):
    """Not even the smallest piece of work fits into memory, or a step cannot be cut without changing its result."""
