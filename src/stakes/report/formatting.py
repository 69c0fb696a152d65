"""How numbers, names and tables are written on a page; what is rounded here keeps its full value beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stakes.report.section import Cell, Table

UNKNOWN = "unknown"
_DIGITS = 4
_TINY, _HUGE = 1e-4, 1e9


@dataclass(frozen=True)
class CellView:
    """One cell: what is read, and what it is sorted by (None: not a number, sorted by its text)."""

    text: str
    value: str | None
    numeric: bool


@dataclass(frozen=True)
class TableView:
    """A table ready to be written; ``numeric`` says which columns stand to the right."""

    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[CellView, ...], ...]


def words(name: str) -> str:
    """A key as people read it.

    Example:
        >>> words("tpr_at_1_percent")
        'tpr at 1 percent'
    """
    return name.replace("_", " ").replace("-", " ")


def prose(text: str) -> str:
    """A sentence whose numbers stay on one line with their percent signs."""
    return re.sub(r"(?<=\d) %", "\u00a0%", text)


def percent(value: float | None) -> str:
    """An accuracy in percent, with two decimals.

    Example:
        >>> percent(87.98), percent(None)
        ('87.98 %', 'unknown')
    """
    return UNKNOWN if value is None else f"{value:.2f} %"


def points(before: float | None, after: float | None) -> str:
    """The change of an accuracy in percentage points, with a sign; empty where one side is unknown."""
    return "" if before is None or after is None else signed(after - before)


def signed(change: float) -> str:
    """Two decimals and a sign, and no sign where it rounds to nothing."""
    text = f"{abs(change):.2f}"
    return text if float(text) == 0 else f"{'−' if change < 0 else '+'}{text}"


def duration(seconds: float) -> str:
    """A time as people say it.

    Example:
        >>> duration(7.26), duration(874.7), duration(5000)
        ('7.3 s', '14 min 35 s', '1 h 23 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shown(value: Any, places: int | None = None) -> str:
    """A cell as it is read: four significant digits, thousands apart, no trailing zeros unless a column asks.

    Args:
        value: text, number, or None for what is not known.
        places: decimals of the column; None takes as many as four digits need.

    Example:
        >>> shown(0.531249), shown(12345), shown(2.5e-7), shown(3.0, 2), shown(None)
        ('0.5312', '12,345', '2.50e-07', '3.00', 'unknown')
    """
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not places:
        return _minus(f"{value:,}")
    free = places is None
    if places is None:
        places = _places(value)
        # A small number keeps three digits, or becomes a power of ten below.
        while abs(value) >= _TINY and abs(round(value, places) - value) > 5e-3 * abs(value):
            places += 1
    # Never a nought for what is not nought.
    if value and (round(value, places) == 0 or abs(value) >= _HUGE or (free and abs(value) < _TINY)):
        return _minus(f"{value:.2e}")
    return _minus(f"{value:,.{places}f}")


def table_view(table: Table, *, by_rows: bool = False) -> TableView:
    """A table with its decimals alike down each column, or along each row where a row is one quantity."""
    width = len(table.columns)
    rows = [tuple(row[:width]) + (None,) * (width - len(row)) for row in table.rows]
    columns = list(zip(*rows, strict=True)) if rows else [()] * width
    numeric = tuple(i > 0 if by_rows else _all_numbers(column) for i, column in enumerate(columns))
    down = [_common_places(column) for column in columns]
    cells = []
    for row in rows:
        along = _common_places(row)
        cells.append(
            tuple(_cell(value, along if by_rows else down[i], numeric[i]) for i, value in enumerate(row))
        )
    return TableView(table.caption, table.columns, numeric, tuple(cells))


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys, as ``--set`` takes them.

    Example:
        >>> flat({"lr": 0.1, "probes": {"epsilon": 4.0}})
        {'lr': 0.1, 'probes.epsilon': 4.0}
    """
    found: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        found |= flat(inner, f"{name}.") if isinstance(inner, Mapping) else {name: inner}
    return found


def changed_from(start: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, under dotted keys, that are not what they are in ``start``.

    Example:
        >>> changed_from({"lr": 0.1, "probes": {"epsilon": 4.0}}, {"lr": 0.1, "probes": {"epsilon": 2.0}})
        {'probes.epsilon': 2.0}
    """
    before = flat(start)
    return {name: value for name, value in flat(here).items() if before.get(name) != value}


def _cell(value: Cell, places: int, numeric: bool) -> CellView:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return CellView(shown(value, places if numeric else None), repr(value) if is_number else None, numeric)


def _all_numbers(column: Iterable[Cell]) -> bool:
    known = [value for value in column if value is not None]
    return bool(known) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known)


def _common_places(values: Iterable[Cell]) -> int:
    """Decimals for all of them: as many as the finest needs, but no more than the greatest deserves."""
    found = [abs(v) for v in values if isinstance(v, (int, float)) and math.isfinite(v) and abs(v) < _HUGE]
    needed = max((_places(value) for value in found if value >= _TINY), default=0)
    return min(needed, max(_DIGITS - _whole(max(found, default=0)), 2))


def _places(value: float) -> int:
    """Decimals that four significant digits need, at most four."""
    text = f"{value:.{max(_DIGITS - _whole(value), 0)}f}"
    return len(text.rstrip("0").partition(".")[2])


def _whole(value: float) -> int:
    """Digits before the point."""
    return max(math.floor(math.log10(abs(value))) + 1, 0) if value else 0


def _minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text
