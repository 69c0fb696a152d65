"""The command line as one of many processes: one of them speaks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from stakes.errors import ConfigError
from stakes.launcher import launched, rank

_TOGETHER = ("unlearn", "evaluate")


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Keep stdout to the first process that a launcher started; errors are said by whoever has them.

    Raises:
        ConfigError: a command that many processes would do many times over.
    """
    count = launched()
    if count < 2:
        yield
        return
    word = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if word and word not in _TOGETHER:
        raise ConfigError(
            f"stakes {word}",
            expected=f"one process ({' and '.join(_TOGETHER)} take many)",
            got=f"{count} from the launcher",
            fix="Leave the launcher out. For many cells: stakes bench --jobs, or --engine ray.",
        )
    with contextlib.ExitStack() as stack:
        if speaks():
            yield
            return
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield


def alone_for(option: str, instead: str) -> None:
    """Refuse an option that many processes would carry out many times over.

    Raises:
        ConfigError: a launcher started several.
    """
    if (count := launched()) > 1:
        raise ConfigError(option, expected="one process", got=f"{count} from the launcher", fix=instead)


def speaks() -> bool:
    """Whether this process is the one that prints, or the only one."""
    return rank() == 0
