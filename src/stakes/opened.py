"""A finished run opened again, with its two models and its images, as analyses and audits need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from stakes.anchors.anchors import Anchors
from stakes.config import Device
from stakes.data.forget import ForgetSplit, split_forget
from stakes.data.images import ImageSet
from stakes.data.sources import open_source
from stakes.data.unlabelled import held_back
from stakes.errors import RunFolderError
from stakes.evaluator import sampled
from stakes.models.checkpoint import load_checkpoint
from stakes.models.classifier import Classifier
from stakes.places import data_of, filled, model_of, unlabelled_of
from stakes.records import Record
from stakes.runs import RunFolder
from stakes.runtime import resolve_device


@dataclass(frozen=True)
class OpenedRun:
    """One run with all that it was made from.

    Attributes:
        before, after: the original and the unlearned classifier, in evaluation mode, without gradients.
        split: forget set, and test and retain set where there is data for them.
        anchors: those that the run used; None where its method uses none.
        notes: what was found, and left out because it is not what the record says.
    """

    path: Path
    record: Record
    before: Classifier
    after: Classifier
    split: ForgetSplit
    anchors: Anchors | None
    history: list[dict[str, float]]
    device: torch.device
    notes: tuple[str, ...] = ()


def open_run(
    path: str | Path,
    *,
    data: str | None = None,
    model: str | None = None,
    device: Device = "auto",
    allow_pickle: bool = False,
    factory: Callable[[], nn.Module] | None = None,
) -> OpenedRun:
    """Open a finished run; what it was made from is found where its record says, or where the caller says.

    All of it is compared with the record by hash. A retain or test set that differs is left out, and a note says so: to
    measure on images that were to be forgotten as if they were kept, or as if no model had seen them, would be wrong.
    That is so with a run of a ledger, whose retain set lacks the images of every request known at the time. Test and
    retained images are decoded once for this; of a run with ``retain_sample`` only those retained ones that it
    measured, where they are the ones of the record.

    Args:
        path: the run folder.
        data, model: where data and original checkpoint are now, if they have moved.
        factory: makes an empty network of the user's own class, where the checkpoint cannot say what it is.

    Raises:
        RunFolderError: not a finished run, or data and model are not those of the record (by hash).

    Example:
        >>> run = open_run("runs/first")  # doctest: +SKIP
        >>> run.before(run.split.forget.batch([0])).argmax(dim=1)  # doctest: +SKIP
    """
    folder = RunFolder(Path(path))
    record = Record.load(folder.record_path)
    request = record.request
    owner = f"the record of {path}"
    where, source_name = (
        given or (recorded and filled(recorded, owner=owner))
        for given, recorded in ((model, model_of(request)), (data, data_of(request)))
    )
    if not where or not request.get("forget"):
        raise RunFolderError(
            f"run {path}",
            expected="a record that says which model and images it is about",
            got="a run made in Python without a request",
            fix="Pass request={'model': …, 'data': …, 'forget': …} to unlearn, or name --model.",
        )
    on = resolve_device(device)
    before = load_checkpoint(where, allow_pickle=allow_pickle, factory=factory)
    _same("model", record.hashes.model_before, before.fingerprint(), where)
    after = load_checkpoint(folder.path, factory=factory)
    _same("unlearned model", record.hashes.model_after, after.fingerprint(), str(path))
    source = (
        open_source(source_name, size=before.input_size, class_names=before.class_names)
        if source_name
        else None
    )
    split = split_forget(
        request["forget"],
        source,
        class_names=before.class_names,
        size=before.input_size,
        seed=record.seed,
        # Those of a folder are needed no more; those of the test split must not be measured on.
        unlabelled=apart if (apart := unlabelled_of(request)) and held_back(apart) else None,
    )
    _same("forget set", record.hashes.forget_set, split.forget.fingerprint(), source_name)
    split, notes = _with_its_test_set(*_with_its_retain_set(split, record), record)
    kept = folder.path / "anchors.safetensors"
    anchors = Anchors.load(kept) if kept.is_file() else None
    if anchors is not None and record.hashes.anchors is not None:
        _same(
            "anchors", record.hashes.anchors, anchors.fingerprint(), str(kept), "That file was changed since."
        )
    return OpenedRun(
        path=folder.path,
        record=record,
        before=before.eval().requires_grad_(False).to(on),
        after=after.eval().requires_grad_(False).to(on),
        split=split,
        anchors=anchors,
        history=folder.history(),
        device=on,
        notes=notes,
    )


def _with_its_retain_set(split: ForgetSplit, record: Record) -> tuple[ForgetSplit, tuple[str, ...]]:
    """The split, without a retain set that is not the one of the record, and why."""
    recorded, of_ledger = record.hashes.retain_set, "ledger" in record.request
    if split.retain is None or (recorded is None and not of_ledger):
        return split, ()
    if any(recorded == part.fingerprint() for part in _looked_at(split.retain, record)):
        return split, ()
    why = (
        "it still holds images of other requests of the ledger"
        if of_ledger
        else "the data have changed since"
    )
    note = f"The retain set is left out: it is not the one of the record ({why})."
    return replace(split, retain=None), (note,)


def _with_its_test_set(
    split: ForgetSplit, notes: tuple[str, ...], record: Record
) -> tuple[ForgetSplit, tuple[str, ...]]:
    """The split, without a test set that is not the one of the record: what attacks take for unseen may not be."""
    recorded = record.hashes.test_set
    if split.test is None or recorded is None or split.test.fingerprint() == recorded:
        return split, notes
    note = "The test set is left out: it is not the one of the record (the data have changed since)."
    return replace(split, test=None), (*notes, note)


def _looked_at(retain: ImageSet, record: Record) -> Iterator[ImageSet]:
    """What the run may have looked at of its retain set: a sample, which is quickly hashed, or all of it."""
    if (most := record.run.get("retain_sample")) is not None:
        yield sampled(retain, most, record.seed)
    yield retain


def _same(
    what: str,
    recorded: str,
    found: str,
    where: str | None,
    fix: str = "Say where the right one is with --model or --data.",
) -> None:
    if recorded != found:
        raise RunFolderError(
            f"{what} of the run",
            expected=f"the one of the record ({recorded[:12]}…)",
            got=f"another ({found[:12]}…) at {where}",
            fix=fix,
        )
