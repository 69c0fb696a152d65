"""Methods of unlearning, by the name they have on the command line."""

from __future__ import annotations

from typing import Any

from stakes.errors import ConfigError
from stakes.methods.base import Method, Outcome, carry_out
from stakes.methods.job import Batch, Batches, Job, NoStore
from stakes.methods.structguard import StructGuard, StructGuardSettings

METHODS: dict[str, type[Method[Any]]] = {
    "structguard": StructGuard,
}


def find_method(name: str) -> type[Method[Any]]:
    """The method class of a name.

    Raises:
        ConfigError: there is none; the message lists them.
    """
    if name not in METHODS:
        raise ConfigError("--method", expected="one of " + ", ".join(METHODS), got=repr(name))
    return METHODS[name]


__all__ = [
    "METHODS",
    "Batch",
    "Batches",
    "Job",
    "Method",
    "NoStore",
    "Outcome",
    "StructGuard",
    "StructGuardSettings",
    "carry_out",
    "find_method",
]
