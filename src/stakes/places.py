"""Where a record or a grid says that things are."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

from stakes.errors import ConfigError

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def filled(text: str, *, owner: str, strict: bool = True) -> str:
    """A text with each ``${VARIABLE}`` from the environment.

    Args:
        owner: who says so, for the error.
        strict: whether a variable that is not set is an error; otherwise it stays as written.

    Raises:
        ConfigError: a variable is not set.

    Example:
        >>> filled("${NOT_SET}/data", owner="a grid", strict=False), filled("digits", owner="a grid")
        ('${NOT_SET}/data', 'digits')
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None and strict:
            raise ConfigError(
                f"{text} in {owner}",
                expected=f"the variable {match[1]} in the environment",
                got="none",
                fix=f"Set it: export {match[1]}=/a/folder.",
            )
        return match[0] if found is None else found

    return _VARIABLE.sub(value, text)


def shell_word(text: str) -> str:
    """A word of a POSIX shell, in which ``${VARIABLE}`` alone means something.

    Example:
        >>> print(shell_word("a b"), shell_word("${HOME}/a b"), shell_word("${HOME}$(id)"))
        'a b' "${HOME}/a b" '${HOME}$(id)'
    """
    rest = _VARIABLE.sub("", text)
    return shlex.quote(text) if rest == text or set('"`\\$!') & set(rest) else f'"{text}"'


def model_of(request: Mapping[str, Any]) -> str | None:
    """Where the original model of a record's request is; a cell of a bench has a name for it as well."""
    return request.get("checkpoint") or request.get("model")


def unlabelled_of(request: Mapping[str, Any]) -> str | None:
    """The unlabelled images of a record's request, or those that a bench held back for other rows."""
    return request.get("unlabelled") or request.get("held_back")


def data_of(request: Mapping[str, Any]) -> str | None:
    """Where the data of a record's request are."""
    return request.get("source") or request.get("data")
