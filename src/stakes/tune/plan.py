"""What a plan of `stakes tune` says: a grid of one problem, what to search for each method, and how many trials."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from stakes.bench.grid import Count, Grid, MethodEntry, load_grid
from stakes.config import MethodSettings, Settings
from stakes.errors import ConfigError
from stakes.methods import Method


class Span(Settings):
    """Numbers from ``low`` to ``high``, by their logarithm unless ``log`` is false; whole ones with ``whole``."""

    low: float
    high: float
    log: bool = True
    whole: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low below high, and above 0 unless log is false")
        if self.whole and (self.low % 1 or self.high % 1):
            raise ValueError("whole ends for whole numbers")
        return self


Choices = tuple[bool | int | float | str, ...]
Space = Mapping[str, Span | Choices]


class SearchEntry(MethodEntry):
    """A row of a plan: a method, where its search starts, and what is searched.

    ``search`` maps dotted settings to a span or a list of choices. Left out, it is what the method itself names
    (`Method.search`), or the learning rate from a tenth to ten times the one that it starts from.
    """

    search: dict[str, Span | Choices] = Field({})

    @model_validator(mode="after")
    def _starts_from_its_own(self) -> SearchEntry:
        if self.tuned is not None:
            raise ValueError("a search starts from settings, not from tuned: write the chosen ones there")
        return self


class TunePlan(Grid):
    """A grid of one data set and model whose methods are tuned; every row gets the same number of trials.

    Take seeds or k here that the tables do not report: what is chosen on a request fits it better than others.
    """

    methods: tuple[SearchEntry, ...] = Field(min_length=1)
    trials: Count = Field(12, description="settings tried for each row, the ones it starts from among them")

    @model_validator(mode="after")
    def _one_problem(self) -> TunePlan:
        if len(self.data) != 1 or len(self.data[0].models) != 1:
            raise ValueError("a plan has one data set and one model")
        return self


def load_plan(path: Path) -> TunePlan:
    """Read a plan.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or a wrong value, named.
    """
    return load_grid(path, TunePlan)


def space_of(entry: SearchEntry, method: Method[Any]) -> dict[str, Span | Choices]:
    """What is searched for a row whose method, as it starts, is given.

    Raises:
        ConfigError: the method has no such setting, or does not take an end or a choice.

    Example:
        >>> from stakes.methods import find_method
        >>> space_of(SearchEntry(method="neggrad"), find_method("neggrad").configure())
        {'lr': Span(low=0.0001, high=0.01, log=True, whole=False)}
    """
    space: dict[str, Span | Choices] = dict(entry.search) or own_space(method)
    for name, span in space.items():
        ends = (span.low, span.high) if isinstance(span, Span) else span
        if not ends:
            raise ConfigError(f"search {name} of row {entry.row}", expected="choices", got="none")
        for end in ends:
            whole = isinstance(span, Span) and span.whole
            method.settings.with_overrides({name: int(end) if whole else end})
    return space


def own_space(method: Method[Any]) -> dict[str, Span | Choices]:
    """What a method names to be searched, or its learning rate from a tenth to ten times.

    Example:
        >>> from stakes.methods import find_method
        >>> own_space(find_method("rawp").configure())
        {'gamma': Span(low=0.001, high=0.1, log=True, whole=False)}
    """
    if method.search:
        return {name: Span(low=low, high=high) for name, (low, high) in method.search.items()}
    rate = method.settings.lr
    return {"lr": Span(low=rate / 10, high=rate * 10)}


def told_space(space: Space) -> dict[str, Any]:
    """A space as a record has it."""
    return {
        name: span.model_dump(mode="json") if isinstance(span, Span) else list(span)
        for name, span in space.items()
    }


def start_of(settings: MethodSettings, space: Space) -> dict[str, Any]:
    """The values that settings have of what is searched, by dotted names.

    Example:
        >>> from stakes.methods import find_method
        >>> start_of(find_method("neggrad").configure().settings, {"lr": (0.1,)})
        {'lr': 0.001}
    """
    return {name: reduce(getattr, name.split("."), settings) for name in space}
