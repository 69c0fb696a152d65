"""How numbers and tables are written."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stakes.report.formatting import duration, flat, prose, shown, signed, table_view
from stakes.report.section import Cell, Table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"), (True, "yes"), ("a < b", "a < b"), (0, "0"), (12345, "12,345"), (-3, "−3"),
        (0.0, "0"), (100.0, "100"), (27.91, "27.91"), (0.53129, "0.5313"), (-21.6219, "−21.62"),
        (123456.7, "123,457"), (2.5e-7, "2.50e-07"), (1e12, "1.00e+12"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_a_cell(value: Cell, text: str) -> None:
    assert shown(value) == text


@example(0.001953125)
@given(st.floats(min_value=-1e300, max_value=1e300))
def test_what_is_shown_is_the_value_to_three_digits(value: float) -> None:
    read = float(shown(value).replace(",", "").replace("−", "-"))
    assert read == pytest.approx(value, rel=6e-3)
    assert (read == 0) == (value == 0), "nothing becomes nought by rounding"


def texts(*rows: tuple[Cell, ...], by_rows: bool = False) -> list[list[str]]:
    table = Table(caption="", columns=tuple("abcd"[: max(map(len, rows))]), rows=rows)
    return [[cell.text for cell in row] for row in table_view(table, by_rows=by_rows).rows]


def test_the_decimals_of_a_column_are_alike() -> None:
    assert texts(("x", 96.0591), ("y", -0.2111), ("z", 3)) == [["x", "96.06"], ["y", "−0.21"], ["z", "3.00"]]
    assert texts((0.31, 12), (1e-5, None)) == [["0.31", "12"], ["1.00e-05", "unknown"]]


def test_the_decimals_of_a_row_are_alike_where_a_row_is_one_quantity() -> None:
    rows = (("members", 64, 10000), ("auc", 0.31, 0.2234), ("none", None, None))
    assert texts(*rows, by_rows=True) == [
        ["members", "64", "10,000"],
        ["auc", "0.3100", "0.2234"],
        ["none", "unknown", "unknown"],
    ]


def test_a_table_keeps_full_values_for_sorting_and_fills_short_rows() -> None:
    view = table_view(Table(caption="", columns=("name", "n", "late"), rows=(("a", 1 / 3), ("b", 7, "x"))))
    assert [cell.value for cell in view.rows[0]] == [None, repr(1 / 3), None]
    assert view.numeric == (False, True, False)
    assert view.rows[0][2].text == "unknown"
    assert table_view(Table(caption="", columns=("a",), rows=())).rows == ()


def test_small_words() -> None:
    assert (signed(-60.07), signed(0.001), signed(2)) == ("−60.07", "0.00", "+2.00")
    assert (duration(7.26), duration(874.7), duration(59.99), duration(5000)) == (
        "7.3 s", "14 min 35 s", "60.0 s", "1 h 23 min",
    )  # fmt: skip
    assert prose("R@1 64.0 %, of %") == "R@1 64.0\u00a0%, of %"
    assert flat({"a": {"b": {"c": 1}}, "d": None}) == {"a.b.c": 1, "d": None}
