"""Asking a hub again when it failed for a passing reason."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

R = TypeVar("R")

PAUSES = (1.0, 3.0)
"""Seconds before the second and the third attempt."""

_LOG = logging.getLogger(__name__)
# By name: the libraries behind a hub have changed their HTTP client, and it is not ours to import.
_PASSING = {"TransportError", "Timeout", "TimeoutException", "ChunkedEncodingError"}
_BUSY = {429, 500, 502, 503, 504}


def patiently(what: str, call: Callable[[], R], *, sleep: Callable[[float], None] | None = None) -> R:
    """``call()``, again after growing pauses where it failed because a connection stalled, broke, or was refused.

    The libraries set the time limits of a single connection; a stalled one ends as a failure here. What was
    downloaded before stays in their caches, so a new attempt goes on where the last one stopped.

    Args:
        what: the thing asked for, for the log.
        sleep: waits; given by tests.

    Raises:
        Exception: what the last attempt raised, or the first with a reason that will not pass.

    Example:
        >>> patiently("a number", lambda: 3)
        3
    """
    for pause in PAUSES:
        try:
            return call()
        except Exception as error:
            if not passing(error):
                raise
            _LOG.warning("%s could not be read (%s); trying again in %g s", what, type(error).__name__, pause)
            (sleep or time.sleep)(pause)
    return call()


def passing(error: BaseException) -> bool:
    """Whether another attempt may succeed: no, where a cache or an offline mode already gave the last word."""
    causes = list(_chain(error))
    if any(type(one).__name__ == "OfflineModeIsEnabled" for one in causes):
        return False
    return any(_passes(one) for one in causes)


def _passes(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if getattr(getattr(error, "response", None), "status_code", None) in _BUSY:
        return True
    return any(kind.__name__ in _PASSING for kind in type(error).__mro__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
