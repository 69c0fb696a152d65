"""One attack a file: from evidence to a section of the report."""

from __future__ import annotations

from collections.abc import Callable

from stakes.audit.evidence import Evidence, Finding
from stakes.audit.sections.changes import changes
from stakes.audit.sections.distance import distance
from stakes.audit.sections.linear_probe import linear_probe
from stakes.audit.sections.membership import membership
from stakes.audit.sections.relearning import relearning

ATTACKS: dict[str, Callable[[Evidence], Finding]] = {
    "changes": changes,
    "membership": membership,
    "relearning": relearning,
    "linear-probe": linear_probe,
    "distance": distance,
}

__all__ = ["ATTACKS"]
