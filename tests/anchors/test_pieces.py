"""Cutting descriptions to length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stakes.anchors.pieces import split_to_fit

WORDS = st.lists(
    st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=6), min_size=1, max_size=8
)


def _tokens(text: str) -> int:
    return 2 + len(text.split())


@given(WORDS, st.integers(3, 12))
def test_pieces_fit_and_nothing_is_lost(attributes: list[list[str]], longest: int) -> None:
    text = "; ".join(" ".join(words) for words in attributes)
    pieces = split_to_fit(text, _tokens, longest)
    assert all(_tokens(piece) <= longest for piece in pieces)
    assert " ".join(pieces).replace(";", "").split() == text.replace(";", "").split()


def test_a_text_that_fits_is_left_whole() -> None:
    assert split_to_fit("a b; c", _tokens, 5) == ["a b; c"]


def test_cuts_fall_between_attributes() -> None:
    assert split_to_fit("a b; c d; e", _tokens, 6) == ["a b; c d", "e"]


def test_one_long_attribute_is_cut_between_words() -> None:
    assert split_to_fit("a b c d e", _tokens, 4) == ["a b", "c d", "e"]


def test_one_long_word_stays_whole() -> None:
    assert split_to_fit("abcdef", len, 3) == ["abcdef"]
