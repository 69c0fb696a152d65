"""Carrying requests out: forget, check every earlier request on the new model, repair what came back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stakes.anchors.anchors import Anchors
from stakes.config import QUIET, RunSettings, build
from stakes.data.sources import Source
from stakes.errors import ConfigError
from stakes.inputs import as_method
from stakes.ledger.events import Options
from stakes.ledger.folder import Ledger
from stakes.ledger.work import BatchReport, Work
from stakes.methods import Method
from stakes.progress import Progress, silent
from stakes.records import Figures
from stakes.runtime import resolve_device


@dataclass(frozen=True)
class RunReport:
    """What one call of `run_requests` did.

    Attributes:
        batches: what became of each.
        model, folder: hash and place of the current model.
        first: figures of the ledger's first model, as its first run found them; None before there was one.
    """

    batches: tuple[BatchReport, ...]
    model: str
    folder: Path
    first: Figures | None = None

    @property
    def done(self) -> bool:
        """Whether every batch was."""
        return all(batch.outcome == "done" for batch in self.batches)


def run_requests(
    ledger: Ledger,
    *,
    data: str | Path | Source | None = None,
    images: str | Path | None = None,
    together: bool = False,
    afresh: bool = False,
    reference_first: bool | None = None,
    unlabelled: str | None = None,
    anchors: Anchors | None = None,
    method: str | Method[Any] = "structguard",
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    repair_rounds: int = 3,
    abandon: bool = False,
    progress: Progress = silent,
    **run: Any,
) -> RunReport:
    """Carry out the pending requests on the current model.

    For each batch: (1) unlearn its images; (2) measure the new model on the images of **every** request that is done,
    and of the batch; (3) where some came back, unlearn all that came back so far in this batch once more, and measure
    again, for at most ``repair_rounds`` rounds. The new model becomes the current one only if nothing at all is
    recognised; otherwise the current model stays as it was and the requests stay pending, so that no deletion is ever
    traded for another.

    With ``afresh``, (1) starts from the first model of the ledger instead of the current one, and unlearns the images
    of all requests that are done together with the batch. Then what each request costs the model does not add up: the
    result is that of one request for all images. It takes longer the more was asked, and needs the first model, which
    remembers everything.

    Runs start from the current model, but the answers to keep, and the probes, are those of the first model of the
    ledger, while that is kept: what one request breaks does not become the aim of the next one. A request is one of
    many, so a preset that sets otherwise for a sequence does so (`Method.one_of_many`), but for ``afresh``.

    Images of any request known so far are never retained images: neither trained on nor counted as kept.

    Every step is an event in the ledger; a process that is killed at any moment goes on with the same call.

    Args:
        data: where the training images are, if not where the ledger says.
        images: a folder with images of requests that the data lack, in CLASS subfolders.
        together: all pending requests as one batch; otherwise one after another, in order.
        afresh: start from the first model, and forget what is done and what is asked.
        reference_first: whether the model is held to the answers of the first one; None: if it was not pruned.
        unlabelled: a folder of images without labels, or ``test:N``, on which the model is to go on answering as it
            does (`stakes.data.unlabelled`). Copies of images that a request of this ledger forgets or has forgotten are
            left out.
        anchors, method, preset, settings: as for `unlearn`; default the method's default preset. With a
            configured method, ``preset`` is its name for the record.
        repair_rounds: at least 0.
        abandon: give up a batch that was interrupted instead of resuming it. Its requests are pending again.
        run: fields of `RunSettings`.

    Raises:
        RunFolderError: another process is at work on the ledger.
        LedgerError: the ledger is damaged, an interrupted batch had other options, or the first model was pruned.
        DataError: an image of an earlier request cannot be found, so that it could not be checked.
        StakesError: as `unlearn`.

    Note:
        "Done" is misclassification of the exact images at the time of the check. It says nothing about membership
        attacks, relearning, or earlier states of the model, which remember until they are pruned.

    Example:
        >>> report = run_requests(ledger)  # doctest: +SKIP
        >>> [batch.outcome for batch in report.batches]  # doctest: +SKIP
        ['done']
    """
    if repair_rounds < 0:
        raise ConfigError("repair rounds", expected="0 or more", got=str(repair_rounds))
    configured = as_method(method, preset, settings, "request run")
    named = preset or (None if isinstance(method, Method) else configured.default_preset)
    chosen = build(RunSettings, run)
    resolve_device(chosen.device)  # refused before anything starts
    with ledger.claimed():
        work = Work(
            ledger=ledger,
            where=(data, Path(images) if images is not None else None),
            anchors=anchors,
            method=configured,
            run=chosen,
            options=Options(
                method=configured.name,
                preset=named,
                settings=configured.settings.model_dump(mode="json"),
                run=chosen.model_dump(mode="json", exclude=QUIET),
            ),
            rounds=repair_rounds,
            progress=progress,
            afresh=afresh,
            reference_first=reference_first,
            unlabelled=unlabelled,
        )
        return _carry_out(work, together=together, abandon=abandon)


def _carry_out(work: Work, *, together: bool, abandon: bool) -> RunReport:
    view = work.ledger.view()
    reports = []
    if view.open_batch is not None:
        if abandon:
            work.abandon(view, view.open_batch)
        else:
            work.refuse_other_options(view.open_batch)
            reports.append(work.batch(view.open_batch.requests))
    pending = [request.number for request in work.ledger.view().with_status("pending")]
    tried = {number for report in reports for number in report.requests}
    pending = [number for number in pending if number not in tried]
    batches = [tuple(pending)] if together and pending else [(number,) for number in pending]
    reports += [work.batch(requests) for requests in batches]
    view = work.ledger.view()
    begun = view.attempts.get(1)
    first = begun.finished.body.before if begun and begun.finished else None
    return RunReport(tuple(reports), view.current, work.ledger.states.folder(view.current), first)
