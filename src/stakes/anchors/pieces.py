"""Cutting a long description into pieces that an encoder can read."""

from __future__ import annotations

from collections.abc import Callable

SEPARATOR = "; "


def split_to_fit(text: str, tokens: Callable[[str], int], longest: int) -> list[str]:
    """Cut ``text`` into the fewest consecutive pieces of at most ``longest`` tokens.

    Cuts fall between attributes (``"; "``); an attribute that is too long by itself is cut between words. A
    single word that is still too long stays whole, and the encoder truncates it.

    Args:
        text: the description.
        tokens: number of tokens of a text, marks included.
        longest: most tokens of a piece.

    Example:
        >>> split_to_fit("a b; c d; e", lambda text: len(text.split()), 4)
        ['a b; c d', 'e']
    """
    if tokens(text) <= longest:
        return [text]
    parts: list[tuple[str, str]] = []  # what joins a part to the one before it, and the part
    for attribute in text.split(SEPARATOR):
        if tokens(attribute) <= longest:
            parts.append((SEPARATOR, attribute))
        else:
            words = attribute.split()
            parts += [(SEPARATOR if index == 0 else " ", word) for index, word in enumerate(words)]
    pieces: list[str] = []
    for joint, part in parts:
        if pieces and tokens(pieces[-1] + joint + part) <= longest:
            pieces[-1] += joint + part
        else:
            pieces.append(part)
    return pieces
