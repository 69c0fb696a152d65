"""Methods of unlearning, by the name they have on the command line."""

from __future__ import annotations

from typing import Any

from stakes.errors import ConfigError
from stakes.methods.adv import Adv, AdvSettings
from stakes.methods.amun import Amun, AmunSettings
from stakes.methods.base import ForFew, Method, Outcome, carry_out
from stakes.methods.before import Before
from stakes.methods.boundary import BoundaryExpand, BoundarySettings, BoundaryShrink, ShrinkSettings
from stakes.methods.fisher import Fisher, FisherSettings
from stakes.methods.job import Batch, Batches, Job, NoStore
from stakes.methods.l2ul import L2ul, L2ulSettings
from stakes.methods.lotus import Lotus, LotusSettings
from stakes.methods.neggrad import NegGrad
from stakes.methods.oracle import Oracle, OracleFinetune, OracleFinetuneSettings, OracleSettings
from stakes.methods.random_label import RandomLabel, RelabelSettings
from stakes.methods.rawp import Rawp, RawpSettings
from stakes.methods.salun import SalUn, SalUnSettings
from stakes.methods.structguard import StructGuard
from stakes.methods.structguard_settings import StructGuardSettings
from stakes.methods.unsir import Unsir, UnsirSettings

METHODS: dict[str, type[Method[Any]]] = {
    "before": Before,
    "oracle": Oracle,
    "oracle-finetune": OracleFinetune,
    "fisher": Fisher,
    "neggrad": NegGrad,
    "rawp": Rawp,
    "adv": Adv,
    "l2ul": L2ul,
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
    "Adv",
    "AdvSettings",
    "Amun",
    "AmunSettings",
    "Batch",
    "Batches",
    "Before",
    "BoundaryExpand",
    "BoundarySettings",
    "BoundaryShrink",
    "Fisher",
    "FisherSettings",
    "ForFew",
    "Job",
    "L2ul",
    "L2ulSettings",
    "Lotus",
    "LotusSettings",
    "Method",
    "NegGrad",
    "NoStore",
    "Oracle",
    "OracleFinetune",
    "OracleFinetuneSettings",
    "OracleSettings",
    "Outcome",
    "RandomLabel",
    "Rawp",
    "RawpSettings",
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
