"""In which order and under which headings the sections of a run stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stakes.report.section import Section

AUDIT = "Audit: how far the forgetting goes"
USE = "What the model is still good for"
INSIDE = "What changed inside"
OTHER = "Further analyses"

_OVERVIEW = "audit"
_ATTACKS = ("changes", "membership", "relearning", "linear-probe", "distance")
_GROUPS: dict[str, tuple[str, ...]] = {
    AUDIT: (*_ATTACKS, "streisand", _OVERVIEW),
    USE: ("milestones", "retrieval", "class-level"),
    INSIDE: ("collapse", "consistency", "anchors", "radar", "gradcam"),
}


def arranged(sections: Sequence[Section]) -> list[tuple[str, list[Section]]]:
    """Headings with their sections: proof first, then use, then the inside, then whatever else there is."""
    found = {section.name: section for section in sections}
    groups = [
        (title, [found.pop(name) for name in names if name in found]) for title, names in _GROUPS.items()
    ]
    groups.append((OTHER, sorted(found.values(), key=lambda section: section.name)))
    return [(title, members) for title, members in groups if members]


def is_attack(name: str) -> bool:
    """Whether the analysis of that name is one of the attacks of an audit."""
    return name in _ATTACKS


def audited(names: Iterable[str]) -> bool:
    """Whether an attack is among the analyses of these names."""
    return any(map(is_attack, names))


def audit_of(sections: Sequence[Section]) -> list[Section]:
    """The findings that say how far the forgetting goes, without the overview that repeats them."""
    return [section for section in dict(arranged(sections)).get(AUDIT, []) if section.name != _OVERVIEW]
