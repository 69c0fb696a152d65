"""Class names: checked, compared, and suggested when one is misspelt."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

from stakes.errors import DataError

_SHOWN = 8
# Overrides of the writing direction: what is read is then not what is compared.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def checked_names(names: Iterable[str]) -> tuple[str, ...]:
    """Give ``names`` as a tuple of distinct, non-empty strings without control characters.

    Raises:
        DataError: there is none, one is not a string, is blank or holds a control character, or one appears twice.

    Example:
        >>> checked_names(["cat", "dog"])
        ('cat', 'dog')
    """
    found = (names,) if isinstance(names, str) else tuple(names)
    if isinstance(names, str) or not found:
        raise DataError("class names", expected="a list of at least one name", got=repr(names))
    seen: set[str] = set()
    for position, name in enumerate(found):
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"class name {position}", expected="a name that is not blank", got=repr(name))
        if unprintable(name):
            raise DataError(
                f"class name {position}",
                expected="no control characters",
                got=ascii(name),
                fix="Rename the class, or the folder that it comes from.",
            )
        if name in seen:
            raise DataError(f"class name {position}", expected="every name once", got=f"{name!r} again")
        seen.add(name)
    return found


def spellings(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """For each name the one of the known ones that reads the same, or itself where none does.

    Some systems write an accented letter as one sign, others (folders on a Mac) as a letter and an accent.

    Example:
        >>> spellings(["Zoe\\u0308"], ["Ada", "Zo\\u00eb"]) == {"Zoe\\u0308": "Zo\\u00eb"}
        True
    """
    by_form = {one_form(name): name for name in known}
    return {name: by_form.get(one_form(name), name) for name in names}


def one_form(text: str) -> str:
    """The text with each accented letter as one sign."""
    return unicodedata.normalize("NFC", text)


def unprintable(name: str) -> bool:
    """Whether a name holds what could steer a terminal or turn text around instead of being shown.

    Path signs such as ``/`` and ``..`` are let through: no file is ever named after a class.

    Example:
        >>> unprintable("../cat"), unprintable("cat\\x1b[2J")
        (False, True)
    """
    return any(unicodedata.category(sign) in ("Cc", "Cs") or sign in _TURNING for sign in name)


def listed(names: Sequence[str]) -> str:
    """Show names in one line, the first few where there are many."""
    more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more


def suggestion(name: str, names: Sequence[str]) -> str:
    """A sentence that helps someone who wrote ``name`` where one of ``names`` was wanted.

    Example:
        >>> suggestion("Aeroplane", ["airplane", "dog"])
        "Did you mean 'airplane'?"
        >>> suggestion("x", ["airplane", "dog"])
        "The classes are 'airplane', 'dog'."
    """
    by_lower: dict[str, str] = {}
    for known in names:
        by_lower.setdefault(known.lower(), known)
    near = difflib.get_close_matches(name.lower(), list(by_lower), n=3)
    if near:
        return "Did you mean " + " or ".join(repr(by_lower[match]) for match in near) + "?"
    return f"The classes are {listed(names)}."


def check_same_names(found: Sequence[str], wanted: Sequence[str], *, owner: str) -> None:
    """Check that the classes of the data are the classes of the model, in any order.

    Raises:
        DataError: the counts or the names differ; the message shows the first differences.
    """
    if len(found) != len(wanted):
        raise DataError(
            "label count ≠ model outputs",
            expected=f"{len(wanted)} classes, one per output of the model",
            got=f"{len(found)} classes in {owner}",
            fix="Use the data that the model was trained for, or the model that was trained on this data.",
        )
    if set(found) == set(wanted):
        return
    extra = [name for name in found if name not in set(wanted)]
    missing = [name for name in wanted if name not in set(found)]
    raise DataError(
        f"class names of {owner} are not the model's",
        expected=listed(missing) + " (only the model has these)",
        got=listed(extra) + " (only the data has these)",
        fix="Both must use the same names; their order does not matter.",
    )
