"""Measuring the deployed model against everything that was ever forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stakes.config import Device
from stakes.data.sources import Source
from stakes.ledger.errors import CameBackError, LedgerError
from stakes.ledger.events import Checked
from stakes.ledger.folder import Ledger
from stakes.ledger.gather import gather
from stakes.ledger.measure import recognised
from stakes.ledger.states import config_hash
from stakes.ledger.view import View
from stakes.models.checkpoint import load_checkpoint
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.runtime import resolve_device


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes:
        model, expected: hashes of the deployed model and of the ledger's current one.
        mismatch: how the two differ; empty where they do not.
        checked: the requests that were measured: all that are done; none where the model tells other classes.
        images: how many images each of them has.
        recognised: the requests that came back, with the hashes of the images that are recognised.
        pending: requests that are not carried out yet.
        backwards: numbers of events whose clock was behind that of an earlier one.
        head: hash of the ledger's newest event, to be kept elsewhere and asked for next time.
    """

    model: str
    expected: str
    mismatch: str
    checked: tuple[int, ...]
    images: dict[int, int]
    recognised: dict[int, tuple[str, ...]]
    pending: tuple[int, ...]
    backwards: tuple[int, ...]
    head: str

    @property
    def ok(self) -> bool:
        """Whether it is the right model and recognises nothing that was forgotten."""
        return not self.mismatch and not self.recognised

    def problems(self) -> list[str]:
        """One sentence each."""
        back = [
            f"Request {number} came back: {len(names)} of {self.images[number]} images are recognised "
            f"({', '.join(name[:12] + '…' for name in names[:3])})."
            for number, names in self.recognised.items()
        ]
        return ([f"The model is not the ledger's: {self.mismatch}."] if self.mismatch else []) + back

    def require(self) -> None:
        """Raise if anything is wrong.

        Raises:
            CameBackError: naming it.
        """
        if not self.ok:
            raise CameBackError(
                "verification failed. " + " ".join(self.problems()),
                fix="Do not deploy this model: deploy the ledger's current one, or run the requests again.",
            )


def verify_ledger(
    ledger: Ledger,
    *,
    model: Classifier | str | Path | None = None,
    data: str | Path | Source | None = None,
    images: str | Path | None = None,
    head: str | None = None,
    device: Device = "auto",
    batch: int = 256,
    allow_pickle: bool = False,
    progress: Progress = silent,
) -> Verification:
    """Measure a model on the images of every request that is done; what was found becomes an event.

    First the ledger itself: SQLite's integrity check, the chain of hashes, and that its newest events are there. Then
    whether the model is the one that the ledger says, by the hashes of weights and ``config.json``. Then the images.

    Args:
        model: the deployed classifier or its checkpoint; default the ledger's own current state.
        data, images: where the images are; see `run_requests`.
        head: a hash that an earlier verification or export gave: the ledger must contain it.
        batch: images a pass.

    Returns:
        What was found; ``.require()`` raises where something is wrong.

    Raises:
        LedgerError: the ledger is damaged, or does not contain ``head``.
        DataError: an image cannot be found, so that nothing could be said.

    Example:
        >>> verify_ledger(ledger, model="deployed/").require()  # doctest: +SKIP
    """
    view = ledger.view()
    if head is not None:
        _require_head(ledger, head)
    if model is None:
        classifier = ledger.current(view)
    elif isinstance(model, Classifier):
        classifier = model.clone()
    else:
        classifier = load_checkpoint(model, allow_pickle=allow_pickle, factory=ledger.factory)
    done = view.with_status("done")
    state = classifier.fingerprint()
    mismatch = _mismatch(view, state, config_hash(classifier))
    if set(classifier.class_names) != set(view.created.body.class_names):
        # Nothing can be measured, and nothing need be: it cannot be the ledger's.
        mismatch, done = (
            f"{mismatch}, and it tells other classes than the ledger, so no image was measured",
            [],
        )
    gatherer = gather(ledger, view, data, Path(images) if images is not None else None)
    hits = recognised(
        classifier,
        done,
        gatherer,
        gatherer.find(done),
        batch=batch,
        device=resolve_device(device),
        progress=progress,
    )
    numbers = tuple(request.number for request in done)
    event = ledger.store.append(
        Checked, lambda _: Checked(run=None, model=state, requests=numbers, recognised=hits)
    )
    return Verification(
        model=state,
        expected=view.current,
        mismatch=mismatch,
        checked=numbers,
        images={request.number: len(request.images) for request in done},
        recognised=hits,
        pending=tuple(request.number for request in view.with_status("pending", "at work")),
        backwards=tuple(view.backwards),
        head=event.hash,
    )


def _mismatch(view: View, state: str, config: str) -> str:
    if state == view.current:
        return "" if config == view.configs[state] else "its config.json is another one"
    if state == view.created.body.model:
        return f"it is the original model {state[:12]}…, before any request"
    if state in view.adopted:
        return f"it is the earlier state {state[:12]}…; the current one is {view.current[:12]}…"
    if state in view.configs:
        return f"it is the state {state[:12]}…, which was never made the current one"
    return f"{state[:12]}… is no state that the ledger knows; the current one is {view.current[:12]}…"


def _require_head(ledger: Ledger, head: str) -> None:
    known = [event.hash for event in ledger.store.events()]
    if not any(one.startswith(head) for one in known) or len(head) < 12:
        raise LedgerError(
            f"{ledger.path} does not contain the event {head[:12]}…",
            expected="a hash (12 characters or more) that an earlier verification gave",
            got=f"a ledger whose newest event is {known[-1][:12]}…",
            fix="If the hash is right, the ledger was cut short or replaced. Restore the newest copy.",
        )
