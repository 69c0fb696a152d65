"""Attributes of classes: validation, a user's JSON, and the description made of them."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stakes.data.names import unprintable
from stakes.errors import AnchorError, shown
from stakes.files import digest

MOST_ATTRIBUTES = 50
LONGEST_ATTRIBUTE = 300
LONGEST_CLASS_NAME = 200
LARGEST_FILE = 16 * 2**20
OTHER_WAYS = {
    "bundled": "use a data set whose class names are bundled (digits, CIFAR-10, CIFAR-100, Fashion-MNIST)",
    "file": "give your own lists with --attributes FILE, a JSON object {class: [attribute, ...]}",
    "llm": "let a language model write them with stakes anchors --llm MODEL, and give its file",
}


@dataclass(frozen=True)
class Attributes:
    """The attribute sets E_c of some classes, and where they came from.

    Attributes:
        by_class: class name to its attributes, in the order of the classes asked for; read-only.
        source: ``bundled cifar10``, ``file NAME sha256 HASH``, ``mapping`` or ``llm MODEL at URL``.

    Source:
        Paper, section 3.1: E_c = {e_{c,j}}, j = 1..M_c.

    Example:
        >>> from stakes.anchors import bundled_attributes
        >>> bundled_attributes(["frog", "cat"]).by_class["frog"][2]
        'very wide mouth'
    """

    by_class: Mapping[str, tuple[str, ...]]
    source: str

    def descriptions(self) -> dict[str, str]:
        """The description d_c of every class, in order."""
        return {name: describe(name, attributes) for name, attributes in self.by_class.items()}


def describe(class_name: str, attributes: Sequence[str]) -> str:
    """Concatenate a class's attributes into its description d_c = concat(e_{c,1}, ..., e_{c,M_c}).

    Attributes keep their order and are joined by ``"; "``, so that commas inside one stay readable. The class
    name itself is *not* part of the text: the paper's d_c holds attributes only, and names such as
    ``person_0`` say nothing about an image. It is asked for so that an error can name the class.

    Raises:
        AnchorError: there is no attribute, or one is not a non-empty string.

    Source:
        Paper, section 3.1.

    Example:
        >>> describe("frog", ["moist green skin", "bulging eyes"])
        'moist green skin; bulging eyes'
    """
    return "; ".join(clean_attributes(class_name, attributes))


def normalise_name(name: str) -> str:
    """A class name without regard to case, spaces, underscores and punctuation.

    Example:
        >>> normalise_name("T-shirt/top") == normalise_name("t_shirt top")
        True
    """
    folded = name.casefold()
    words = "".join(letter if letter.isalnum() else " " for letter in folded).split()
    return " ".join(words) or folded.strip()


def check_class_names(class_names: Iterable[str]) -> tuple[str, ...]:
    """At least two different, non-empty names, as a tuple.

    Raises:
        AnchorError: fewer than two, one twice, or one that is not a usable string.
    """
    if isinstance(class_names, str):
        raise AnchorError(
            "class names", expected="a sequence of names", got=f"the single string {class_names!r}"
        )
    names = tuple(class_names)
    for name in names:
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_CLASS_NAME:
            wanted = f"non-empty strings of at most {LONGEST_CLASS_NAME} characters"
            raise AnchorError("class name", expected=wanted, got=shown(name))
        if unprintable(name):
            raise AnchorError("class name", expected="no control characters", got=ascii(name))
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise AnchorError("class names", expected="each name once", got=f"{listed(twice)} more than once")
    if len(names) < 2:
        raise AnchorError(
            "class names",
            expected="at least 2 classes",
            got=str(len(names)),
            fix="Anchors give each image a place among several classes; one class has no structure.",
        )
    return names


def read_attributes(path: str | Path, class_names: Sequence[str]) -> Attributes:
    """A user's attributes from a JSON file, checked against the classes.

    The file is ``{class: [attribute, ...]}`` or, as the bundled lists, ``{"name": ..., "classes": {...}}``.

    Args:
        path: the file, UTF-8, at most 16 MiB.
        class_names: the classes that must all be there, and no others.

    Raises:
        AnchorError: unreadable, not JSON, a class twice, or anything :func:`check_attributes` refuses.

    Example:
        >>> read_attributes("faces.json", ["person_0", "person_1"])  # doctest: +SKIP
    """
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise AnchorError(f"attributes file {file}", expected="at most 16 MiB", got="a larger file")
        raw = file.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise AnchorError(f"cannot read attributes file {file}", got=reason, fix="Check the path.") from error
    try:
        value = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise AnchorError(
            f"attributes file {file}",
            expected="a JSON object {class: [attribute, ...]}",
            got=str(error)[:200],
        ) from error
    checked = check_attributes(_unwrap(value), class_names, origin=f"attributes file {file}")
    return Attributes(checked.by_class, f"file {file.name} sha256 {digest(raw)}")


def check_attributes(value: Any, class_names: Sequence[str], *, origin: str = "attributes") -> Attributes:
    """Validate a mapping of class name to attributes.

    Every class asked for must be there and no other. Names match exactly or, failing that, without regard to
    case, spaces, underscores and punctuation. Each class has 1 to 50 attributes of at most 300 characters,
    none twice, and no two classes have the same ones (their anchors would coincide).

    Args:
        value: what should be ``{class: [attribute, ...]}``.
        class_names: at least two, different.
        origin: how to call ``value`` in errors.

    Raises:
        AnchorError: any of the above does not hold; names the classes concerned.

    Example:
        >>> check_attributes({"a": ["round"], "b": ["square"]}, ["b", "a"]).by_class["b"]
        ('square',)
    """
    names = check_class_names(class_names)
    if not isinstance(value, Mapping):
        raise AnchorError(
            origin, expected="an object {class: [attribute, ...]}", got=f"a {type(value).__name__}"
        )
    matched = _match(value, names, origin)
    cleaned = {name: clean_attributes(name, attributes, origin) for name, attributes in matched.items()}
    seen: dict[tuple[str, ...], str] = {}
    for name, attributes in cleaned.items():
        key = tuple(attribute.casefold() for attribute in attributes)
        if key in seen:
            raise AnchorError(
                origin,
                expected="attributes that tell the classes apart",
                got=f"the same list for {seen[key]!r} and {name!r}",
            )
        seen[key] = name
    return Attributes(types.MappingProxyType(cleaned), "mapping")


def _match(value: Mapping[Any, Any], names: tuple[str, ...], origin: str) -> dict[str, Any]:
    by_normal: dict[str, list[Any]] = {}
    for given in value:
        by_normal.setdefault(normalise_name(given) if isinstance(given, str) else repr(given), []).append(
            given
        )
    found: dict[str, Any] = {}
    used: list[Any] = []
    for name in names:
        candidates = [name] if name in value else by_normal.get(normalise_name(name), [])
        if len(candidates) > 1:
            raise AnchorError(origin, expected=f"one list for {name!r}", got=f"{listed(candidates)}")
        if candidates and candidates[0] not in used:
            found[name] = value[candidates[0]]
            used.append(candidates[0])
    missing = [name for name in names if name not in found]
    unknown = [given for given in value if given not in used]
    if missing:
        hint = f" It also holds classes that were not asked for: {listed(unknown)}." if unknown else ""
        raise AnchorError(
            origin,
            expected="a list for every class",
            got=f"none for {listed(missing)}",
            fix=f"Add them.{hint}",
        )
    if unknown:
        raise AnchorError(
            origin,
            expected=f"only the {len(names)} classes of the model",
            got=f"unknown classes {listed(unknown)}",
            fix="Remove or rename them: a wrong name is more often a mistake than a spare.",
        )
    return found


def clean_attributes(class_name: str, attributes: Any, origin: str = "attributes") -> tuple[str, ...]:
    """One class's attributes with white space tidied: 1 to 50 different strings of at most 300 characters.

    Raises:
        AnchorError: they are not; names the class.

    Example:
        >>> clean_attributes("cat", [" striped  fur "])
        ('striped fur',)
    """
    what = f"{origin} of class {shown(class_name)}"
    if isinstance(attributes, str) or not isinstance(attributes, Sequence):
        raise AnchorError(what, expected="a list of strings", got=shown(attributes))
    if not 1 <= len(attributes) <= MOST_ATTRIBUTES:
        raise AnchorError(what, expected=f"1 to {MOST_ATTRIBUTES} attributes", got=str(len(attributes)))
    cleaned: list[str] = []
    for attribute in attributes:
        if not isinstance(attribute, str) or not attribute.strip():
            raise AnchorError(what, expected="non-empty strings", got=shown(attribute))
        text = " ".join(attribute.split())
        if len(text) > LONGEST_ATTRIBUTE:
            raise AnchorError(
                what,
                expected=f"at most {LONGEST_ATTRIBUTE} characters each",
                got=f"{len(text)}: {shown(text)}",
            )
        if text.casefold() in {other.casefold() for other in cleaned}:
            raise AnchorError(what, expected="each attribute once", got=f"{shown(text)} twice")
        cleaned.append(text)
    return tuple(cleaned)


def _unwrap(value: Any) -> Any:
    if (
        isinstance(value, dict)
        and isinstance(value.get("classes"), dict)
        and set(value) <= {"name", "classes"}
    ):
        return value["classes"]
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"twice the same name {listed(sorted({n for n in names if names.count(n) > 1}))}")
    return result


def listed(names: Iterable[Any], most: int = 10) -> str:
    """Names for an error message, the first ten of them.

    Example:
        >>> listed(["a", "b"])
        "'a', 'b'"
    """
    words = [shown(name) for name in names]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
