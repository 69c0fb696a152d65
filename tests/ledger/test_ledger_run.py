"""Carrying requests out: nothing that was forgotten is ever recognised again by a current model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
from doubles import NAMES
from ledgerkit import (
    ASKED,
    ROWS,
    Amnesiac,
    Lame,
    Solve,
    ask,
    asked_and_done,
    carry_out,
    interrupted,
    kinds,
    recognised_rows,
    solve,
    source,
)

from stakes.data.sources import Source
from stakes.data.unlabelled import open_unlabelled
from stakes.errors import ConfigError, DataError
from stakes.ledger import Ledger, LedgerError, prune_states
from stakes.methods import ForFew, Method
from stakes.records import Record


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


def test_the_first_model_is_the_reference_while_it_is_kept(ledger: Ledger) -> None:
    first = ledger.view().created.body.model
    for rows in ROWS[:2]:
        ask(ledger, rows)
    assert carry_out(ledger, reference_first=None).done
    prune_states(ledger, keep=1)
    ask(ledger, ROWS[2])
    assert carry_out(ledger, reference_first=None).done
    bodies = [attempt.started.body for attempt in ledger.view().attempts.values()]
    assert [(body.requests, body.round) for body in bodies] == [
        ((1,), 0),
        *[((2,), repair) for repair in range(3)],
        ((3,), 0),
    ]
    assert [body.label.get("reference") for body in bodies] == [None, first, first, first, None]


def test_the_current_model_may_be_the_reference(ledger: Ledger) -> None:
    for rows in ROWS[:2]:
        ask(ledger, rows)
        assert carry_out(ledger, reference_first=False).done
    bodies = [attempt.started.body for attempt in ledger.view().attempts.values()]
    assert [body.label.get("reference") for body in bodies] == [None, None]
    ask(ledger, ROWS[2])
    interrupted(ledger, reference_first=False)
    with pytest.raises(LedgerError, match="reference-first: False there, True now"):
        carry_out(ledger, reference_first=None)
    assert carry_out(ledger, reference_first=False).done


def test_every_run_of_a_ledger_draws_anew(ledger: Ledger) -> None:
    for rows in ROWS[:2]:
        ask(ledger, rows)
    assert carry_out(ledger, reference_first=None, seed=5).done
    runs = [ledger.run(number) / "record.json" for number in ledger.view().attempts]
    assert [Record.load(path).seed for path in runs] == [5, 6, 7, 8], "two requests, and two repairs"
    options = {attempt.started.body.options.run["seed"] for attempt in ledger.view().attempts.values()}
    assert options == {5}


class Presets(Solve):
    """It sets otherwise for a small request, and for one that others follow."""

    name, default_preset = "presets", "usual"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"usual": {"max_steps": 2}}
    for_few: ClassVar[dict[str, ForFew]] = {"usual": ForFew(9, {"lr": 0.5})}
    in_sequence: ClassVar[dict[str, dict[str, Any]]] = {"usual": {"lr": 0.25}}


@pytest.mark.parametrize(("afresh", "lr"), [(False, 0.25), (True, 0.5)])
def test_a_request_that_others_follow_has_the_settings_of_a_sequence(
    ledger: Ledger, afresh: bool, lr: float
) -> None:
    for rows in ROWS[:2]:
        ask(ledger, rows)
        assert carry_out(ledger, Presets.configure(), afresh=afresh).done
    records = [Record.load(ledger.run(number) / "record.json") for number in (1, 2)]
    assert [record.settings["lr"] for record in records] == [lr, lr]


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
