"""Carrying requests out: nothing that was forgotten is ever recognised again by a current model."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import NAMES
from ledgerkit import (
    ROWS,
    Amnesiac,
    Lame,
    Solve,
    ask,
    asked_and_done,
    carry_out,
    kinds,
    new_ledger,
    recognised_rows,
    solve,
    source,
)

from stakes.data.images import ImageSet
from stakes.data.sources import Source
from stakes.data.unlabelled import open_unlabelled
from stakes.errors import ConfigError, DataError, OutputError, RunFolderError
from stakes.evaluator import sampled
from stakes.ledger import Ledger, LedgerError, add_request, prune_states, verify_ledger
from stakes.ledger.states import ModelStates
from stakes.methods import Method
from stakes.records import Record

ASKED = {row for rows in ROWS for row in rows}


def test_one_after_another(ledger: Ledger) -> None:
    asked_and_done(ledger)
    view = ledger.view()
    assert recognised_rows(ledger) == [row for row in range(36) if row not in ASKED]
    assert kinds(ledger) == ["created", *["asked"] * 3, *["started", "finished", "checked", "settled"] * 3]
    assert [request.status for request in view.requests.values()] == ["done"] * 3
    assert [event.body.requests for event in view.checks] == [(1,), (1, 2), (1, 2, 3)]
    assert [batch.came_back for batch in view.batches] == [(), (), ()]
    assert len(view.adopted) == 4
    assert view.current == view.adopted[-1] == ledger.current(view).fingerprint()
    # Negative control: the first model knows them all.
    first = ledger.states.load(view.created.body.model, view.created.body.config)
    train = source().train
    assert train is not None
    assert bool((first(train.batch(slice(None))).argmax(1) == train.labels).all())


def test_together(ledger: Ledger) -> None:
    for rows in ROWS:
        ask(ledger, rows)
    report = carry_out(ledger, together=True)
    assert [batch.requests for batch in report.batches] == [(1, 2, 3)]
    assert recognised_rows(ledger) == [row for row in range(36) if row not in ASKED]
    assert kinds(ledger)[4:] == ["started", "finished", "checked", "settled"]
    assert not carry_out(ledger).batches


def test_afresh_forgets_everything_from_the_first_model(ledger: Ledger) -> None:
    first = ledger.view().created.body.model
    for rows in ROWS:
        ask(ledger, rows)
        assert carry_out(ledger, afresh=True).done
    view = ledger.view()
    started = [attempt.started.body for attempt in view.attempts.values()]
    assert [body.forget for body in started] == [(1,), (1, 2), (1, 2, 3)]
    assert {body.base for body in started} == {first}
    assert [body.requests for body in started] == [(1,), (2,), (3,)]
    assert [batch.came_back for batch in view.batches] == [(), (), ()]
    assert recognised_rows(ledger) == [row for row in range(36) if row not in ASKED]


def test_afresh_needs_the_first_model(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    assert carry_out(ledger).done
    ask(ledger, ROWS[1])
    prune_states(ledger, keep=1, keep_first=True)
    interrupted(ledger, afresh=True)
    with pytest.raises(LedgerError, match="afresh: True there, False now"):
        carry_out(ledger)
    assert carry_out(ledger, afresh=True).done
    ask(ledger, ROWS[2])
    prune_states(ledger, keep=1)
    with pytest.raises(LedgerError, match=r"first model of the ledger was pruned.*--keep-first"):
        carry_out(ledger, afresh=True)
    assert ledger.view().requests[3].status == "pending"
    assert carry_out(ledger).done


def test_the_first_model_stays_the_reference(ledger: Ledger) -> None:
    first = ledger.view().created.body.model
    for rows in ROWS[:2]:
        ask(ledger, rows)
        assert carry_out(ledger, reference_first=True).done
    bodies = [attempt.started.body for attempt in ledger.view().attempts.values()]
    assert bodies[0].base == first != bodies[1].base
    records = [Record.load(ledger.run(body.run) / "record.json") for body in bodies]
    assert {record.hashes.reference for record in records} == {first}
    ask(ledger, ROWS[2])
    interrupted(ledger, reference_first=True)
    with pytest.raises(LedgerError, match="reference-first: True there, False now"):
        carry_out(ledger)
    assert carry_out(ledger, reference_first=True).done
    prune_states(ledger, keep=1)
    ask(ledger, [20])
    with pytest.raises(LedgerError, match=r"first model of the ledger was pruned.*--reference-first"):
        carry_out(ledger, reference_first=True)


class Probing(Solve):
    """It says that it trains on probes, and so may be given unlabelled images."""

    name, needs = "probing", frozenset({"probes"})


def few_probes() -> Method[Any]:
    changes = {"max_steps": 1, "probes.kind": "inverted", "probes.inversion.batch": 2}
    return Probing.configure(
        overrides=changes | {"probes.inversion.batches": 1, "probes.inversion.iterations": 1}
    )


def test_no_image_of_any_request_is_among_the_unlabelled_ones(ledger: Ledger) -> None:
    """Where the first model's answers are the aim, one of an earlier request would come back."""
    train = source().train
    assert train is not None
    data = Source(train, train.subset([0, 9, 3, 10, 11, 12]), NAMES, "tiny")
    given, _ = open_unlabelled("test:5", data.test, class_names=NAMES, size=train.size)
    first, second = (set(train.subset([row]).pixel_hashes()) for row in (0, 3))
    assert first | second <= set(given.pixel_hashes())
    more = {"data": data, "method": few_probes(), "unlabelled": "test:5", "reference_first": True}
    for rows in ROWS[:2]:
        ask(ledger, rows)
        assert carry_out(ledger, **more).done
    used = [Record.load(ledger.run(number) / "record.json").unlabelled for number in (1, 2)]
    assert [one.images if one else None for one in used] == [4, 3]
    assert ledger.view().attempts[1].started.body.label["unlabelled"] == "test:5"


def test_unlabelled_images_that_are_not_there_leave_no_trace(ledger: Ledger, tmp_path: Path) -> None:
    ask(ledger, ROWS[0])
    before = kinds(ledger)
    with pytest.raises(DataError, match="no such folder"):
        carry_out(ledger, method=few_probes(), unlabelled=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="method solve: expected a method that trains on probes"):
        carry_out(ledger, unlabelled="test:3")
    assert kinds(ledger) == before
    interrupted(ledger, method=few_probes(), unlabelled="test:3")
    with pytest.raises(LedgerError, match="unlabelled: test:3 there, None now"):
        carry_out(ledger, method=few_probes())
    assert carry_out(ledger, method=few_probes(), unlabelled="test:3").done
    record = Record.load(ledger.run(1) / "record.json")
    assert record.after.test_images == 12 - 3
    assert record.unlabelled is not None
    assert record.unlabelled.images == 3


def test_a_run_is_an_ordinary_run_folder(ledger: Ledger) -> None:
    asked_and_done(ledger)
    view = ledger.view()
    for number in (1, 2, 3):
        record = Record.load(ledger.run(number) / "record.json")
        finished = view.attempts[number].finished
        assert finished is not None
        assert (record.digest(), record.after) == (finished.body.record, finished.body.after)
        assert record.hashes.model_after == finished.body.model
        # Images of any known request are not retained images, and no method may train on them.
        assert record.before.retain_images == 36 - len(ASKED)
        assert (ledger.run(number) / "forget.txt").read_text().split() == [
            str(row) for row in ROWS[number - 1]
        ]
        model = ledger.states.folder(finished.body.model) / "model.safetensors"
        assert os.path.samefile(model, ledger.run(number) / "model.safetensors")
    assert not ledger.cache.exists(), "probes look like the images they were made from"


def test_what_came_back_is_repaired(ledger: Ledger) -> None:
    for rows in ROWS:
        ask(ledger, rows)
    report = carry_out(ledger, solve(Amnesiac))
    assert report.done
    assert recognised_rows(ledger) == [row for row in range(36) if row not in ASKED]
    assert [batch.came_back for batch in report.batches] == [(), (1,), (1, 2)]
    view = ledger.view()
    # Request 2 brings back 1; forgetting 1 again brings back 2; then both are forgotten together.
    assert [one.started.body.forget for one in view.batches[1].attempts] == [(2,), (1,), (1, 2)]
    assert [one.started.body.forget for one in view.batches[2].attempts] == [(3,), (1, 2), (1, 2, 3)]
    checks = [event.body.recognised for event in view.checks]
    assert [set(found) for found in checks] == [set(), {1}, {2}, set(), {1, 2}, {3}, set()]
    assert set(checks[1][1]) == set(view.requests[1].images)


def test_repairs_are_bounded_and_no_deletion_is_traded_for_another(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    carry_out(ledger, solve(Amnesiac))
    before = ledger.view().current
    ask(ledger, ROWS[1])
    report = carry_out(ledger, solve(Amnesiac), repair_rounds=1)
    assert not report.done
    assert report.batches[0].outcome == "came back"
    assert set(report.batches[0].recognised) == {2}
    view = ledger.view()
    assert view.current == before == report.model
    assert [request.status for request in view.requests.values()] == ["done", "pending"]
    assert not set(ROWS[0]) & set(recognised_rows(ledger))
    # It stays pending, and another way is taken.
    assert carry_out(ledger).done
    assert not set(ROWS[0] + ROWS[1]) & set(recognised_rows(ledger))


def test_what_is_not_forgotten_stays_pending(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    ask(ledger, ROWS[1])
    report = carry_out(ledger, solve(Lame))
    assert [batch.outcome for batch in report.batches] == ["not forgotten"] * 2
    assert report.model == ledger.view().created.body.model
    assert "checked" not in kinds(ledger)
    assert carry_out(ledger).done
    assert [batch.outcome for batch in ledger.view().requests[1].tries] == ["not forgotten", "done"]


def test_the_same_image_twice(ledger: Ledger) -> None:
    assert ask(ledger, (0, 1)).again == {}
    added = ask(ledger, (1, 3, 1))
    assert added.images == 2
    assert added.again == {1: 1}
    assert carry_out(ledger).done
    assert ask(ledger, (0, 1)).again == {1: 2, 2: 1}
    report = carry_out(ledger)
    assert report.done
    finished = ledger.view().attempts[3].finished
    assert finished is not None
    assert finished.body.stop_reason == "already forgotten"
    assert not {0, 1, 3} & set(recognised_rows(ledger))


def test_a_twin_of_a_forgotten_image_is_not_retained(tmp_path: Path) -> None:
    train = source().train
    assert train is not None
    twice = train.subset([*range(36), 0])
    ledger = new_ledger(tmp_path / "ledger")
    ask(ledger, (0,))
    carry_out(ledger, data=Source(twice, None, NAMES, "twins"))
    assert Record.load(ledger.run(1) / "record.json").before.retain_images == 35


def test_with_a_sample_no_other_retained_image_is_hashed(tmp_path: Path) -> None:
    """Nor is a twin of a forgotten image in the sample, wherever it lies; and the sample is that of a plain run."""
    train = source().train
    assert train is not None
    hashed: set[int] = set()

    class Watched(ImageSet):
        def hashes(self) -> list[str]:
            hashed.update(self._rows.tolist())
            return super().hashes()

        def _view(self, rows: torch.Tensor, labels: torch.Tensor, *more: Any) -> ImageSet:
            return Watched(self._store, labels, *more, rows=rows)

    def watched(images: ImageSet) -> ImageSet:
        return Watched(images._store, images.labels, images.class_names, images.size, rows=images._rows)

    retained = train.subset(range(1, 36))
    ledger = new_ledger(tmp_path / "ledger")
    ask(ledger, (0,))
    data = Source(watched(train), None, NAMES, "large")
    assert carry_out(ledger, data=data, retain_sample=4, seed=5).done
    record = Record.load(ledger.run(1) / "record.json")
    assert record.hashes.retain_set == sampled(retained, 4, 5).fingerprint()
    assert len(hashed) == 5

    twice = train.subset([0, 0, 0, 0, 7, 0])
    second = new_ledger(tmp_path / "second")
    ask(second, (0,))
    carry_out(second, data=Source(twice, None, NAMES, "twins"), retain_sample=5)
    only = Record.load(second.run(1) / "record.json")
    assert only.before.retain_images == 1
    assert only.hashes.retain_set == train.subset([7]).fingerprint()


def test_an_image_that_the_data_lack_is_named_before_anything_starts(ledger: Ledger) -> None:
    asked_and_done(ledger)
    ask(ledger, (9,))
    train = source().train
    assert train is not None
    lost = train.hashes()[1]
    fewer = Source(train.subset([row for row in range(36) if row != 1]), None, NAMES, "fewer")
    before = kinds(ledger)
    for call in (lambda: carry_out(ledger, data=fewer), lambda: verify_ledger(ledger, data=fewer)):
        with pytest.raises(DataError, match="1 images of requests cannot be found") as caught:
            call()
        assert f"{lost[:12]}… of request 1 (once row 1 of the training split)" in str(caught.value)
    assert kinds(ledger) == before


def test_moved_rows_are_found_by_their_hash(ledger: Ledger) -> None:
    asked_and_done(ledger)
    train = source().train
    assert train is not None
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    assert verify_ledger(ledger, data=Source(train.subset(order), None, NAMES, "moved")).ok
    # The class is part of the hash: the same pixels under another name are another image.
    other = ImageSet.from_tensors(train.batch(slice(None)), (train.labels + 1) % 3, NAMES)
    with pytest.raises(DataError, match="cannot be found"):
        verify_ledger(ledger, data=Source(other, None, NAMES, "other labels"))


def test_kept_images_need_no_data(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "ledger", keep_images=True)
    asked_and_done(ledger)
    assert len(list(ledger.images.iterdir())) == len(ASKED)
    if os.name == "posix":
        modes = {
            path.stat().st_mode & 0o077 for path in (ledger.path, ledger.images, *ledger.images.iterdir())
        }
        assert modes == {0}
    assert verify_ledger(ledger).ok
    assert verify_ledger(ledger, model=ledger.states.load(*original(ledger))).recognised.keys() == {1, 2, 3}
    damaged = next(ledger.images.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=damaged.stem[:12]):
        verify_ledger(ledger)
    assert verify_ledger(ledger, data=source()).ok


def original(ledger: Ledger) -> tuple[str, str]:
    made = ledger.view().created.body
    return made.model, made.config


def test_without_kept_images_no_pixel_is_in_the_ledger(ledger: Ledger) -> None:
    asked_and_done(ledger)
    train = source().train
    assert train is not None
    pieces = [train.batch([row]).numpy().tobytes()[:64] for row in ASKED]
    for path in ledger.path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(piece in content for piece in pieces), path


# -- faults ----------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_but_may_ask(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    with ledger.claimed():
        with pytest.raises(RunFolderError, match=r"one at work.*Requests can be added meanwhile"):
            carry_out(ledger)
        assert ask(ledger, ROWS[1]).number == 2
    assert carry_out(ledger).done


def test_a_request_that_arrives_during_a_run_waits(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])

    def arrives(phase: str, done: int, total: int, **_: float) -> None:
        if phase == "evaluate before" and done == 0:
            ask(ledger, ROWS[1])

    report = carry_out(ledger, progress=arrives)
    assert [batch.requests for batch in report.batches] == [(1,)]
    view = ledger.view()
    assert [request.status for request in view.requests.values()] == ["done", "pending"]
    assert view.attempts[1].started.body.known == 1
    assert carry_out(ledger).done


class Stop(Exception):
    """Pulls the plug."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_stopped_at_every_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    """Whether an event was written or not when the plug is pulled, the same calls lead to the same ledger."""
    uncut = new_ledger(tmp_path / "uncut")
    template = new_ledger(tmp_path / "template")
    for one in (uncut, template):
        for rows in ROWS[:2]:
            ask(one, rows)
    carry_out(uncut, solve(Amnesiac))
    wanted = [(event.body.kind, event.seq) for event in uncut.store.events()]
    cut = Ledger(tmp_path / "cut", factory=template.factory)
    shutil.copytree(template.path, cut.path)
    store = type(cut.store)
    append = store.append

    def pulled(self: Any, *words: Any) -> Any:
        if after:
            append(self, *words)
        raise Stop

    for _ in range(len(wanted) - 3):
        with monkeypatch.context() as patch:
            if after:
                patch.setattr(store, "append", pulled)
            else:
                left = [1]

                def once(self: Any, *words: Any, left: list[int] = left) -> Any:
                    if not left:
                        raise Stop
                    left.pop()
                    return append(self, *words)

                patch.setattr(store, "append", once)
            try:
                carry_out(cut, solve(Amnesiac))
            except Stop:
                continue
            break
    assert [(event.body.kind, event.seq) for event in cut.store.events()] == wanted
    assert cut.view().current == uncut.view().current
    assert cut.view().open_batch is None
    assert verify_ledger(cut, data=source()).ok


def interrupted(ledger: Ledger, **more: Any) -> None:
    def stop(phase: str, done: int, total: int, **_: float) -> None:
        if phase == "unlearn":
            raise Stop

    with pytest.raises(Stop):
        carry_out(ledger, progress=stop, **more)


def test_other_options_do_not_resume(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    interrupted(ledger)
    assert ledger.view().requests[1].status == "at work"
    with pytest.raises(
        LedgerError, match=r"at work with other options.*'solve' there, 'amnesiac' now.*--abandon"
    ):
        carry_out(ledger, solve(Amnesiac))
    with pytest.raises(LedgerError, match="seed"):
        carry_out(ledger, seed=1)
    report = carry_out(ledger, eval_batch=7)
    assert report.batches[0].runs == (1,)
    assert report.done


def test_an_interrupted_batch_can_be_abandoned(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    interrupted(ledger)
    report = carry_out(ledger, solve(Amnesiac), abandon=True)
    assert report.batches[0].runs == (2,)
    assert report.done
    assert [batch.outcome for batch in ledger.view().batches] == ["abandoned", "done"]
    assert not (ledger.run(1) / "state").exists()


def test_full_disk_while_a_state_is_kept(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(ledger, ROWS[0])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("stakes.ledger.states._link", full)
        with pytest.raises(OutputError, match="full disk"):
            carry_out(ledger)
    assert kinds(ledger)[-1] == "started"
    assert ledger.states.present() == [ledger.view().current], "nothing half is left"
    assert carry_out(ledger).done
    assert len(ledger.view().attempts) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_state_is_never_used(ledger: Ledger, name: str) -> None:
    asked_and_done(ledger)
    ask(ledger, (9,))
    view = ledger.view()
    path = ledger.states.folder(view.current) / name
    content = path.read_bytes()
    if name == "config.json":  # the classes in another order: every image would seem forgotten
        path.write_bytes(content.replace(b"ant", b"xxx").replace(b"bee", b"ant").replace(b"xxx", b"bee"))
    else:
        path.write_bytes(content[:-8] + bytes(8))
    for call in (lambda: carry_out(ledger), lambda: verify_ledger(ledger, data=source())):
        with pytest.raises(LedgerError, match=r"models/\w+ is damaged"):
            call()
    path.write_bytes(content)
    shutil.move(ledger.states.folder(view.current), ledger.path / "elsewhere")
    with pytest.raises(LedgerError, match=r"is not in .*models"):
        carry_out(ledger, abandon=True)


def test_links_are_not_needed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    asked_and_done(ledger)


def test_wrong_calls(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="repair rounds"):
        carry_out(ledger, repair_rounds=-1)
    with pytest.raises(ConfigError, match="both ways"):
        carry_out(ledger, settings={"lr": 1.0})
    with pytest.raises(LedgerError, match="new or empty folder"):
        new_ledger(ledger.path)
    with pytest.raises(LedgerError, match="no ledger"):
        carry_out(Ledger(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="--data"):
        add_request(ledger, "random:3")
    assert isinstance(ledger.states, ModelStates)
    assert solve(Solve).settings.max_steps == 1
