"""What the events of a ledger amount to: requests, batches, runs, checks, and the current model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from stakes.ledger.errors import LedgerError
from stakes.ledger.events import (
    Asked,
    Body,
    Checked,
    Created,
    Event,
    Finished,
    Outcome,
    Pruned,
    Settled,
    Started,
)

Status = Literal["pending", "at work", "done"]


@dataclass
class Attempt:
    """One run, as far as it got."""

    started: Event[Started]
    finished: Event[Finished] | None = None
    checked: Event[Checked] | None = None


@dataclass
class Batch:
    """Requests that are carried out together: their own run, then repairs."""

    requests: tuple[int, ...]
    attempts: list[Attempt] = field(default_factory=list)
    settled: Event[Settled] | None = None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it is at work."""
        return self.settled.body.outcome if self.settled else None

    @property
    def came_back(self) -> tuple[int, ...]:
        """Earlier requests that some run of this batch brought back, repaired or not."""
        checks = [attempt.checked.body for attempt in self.attempts if attempt.checked]
        return tuple(sorted({n for check in checks for n in check.recognised} - set(self.requests)))


@dataclass
class Request:
    """One request and what became of it."""

    asked: Event[Asked]
    status: Status = "pending"
    tries: list[Batch] = field(default_factory=list)
    done: Event[Settled] | None = None
    checks: list[Event[Checked]] = field(default_factory=list)

    @property
    def number(self) -> int:
        """1, 2, 3 … in the order of arrival."""
        return self.asked.body.request

    @property
    def images(self) -> tuple[str, ...]:
        """Content hashes."""
        return self.asked.body.images


@dataclass
class View:
    """The state of a ledger after all its events.

    Attributes:
        current: hash of the model that all done requests are forgotten by.
        configs: hash of the ``config.json`` of every state there ever was.
        adopted: the states that were current, oldest first, each at its last time.
        backwards: numbers of events whose clock was behind that of an earlier one.
    """

    created: Event[Created]
    current: str
    configs: dict[str, str]
    adopted: list[str]
    requests: dict[int, Request] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    checks: list[Event[Checked]] = field(default_factory=list)
    pruned: set[str] = field(default_factory=set)
    backwards: list[int] = field(default_factory=list)
    head: str = ""

    @property
    def open_batch(self) -> Batch | None:
        """The batch that was interrupted, or is at work now."""
        return self.batches[-1] if self.batches and self.batches[-1].settled is None else None

    def with_status(self, *status: Status) -> list[Request]:
        """Requests in their order."""
        return [request for request in self.requests.values() if request.status in status]

    def images(self, numbers: Iterable[int]) -> list[str]:
        """Content hashes of requests in their order, each once."""
        return list(dict.fromkeys(one for number in numbers for one in self.requests[number].images))

    def request(self, number: int) -> Request:
        """A request by its number.

        Raises:
            LedgerError: there is none.
        """
        if number not in self.requests:
            known = f"1 to {len(self.requests)}" if self.requests else "none: nothing was asked yet"
            raise LedgerError(f"request {number}", expected=known, got=str(number))
        return self.requests[number]


def replay(events: Sequence[Event[Body]], where: str) -> View:
    """Go through the events in their order; the clock plays no part.

    Raises:
        LedgerError: they make no sense, which an intact chain of this version excludes.
    """
    if not events or not isinstance(events[0].body, Created):
        raise LedgerError(where, expected="a ledger that begins with its model", got="an empty one")
    first = cast(Event[Created], events[0])
    made = first.body
    view = View(first, made.model, {made.model: made.config}, [made.model])
    latest = ""
    for event in events:
        if event.at < latest:
            view.backwards.append(event.seq)
        latest = max(latest, event.at)
        view.head = event.hash
        try:
            _apply(view, event)
        except (KeyError, IndexError) as error:
            raise LedgerError(f"event {event.seq} of {where}", got=f"a reference to {error}") from error
    return view


def _apply(view: View, event: Event[Any]) -> None:
    body = event.body
    if isinstance(body, Asked):
        view.requests[body.request] = Request(event)
    elif isinstance(body, Started):
        _start(view, event)
    elif isinstance(body, Finished):
        view.attempts[body.run].finished = event
        view.configs[body.model] = body.config
        view.pruned.discard(body.model)
    elif isinstance(body, Checked):
        if body.run is not None:
            view.attempts[body.run].checked = event
        view.checks.append(event)
        for number in body.requests:
            view.requests[number].checks.append(event)
    elif isinstance(body, Settled):
        _settle(view, event)
    elif isinstance(body, Pruned):
        view.pruned |= set(body.models)


def _start(view: View, event: Event[Started]) -> None:
    if event.body.round == 0:
        view.batches.append(Batch(event.body.requests))
        for number in event.body.requests:
            view.requests[number].status = "at work"
            view.requests[number].tries.append(view.batches[-1])
    attempt = Attempt(event)
    view.batches[-1].attempts.append(attempt)
    view.attempts[event.body.run] = attempt


def _settle(view: View, event: Event[Settled]) -> None:
    done = event.body.outcome == "done"
    view.batches[-1].settled = event
    for number in event.body.requests:
        view.requests[number].status = "done" if done else "pending"
        view.requests[number].done = event if done else None
    view.current = event.body.model
    if done:
        view.adopted = [state for state in view.adopted if state != view.current] + [view.current]
