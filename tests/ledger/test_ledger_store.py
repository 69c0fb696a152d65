"""The file of events: what was written is read back, or refused by name; it is never half believed."""

from __future__ import annotations

import datetime
import random
import sqlite3
from pathlib import Path

import pytest
from ledgerkit import ROWS, Clock, ask, asked_and_done, carry_out, kinds

from stakes.errors import OutputError, StakesError
from stakes.ledger import Ledger, LedgerError, open_ledger, verify_ledger
from stakes.ledger.events import Asked
from stakes.ledger.store import EventStore, link


def direct(ledger: Ledger, *statements: str) -> None:
    """Change the file behind the ledger's back, as someone who knows SQLite."""
    db = sqlite3.connect(ledger.path / "ledger.sqlite", isolation_level=None)
    for statement in ("DROP TRIGGER events_stay", "DROP TRIGGER events_are_kept", *statements):
        db.execute(statement)
    db.close()


def test_events_follow_each_other(ledger: Ledger) -> None:
    for rows in ROWS:
        ask(ledger, rows)
    events = ledger.store.events()
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert [event.previous for event in events] == ["", *(event.hash for event in events[:-1])]
    for event in events:
        body = event.body
        assert event.hash == link(event.previous, event.seq, event.at, body.kind, body.text())


def test_events_cannot_be_changed_by_accident(ledger: Ledger) -> None:
    db = sqlite3.connect(ledger.path / "ledger.sqlite")
    for statement in ("UPDATE events SET at = 'x'", "DELETE FROM events"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ('UPDATE events SET body = replace(body, \'"note":""\', \'"note":"x"\') WHERE seq = 3', "event 3"),
        ("UPDATE events SET at = '2020-01-01T00:00:00+00:00' WHERE seq = 2", "event 2"),
        ("UPDATE events SET kind = 'done' WHERE seq = 4", "event 4"),
        ("DELETE FROM events WHERE seq = 2", "event 3 does not follow event 1"),
        ("DELETE FROM events WHERE seq = 1", "event 2 does not follow event 0"),
    ],
)
def test_tampering_is_named_and_refused(ledger: Ledger, statement: str, said: str) -> None:
    for rows in ROWS:
        ask(ledger, rows)
    direct(ledger, statement)
    with pytest.raises(LedgerError, match=said):
        open_ledger(ledger.path)
    with pytest.raises(LedgerError):
        ask(ledger, (9,))


def test_a_forged_row_breaks_the_next(ledger: Ledger) -> None:
    """Whoever changes a row and its hash would have to change all rows after it."""
    for rows in ROWS:
        ask(ledger, rows)
    event = ledger.store.events()[2]
    text = event.body.model_copy(update={"note": "forged"}).text()
    forged = link(event.previous, 3, event.at, "asked", text)
    direct(ledger, f"UPDATE events SET body = '{text}', hash = '{forged}' WHERE seq = 3")
    with pytest.raises(LedgerError, match="event 4 does not follow event 3"):
        ledger.view()


def test_a_damaged_page_is_refused_or_does_no_harm(ledger: Ledger) -> None:
    for rows in (*ROWS, range(36)):
        ask(ledger, rows, note="some text " * 50)
    path = ledger.path / "ledger.sqlite"
    whole, events = path.read_bytes(), ledger.store.events()
    assert not path.with_name("ledger.sqlite-wal").exists()
    draws, refused = random.Random(0), 0
    for _ in range(60):
        at = draws.randrange(len(whole) - 16)
        path.write_bytes(whole[:at] + draws.randbytes(16) + whole[at + 16 :])
        try:
            assert ledger.store.events() == events
        except StakesError as error:
            refused += 1
            assert "ledger.sqlite" in str(error)  # noqa: PT017
        for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
            path.with_name(name).unlink(missing_ok=True)
    assert refused > 20
    path.write_bytes(whole)
    assert ledger.store.events() == events


def test_a_page_cut_off(ledger: Ledger) -> None:
    ask(ledger, range(36))
    path = ledger.path / "ledger.sqlite"
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(LedgerError, match="damaged"):
        ledger.view()


def test_missing_newest_events(ledger: Ledger) -> None:
    """The chain cannot see them missing; the run folders, and a hash kept elsewhere, can."""
    ask(ledger, ROWS[0])
    older = (ledger.path / "ledger.sqlite").read_bytes()
    carry_out(ledger)
    ask(ledger, ROWS[1])
    head = ledger.view().head
    direct(ledger, "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)")
    ledger.view()
    with pytest.raises(LedgerError, match="does not contain the event"):
        verify_ledger(ledger, head=head)
    (ledger.path / "ledger.sqlite").write_bytes(older)
    with pytest.raises(LedgerError, match="lacks its newest events"):
        ledger.view()


def test_the_clock_goes_backwards(ledger: Ledger, clock: Clock) -> None:
    ask(ledger, ROWS[0])
    clock.now -= datetime.timedelta(days=900)
    ask(ledger, ROWS[1])
    assert carry_out(ledger).done
    clock.now -= datetime.timedelta(days=900)
    ask(ledger, ROWS[2])
    report = carry_out(ledger)
    assert report.done
    view = ledger.view()
    assert list(view.requests) == [1, 2, 3]
    dated = [request.asked.at for request in view.requests.values()]
    assert dated == sorted(dated, reverse=True)
    assert view.requests[3].checks[-1].body.requests == (1, 2, 3)
    assert view.current == report.model
    assert view.backwards[0] == 3


def full(monkeypatch: pytest.MonkeyPatch, ledger: Ledger, pages: int = 0) -> None:
    """No page more fits on the disk."""
    connect = EventStore._connect

    def limited(self: EventStore, path: Path) -> sqlite3.Connection:
        db = connect(self, path)
        used = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {used + pages}")
        return db

    monkeypatch.setattr(EventStore, "_connect", limited)


def test_full_disk_while_an_event_is_written(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(ledger, ROWS[0])
    before = ledger.store.events()
    with monkeypatch.context() as patch:
        full(patch, ledger)
        with pytest.raises(OutputError, match="full disk") as caught:
            ask(ledger, range(36), note="long " * 5000)
        assert caught.value.exit_code == 4
        assert ledger.store.events() == before
    assert ask(ledger, ROWS[1]).number == 2
    assert carry_out(ledger).done


def test_two_writers_make_one_chain(ledger: Ledger) -> None:
    other = open_ledger(ledger.path)
    for number in range(1, 7):
        assert ask((ledger, other)[number % 2], (number,)).number == number
    assert kinds(ledger) == ["created", *["asked"] * 6]


def test_what_is_no_ledger(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger at"):
        open_ledger(tmp_path)
    path = tmp_path / "other" / "ledger.sqlite"
    path.parent.mkdir()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t (x)")
    db.commit()
    db.close()
    with pytest.raises(LedgerError, match="another SQLite file"):
        open_ledger(path.parent)
    path.write_bytes(b"text")
    with pytest.raises(LedgerError, match="damaged"):
        open_ledger(path.parent)


def test_a_ledger_of_a_newer_version(ledger: Ledger) -> None:
    db = sqlite3.connect(ledger.path / "ledger.sqlite")
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(LedgerError, match="schema 2"):
        ledger.view()


def test_a_failing_body_adds_nothing(ledger: Ledger) -> None:
    def fail(_: int) -> Asked:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        ledger.store.append(Asked, fail)
    assert kinds(ledger) == ["created"]
    asked_and_done(ledger)
