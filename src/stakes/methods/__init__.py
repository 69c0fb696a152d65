"""Methods of unlearning, by the name they have on the command line."""

from __future__ import annotations

from typing import Any

from stakes.errors import ConfigError
from stakes.methods.amun import Amun, AmunSettings
from stakes.methods.base import Method, Outcome, carry_out
from stakes.methods.boundary import BoundaryExpand, BoundarySettings, BoundaryShrink, ShrinkSettings
from stakes.methods.job import Batch, Batches, Job, NoStore
from stakes.methods.lotus import Lotus, LotusSettings
from stakes.methods.neggrad import NegGrad
from stakes.methods.random_label import RandomLabel, RelabelSettings
from stakes.methods.salun import SalUn, SalUnSettings
from stakes.methods.structguard import StructGuard, StructGuardSettings
from stakes.methods.unsir import Unsir, UnsirSettings

METHODS: dict[str, type[Method[Any]]] = {
    "neggrad": NegGrad,
    "structguard": StructGuard,
    "unsir": Unsir,
    "boundary-shrink": BoundaryShrink,
    "boundary-expand": BoundaryExpand,
    "lotus": Lotus,
    "amun": Amun,
    "random-label": RandomLabel,
    "salun": SalUn,
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
    "Amun",
    "AmunSettings",
    "Batch",
    "Batches",
    "BoundaryExpand",
    "BoundarySettings",
    "BoundaryShrink",
    "Job",
    "Lotus",
    "LotusSettings",
    "Method",
    "NoStore",
    "Outcome",
    "RandomLabel",
    "RelabelSettings",
    "SalUn",
    "SalUnSettings",
    "ShrinkSettings",
    "StructGuard",
    "StructGuardSettings",
    "Unsir",
    "UnsirSettings",
    "carry_out",
    "find_method",
]
