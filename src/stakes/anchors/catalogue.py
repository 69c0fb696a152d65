"""The attribute lists that ship with the library, found by class names."""

from __future__ import annotations

import difflib
import functools
import json
import types
from collections.abc import Sequence
from importlib import resources

from stakes.anchors.attributes import OTHER_WAYS, Attributes, check_class_names, listed, normalise_name
from stakes.errors import AnchorError


def bundled_attributes(class_names: Sequence[str]) -> Attributes:
    """The attributes that ship with the library, by class name.

    All classes must stand in *one* bundled list (digits, cifar10, cifar100, fashion_mnist), because the lists
    are written to tell the classes of one data set apart. Case, spaces, underscores and punctuation in names
    do not matter.

    Args:
        class_names: at least two, different.

    Raises:
        AnchorError: no bundled list holds all classes; names those missing, near matches, and the other ways.

    Example:
        >>> bundled_attributes(["Maple Tree", "sweet_pepper"]).source
        'bundled cifar100'
    """
    names = check_class_names(class_names)
    best: tuple[list[str], str] | None = None
    for title, classes in sorted(_bundled().items()):
        by_normal = {normalise_name(name): attributes for name, attributes in classes.items()}
        missing = [name for name in names if normalise_name(name) not in by_normal]
        if not missing:
            found = {name: by_normal[normalise_name(name)] for name in names}
            _refuse_collisions(names)
            return Attributes(types.MappingProxyType(found), f"bundled {title}")
        if best is None or len(missing) < len(best[0]):
            best = (missing, title)
    if best is None:
        raise AnchorError("bundled attributes are missing from the installation", fix="Install stakes again.")
    raise _not_bundled(*best)


def _refuse_collisions(names: tuple[str, ...]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(normalise_name(name), name)
        if other != name:
            raise AnchorError(
                "class names",
                expected="names that differ by more than case and punctuation",
                got=f"{other!r} and {name!r}",
                fix=f"Rename one, or {OTHER_WAYS['file']}.",
            )


def _not_bundled(missing: list[str], title: str) -> AnchorError:
    known: dict[str, str] = {}
    for classes in _bundled().values():
        for name in classes:
            known.setdefault(normalise_name(name), name)
    near: list[str] = []
    for name in missing[:10]:
        matches = difflib.get_close_matches(normalise_name(name), known, n=2, cutoff=0.6)
        if matches:
            near.append(f"{name!r} is near {' and '.join(repr(known[match]) for match in matches)}")
    hint = f"Near matches: {'; '.join(near)}. " if near else ""
    return AnchorError(
        "bundled attributes",
        expected="all classes in one bundled list",
        got=f"none for {listed(missing)} in {title!r}, the list that fits best",
        fix=f"{hint}You can {OTHER_WAYS['file']}, or {OTHER_WAYS['llm']}.",
    )


@functools.cache
def _bundled() -> dict[str, dict[str, tuple[str, ...]]]:
    lists: dict[str, dict[str, tuple[str, ...]]] = {}
    for entry in resources.files("stakes.anchors").joinpath("bundled").iterdir():
        if entry.name.endswith(".json"):
            value = json.loads(entry.read_text(encoding="utf-8"))
            lists[value["name"]] = {name: tuple(items) for name, items in value["classes"].items()}
    return lists
