"""What a ledger remembers: one kind of event for each thing that can happen to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict

from stakes.ledger.errors import LedgerError
from stakes.records import Figures

Outcome = Literal["done", "not forgotten", "came back", "abandoned"]


class Body(BaseModel):
    """What one event says; written once, never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
    kind: ClassVar[str]

    def text(self) -> str:
        """As JSON, the same for equal bodies."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )


class Created(Body):
    """The ledger was made for a model.

    Attributes:
        ledger: a random name, so that two ledgers are never taken for each other.
        model, config: hashes of its weights and of its ``config.json``.
        data: where the images are unless a command says otherwise.
        keeps_images: whether the images to forget are kept in the ledger.
        key_check: tells a wrong key from the right one, without giving it away.
    """

    kind: ClassVar[str] = "created"
    ledger: str
    model: str
    config: str
    class_names: tuple[str, ...]
    input_size: tuple[int, int, int]
    data: str | None
    keeps_images: bool
    key_check: str
    version: str


class Asked(Body):
    """Someone asked for images to be forgotten.

    Attributes:
        request: 1, 2, 3 … in the order of arrival.
        images: content hashes, each once.
        rows: where each was in the training split, where it came from there: a hint, the hash decides.
        spec, data, seed: how the images were named.
        requester: keyed hash of who asked.
    """

    kind: ClassVar[str] = "asked"
    request: int
    images: tuple[str, ...]
    rows: tuple[int, ...] | None
    spec: str
    data: str | None
    seed: int
    requester: str | None
    note: str


class Options(Body):
    """How a run is carried out: what must be the same when it is resumed."""

    kind: ClassVar[str] = "options"
    method: str
    preset: str | None
    settings: dict[str, Any]
    run: dict[str, Any]


class Started(Body):
    """A run began.

    Attributes:
        requests: the pending requests that the batch is for.
        round: 0 for their own run, 1, 2 … for repairs.
        forget: the requests whose images this run forgets.
        known: images of requests up to this number are not retained images.
        base: hash of the model it starts from.
        label: what the run's record says about the request.
    """

    kind: ClassVar[str] = "started"
    run: int
    requests: tuple[int, ...]
    round: int
    forget: tuple[int, ...]
    known: int
    base: str
    options: Options
    label: dict[str, str]


class Finished(Body):
    """A run ended with a model, forgotten or not."""

    kind: ClassVar[str] = "finished"
    run: int
    model: str
    config: str
    forgotten: bool
    before: Figures
    after: Figures
    steps: int
    stop_reason: str
    record: str


class Checked(Body):
    """A model was measured on the images of requests.

    Attributes:
        run: the run whose model it is; None for a verification.
        recognised: for each request that is not forgotten, the hashes of the images that are recognised.
    """

    kind: ClassVar[str] = "checked"
    run: int | None
    model: str
    requests: tuple[int, ...]
    recognised: dict[int, tuple[str, ...]]


class Settled(Body):
    """A batch of requests came to an end; ``model`` is the current one from here on."""

    kind: ClassVar[str] = "settled"
    requests: tuple[int, ...]
    outcome: Outcome
    model: str


class Pruned(Body):
    """Model states were given up."""

    kind: ClassVar[str] = "pruned"
    models: tuple[str, ...]


KINDS: dict[str, type[Body]] = {
    body.kind: body for body in (Created, Asked, Started, Finished, Checked, Settled, Pruned)
}
B = TypeVar("B", bound=Body, covariant=True)


@dataclass(frozen=True)
class Event(Generic[B]):
    """One row: a number that only grows, the clock's word for it, what happened, and the hash of the row.

    ``at`` is UTC to the second. Clocks go backwards; the order of events is that of ``seq`` alone.
    """

    seq: int
    at: str
    body: B
    previous: str
    hash: str


def read_body(kind: str, text: str, where: str) -> Body:
    """The body of a row whose hash was found right.

    Raises:
        LedgerError: it was written by another version.
    """
    try:
        return KINDS[kind].model_validate_json(text)
    except (KeyError, pydantic.ValidationError) as error:
        raise LedgerError(
            f"{where} is of an unknown kind",
            expected="one of " + ", ".join(KINDS),
            got=f"{kind} ({str(error).splitlines()[0]})",
            fix="A newer version of stakes may have written it.",
        ) from None
