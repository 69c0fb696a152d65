"""Taking a request down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stakes.data.forget import ForgetSplit, split_forget
from stakes.data.images import ImageSet
from stakes.data.sources import Source, open_source
from stakes.ledger.events import Asked
from stakes.ledger.folder import Ledger
from stakes.ledger.gather import keep
from stakes.ledger.requester import hashed, read_key
from stakes.ledger.view import View


@dataclass(frozen=True)
class Added:
    """A request that was taken down.

    Attributes:
        number: 1, 2, 3 … in the order of arrival.
        at: what the clock said.
        images: how many different images it names.
        again: earlier requests that name some of the same images, and how many. That is allowed.
    """

    number: int
    at: str
    images: int
    again: dict[int, int]


def add_request(
    ledger: Ledger,
    forget: str | ForgetSplit | ImageSet,
    *,
    data: str | Path | Source | None = None,
    requester: str | None = None,
    note: str = "",
    seed: int = 0,
) -> Added:
    """Take a request down; nothing is unlearned yet. Allowed while a run is at work.

    What is kept: the content hash of every image, the spec and data that led to it, the time, a keyed hash of who
    asked, and the note as it stands (put no names there, nor into paths of the spec).

    Args:
        forget: a spec as for `split_forget`, or the images.
        data: where the images are, if not where the ledger says.
        requester: who asked: a name, an address, a customer number.
        seed: for ``random:K``.

    Raises:
        DataError: the spec fits nothing.
        LedgerError: the ledger is damaged, or its key is missing.

    Example:
        >>> add_request(ledger, "indices:rows.txt", requester="ann@example.org").number  # doctest: +SKIP
        1
    """
    view = ledger.view()
    made = view.created.body
    split, where = _split(view, forget, data, seed)
    by_name: dict[str, int] = {}
    for position, name in enumerate(split.forget.hashes()):
        by_name.setdefault(name, position)
    rows = tuple(split.indices[position] for position in by_name.values()) if split.indices else None
    who = hashed(requester, read_key(ledger.key, made.key_check)) if requester is not None else None
    if made.keeps_images:
        # Before the request, so that no request lacks its images; an image without a request is found by its hash.
        keep(split.forget.subset(list(by_name.values())), list(by_name), ledger.images)
    event = ledger.store.append(
        Asked,
        lambda number: Asked(
            request=number,
            images=tuple(by_name),
            rows=rows,
            spec=split.spec,
            data=where,
            seed=seed,
            requester=who,
            note=note,
        ),
    )
    earlier = (request for request in view.requests.values() if request.number < event.body.request)
    again = {request.number: len(by_name.keys() & set(request.images)) for request in earlier}
    return Added(
        event.body.request, event.at, len(by_name), {n: count for n, count in again.items() if count}
    )


def _split(
    view: View, forget: str | ForgetSplit | ImageSet, data: str | Path | Source | None, seed: int
) -> tuple[ForgetSplit, str | None]:
    """The images, and the name of their source."""
    made = view.created.body
    if isinstance(forget, ImageSet):
        forget = ForgetSplit(forget)
    if isinstance(forget, ForgetSplit):
        images = forget.forget.for_classes(made.class_names)
        return ForgetSplit(images, spec=forget.spec, indices=forget.indices), None
    named = data if data is not None else made.data
    if forget.startswith("images:"):
        named = None  # the folder is all that is needed
    source = (
        named
        if named is None or isinstance(named, Source)
        else open_source(named, size=made.input_size, class_names=made.class_names)
    )
    split = split_forget(forget, source, class_names=made.class_names, size=made.input_size, seed=seed)
    return split, source.name if source else None
