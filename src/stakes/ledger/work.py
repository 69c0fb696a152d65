"""One batch of requests, step by step: each step is read from the ledger, done, and written down as an event."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stakes.anchors.anchors import Anchors
from stakes.api import unlearn
from stakes.config import RunSettings
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.data.sources import Source
from stakes.data.unlabelled import open_unlabelled, usable
from stakes.files import digest_json, write_bytes
from stakes.inputs import refuse_unlabelled
from stakes.ledger.errors import LedgerError
from stakes.ledger.events import Checked, Finished, Options, Outcome, Settled, Started
from stakes.ledger.folder import Ledger
from stakes.ledger.gather import Place, gather
from stakes.ledger.measure import recognised
from stakes.ledger.states import config_hash
from stakes.ledger.view import Attempt, Batch, Request, View
from stakes.methods import Method
from stakes.progress import Progress
from stakes.records import Figures, Record
from stakes.runtime import resolve_device


@dataclass(frozen=True)
class BatchReport:
    """What became of one batch of requests.

    Attributes:
        requests: their numbers.
        outcome: ``done``: forgotten, and every earlier request too; ``not forgotten``: its own run did not reach it;
            ``came back``: some request was recognised after the last repair. Only ``done`` changes the current model.
        came_back: earlier requests that were brought back on the way.
        recognised: what the last check found, by request.
        runs: numbers of its runs, repairs included.
        before, after: figures of the model that its first run began with, and of its last run's; None where no run
            came to an end.
    """

    requests: tuple[int, ...]
    outcome: Outcome
    came_back: tuple[int, ...]
    recognised: dict[int, tuple[str, ...]]
    runs: tuple[int, ...]
    before: Figures | None = None
    after: Figures | None = None


@dataclass
class Work:
    """How batches are carried out in one call of `run_requests`.

    What is to be done next is always read from the ledger, never remembered: a process that takes over knows as much.
    """

    ledger: Ledger
    where: tuple[str | Path | Source | None, Path | None]
    anchors: Anchors | None
    method: Method[Any]
    run: RunSettings
    options: Options
    rounds: int
    progress: Progress
    afresh: bool = False
    reference_first: bool | None = None
    unlabelled: str | None = None

    def batch(self, requests: tuple[int, ...]) -> BatchReport:
        """Carry out pending requests, or go on with those at work, until they are settled."""
        view = self.ledger.view()
        self.gatherer = gather(self.ledger, view, *self.where)
        self.where = (self.gatherer.source, self.where[1])  # opened, decoded and hashed once for all batches
        # All of them, before anything starts: what cannot be found cannot be checked.
        concerned = [view.requests[n] for n in sorted({*requests, *_numbers(view.with_status("done"))})]
        self.found = self.gatherer.find(concerned)
        self.given = self._unlabelled()
        while (report := self._step(requests)) is None:
            pass
        # Probes look like the images they were made from.
        shutil.rmtree(self.ledger.cache, ignore_errors=True)
        return report

    def _step(self, requests: tuple[int, ...]) -> BatchReport | None:
        """Take the next step of the batch; its report once it is settled."""
        view = self.ledger.view()
        batch = view.open_batch
        if batch is None:
            forget, base = self._first(view, requests)
            self._start(view, requests, forget=forget, number=0, base=base)
            return None
        attempt = batch.attempts[-1]
        if attempt.finished is None:
            self._unlearn(view, attempt)
            return None
        if attempt.checked is None:
            if attempt.started.body.round == 0 and not attempt.finished.body.forgotten:
                return self._settle(view, batch, "not forgotten", {})
            self._check(view, batch, attempt)
            return None
        found = attempt.checked.body.recognised
        if not found:
            return self._settle(view, batch, "done", found)
        if attempt.started.body.round >= self.rounds:
            return self._settle(view, batch, "came back", found)
        # Everything that came back so far: repairing one set after another could go round in circles.
        back = {n for one in batch.attempts if one.checked for n in one.checked.body.recognised}
        self._start(
            view,
            requests,
            forget=tuple(sorted(back)),
            number=attempt.started.body.round + 1,
            base=attempt.finished.body.model,
        )
        return None

    def _first(self, view: View, requests: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
        """What the batch's own run forgets, and the model that it starts from."""
        if not self.afresh:
            return requests, view.current
        first = _kept_first(view, "--afresh")
        return tuple(sorted({*requests, *_numbers(view.with_status("done"))})), first

    def _start(
        self, view: View, requests: tuple[int, ...], *, forget: tuple[int, ...], number: int, base: str
    ) -> None:
        rows = self._rows(view.images(forget))
        where = {"model": str(self.ledger.states.folder(base)), "data": self._data_name()}
        run_name = len(view.attempts) + 1
        if rows:
            where["forget"] = f"indices:{self.ledger.run(run_name) / 'forget.txt'}"
        label = {key: value for key, value in where.items() if value} | {
            "ledger": view.created.body.ledger,
            "requests": ", ".join(map(str, forget)),
        }
        if (reference := self._reference(view, base)) is not None:
            label["reference"] = reference
        if self.unlabelled is not None:
            label["unlabelled"] = self.unlabelled
        self.ledger.store.append(
            Started,
            lambda run: Started(
                run=run,
                requests=requests,
                round=number,
                forget=forget,
                known=len(view.requests),
                base=base,
                options=self.options,
                label=label,
            ),
        )

    def _reference(self, view: View, base: str) -> str | None:
        """The first model where its answers are to be kept; None: those of the model that a run starts from."""
        if self.reference_first:
            return _kept_first(view, "--reference-first")
        first = view.created.body.model
        if self.reference_first is None and base != first and first not in view.pruned:
            return first
        return None

    def _unlearn(self, view: View, attempt: Attempt) -> None:
        started = attempt.started.body
        folder = self.ledger.run(started.run)
        known = [request for request in view.requests.values() if request.number <= started.known]
        names = view.images(started.forget)
        unlabelled, test = self.given
        split = ForgetSplit(
            forget=self.gatherer.join(names, self.found),
            test=test,
            retain=self.gatherer.retained(known, self._measured(), self.run.seed),
            unlabelled=unlabelled,
        )
        reference = started.label.get("reference")
        result = unlearn(
            self.ledger.states.load(started.base, view.configs[started.base]),
            split,
            reference=self.ledger.states.load(reference, view.configs[reference]) if reference else None,
            anchors=self.anchors,
            method=self.method if self.afresh else self.method.one_of_many(),
            preset=self.options.preset,
            out=folder,
            cache=self.ledger.cache,
            request=started.label,
            progress=self.progress,
            # Other draws in each run: steps that went too far along the same ones would add up.
            **self.run.model_dump() | {"seed": self.run.seed + started.run - 1},
        )
        if "forget" in started.label:
            rows = "".join(f"{row}\n" for row in self._rows(names))
            write_bytes(folder / "forget.txt", rows.encode())
        record: Record = result.record
        self.ledger.states.put_run(folder, record.hashes.model_after)
        self.ledger.store.append(
            Finished,
            lambda _: Finished(
                run=started.run,
                model=record.hashes.model_after,
                config=config_hash(result.classifier),
                forgotten=record.forgotten,
                before=record.before,
                after=record.after,
                steps=record.steps,
                stop_reason=record.stop_reason,
                record=record.digest(),
            ),
        )

    def _unlabelled(self) -> tuple[ImageSet | None, ImageSet | None]:
        """Unlabelled images, without any that a request of this ledger forgets or has forgotten; and the test set."""
        test = self.gatherer.test
        if self.unlabelled is None:
            return None, test
        refuse_unlabelled(self.method)
        size = self.gatherer.view.created.body.input_size
        found, test = open_unlabelled(self.unlabelled, test, class_names=self.gatherer.names, size=size)
        gone = self.gatherer.join(sorted(self.found), self.found)
        return usable(found, gone, most=self.run.unlabelled_most, seed=self.run.seed), test

    def _check(self, view: View, batch: Batch, attempt: Attempt) -> None:
        """Every request that is done, and those of the batch, on the new model."""
        finished = attempt.finished.body if attempt.finished else None
        if finished is None:
            raise LedgerError("a check", expected="a finished run")
        numbers = sorted({*_numbers(view.with_status("done")), *batch.requests})
        hits = recognised(
            self.ledger.states.load(finished.model, finished.config),
            [view.requests[number] for number in numbers],
            self.gatherer,
            self.found,
            batch=self.run.eval_batch,
            device=resolve_device(self.run.device),
            progress=self.progress,
        )
        self.ledger.store.append(
            Checked,
            lambda _: Checked(
                run=finished.run, model=finished.model, requests=tuple(numbers), recognised=hits
            ),
        )

    def _settle(
        self, view: View, batch: Batch, outcome: Outcome, found: dict[int, tuple[str, ...]]
    ) -> BatchReport:
        last = batch.attempts[-1].finished
        model = last.body.model if outcome == "done" and last else view.current
        self.ledger.store.append(
            Settled, lambda _: Settled(requests=batch.requests, outcome=outcome, model=model)
        )
        runs = tuple(attempt.started.body.run for attempt in batch.attempts)
        begun = batch.attempts[0].finished
        return BatchReport(
            batch.requests,
            outcome,
            batch.came_back,
            found,
            runs,
            before=begun.body.before if begun else None,
            after=last.body.after if last else None,
        )

    def abandon(self, view: View, batch: Batch) -> None:
        """Give an interrupted batch up."""
        self._settle(view, batch, "abandoned", {})
        for attempt in batch.attempts:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.ledger.run(attempt.started.body.run) / "state")
        shutil.rmtree(self.ledger.cache, ignore_errors=True)

    def refuse_other_options(self, batch: Batch) -> None:
        """An interrupted batch goes on with the options that it began with, or not at all."""
        begun = batch.attempts[-1].started.body.options.model_dump(mode="json")
        wanted = self.options.model_dump(mode="json")
        differ = [
            f"{name}: {begun[name]!r} there, {wanted[name]!r} now"
            for name in ("method", "preset", "run", "settings")
            if digest_json(begun[name]) != digest_json(wanted[name])
        ]
        first, view = batch.attempts[0].started.body, self.ledger.view()
        more = set(first.forget) != set(first.requests)
        if more != (self.afresh and bool(view.with_status("done"))):
            differ.append(f"afresh: {more} there, {self.afresh} now")
        held, hold = "reference" in first.label, self._reference(view, first.base) is not None
        if held != hold:
            differ.append(f"reference-first: {held} there, {hold} now")
        if first.label.get("unlabelled") != self.unlabelled:
            differ.append(f"unlabelled: {first.label.get('unlabelled')} there, {self.unlabelled} now")
        if differ:
            raise LedgerError(
                f"requests {', '.join(map(str, batch.requests))} are at work with other options",
                expected="the same options, to resume",
                got="; ".join(differ)[:600],
                fix="Give those options, or --abandon to begin anew.",
            )

    def _measured(self) -> int | None:
        """How many retained images are looked at; None: all."""
        return None if "retain" in self.method.needs else self.run.retain_sample

    def _rows(self, names: Iterable[str]) -> list[int]:
        """Rows of the training split, if all of the images are there."""
        places: list[Place] = [self.found[name] for name in names]
        inside = all(images is self.gatherer.train for images, _ in places)
        return [position for _, position in places] if inside else []

    def _data_name(self) -> str:
        source = self.gatherer.source
        return source.name if source is not None else ""


def _kept_first(view: View, option: str) -> str:
    """The first model of the ledger."""
    first = view.created.body.model
    if first in view.pruned and first != view.current:
        raise LedgerError(
            "the first model of the ledger was pruned",
            expected=f"its state, for {option}",
            fix=f"Leave {option} out. Next time keep it: stakes request prune --keep-first.",
        )
    return first


def _numbers(requests: Iterable[Request]) -> list[int]:
    return [request.number for request in requests]
