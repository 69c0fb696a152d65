from __future__ import annotations

import pytest

from stakes.data.names import check_same_names, listed, suggestion
from stakes.errors import DataError


def test_any_order_is_accepted() -> None:
    check_same_names(["b", "a"], ["a", "b"], owner="x")


def test_counts_that_differ_say_so() -> None:
    with pytest.raises(
        DataError, match=r"label count ≠ model outputs: expected 2 classes.*got 3 classes in x"
    ):
        check_same_names(["a", "b", "c"], ["a", "b"], owner="x")


def test_first_differences_are_shown_and_long_lists_are_cut() -> None:
    with pytest.raises(DataError, match=r"expected 'plane' \(only the model.*got 'airplane' \(only the data"):
        check_same_names(["airplane", "cat"], ["plane", "cat"], owner="x")
    assert listed([str(n) for n in range(100)]).endswith("'7', … (100 in all)")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Dog", "Did you mean 'dog'?"),
        ("automobiles", "Did you mean 'automobile'?"),
        ("zebra", "The classes are 'automobile', 'dog'."),
    ],
)
def test_suggestion(name: str, expected: str) -> None:
    assert suggestion(name, ["automobile", "dog"]) == expected
