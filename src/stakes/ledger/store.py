"""The SQLite file of a ledger: events that are only ever added, each holding the hash of the one before."""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from stakes.errors import OutputError, StakesError
from stakes.files import digest
from stakes.ledger.errors import LedgerError
from stakes.ledger.events import Body, Event, read_body

Clock = Callable[[], datetime.datetime]
SCHEMA = 1
_APPLICATION = 0x57A4E5  # marks the file as ours
_BUSY_SECONDS = 30.0
_SCHEMA = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_are_kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
"""
_ROWS = "SELECT seq, at, kind, body, previous, hash FROM events ORDER BY seq"
B = TypeVar("B", bound=Body)


def utc_now() -> datetime.datetime:
    """The system's clock."""
    return datetime.datetime.now(datetime.UTC)


def link(previous: str, seq: int, at: str, kind: str, body: str) -> str:
    """Hash of a row: ``digest(previous, seq, at, kind, digest(body))`` (`stakes.files.digest`).

    The body counts by its own hash, so that the chain can be shown to others without what it says.
    """
    return digest(previous, str(seq), at, kind, digest(body))


class EventStore:
    """Append-only events in one SQLite file (WAL, every commit synced).

    A row cannot be changed, taken out or moved without its hash or the next row's `previous` becoming wrong, and
    reading refuses then. What the chain cannot see is a file whose last rows are gone: keep a copy of the newest hash
    elsewhere, and ask for it when verifying.
    """

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        self.path, self.clock = path, clock

    def create(self) -> None:
        """Make the empty file."""
        with self._errors(), contextlib.closing(self._connect(self.path)) as db:
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {SCHEMA}")

    def append(self, kind: type[B], make: Callable[[int], B]) -> Event[B]:
        """Add one event in one transaction.

        Args:
            make: gets the number that this event has among those of its kind, from 1.

        Raises:
            OutputError: no space or no permission; nothing was added.
            LedgerError: the last row is damaged, or another process keeps the file locked.
        """
        with self._opened() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                last = db.execute(_ROWS + " DESC LIMIT 1").fetchone()
                seq, previous = (last[0] + 1, last[5]) if last else (1, "")
                if last:
                    self._refuse_broken(last)
                count = db.execute("SELECT count(*) FROM events WHERE kind = ?", (kind.kind,)).fetchone()[0]
                body = make(count + 1)
                at = self.clock().astimezone(datetime.UTC).isoformat(timespec="seconds")
                made = link(previous, seq, at, kind.kind, body.text())
                db.execute(
                    "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
                    (seq, at, kind.kind, body.text(), previous, made),
                )
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    db.execute("ROLLBACK")
                raise
        return Event(seq, at, body, previous, made)

    def events(self) -> list[Event[Body]]:
        """All events in order, after SQLite's own integrity check and that of the chain.

        Raises:
            LedgerError: there is no ledger, or a page or row is damaged; the message names it.
        """
        with self._opened() as db:
            verdict = [row[0] for row in db.execute("PRAGMA integrity_check(3)")]
            if verdict != ["ok"]:
                raise self._damaged("; ".join(" ".join(line.split()) for line in verdict))
            rows = db.execute(_ROWS).fetchall()
        previous = ""
        for at, row in enumerate(rows, start=1):
            self._refuse_broken(row)
            if (row[0], row[4]) != (at, previous):
                raise self._damaged(f"event {row[0]} does not follow event {at - 1}")
            previous = row[5]
        return [
            Event(seq, at, read_body(kind, body, f"event {seq} of {self.path}"), before, made)
            for seq, at, kind, body, before, made in rows
        ]

    def _refuse_broken(self, row: Any) -> None:
        seq, at, kind, body, previous, made = row
        if link(str(previous), seq, str(at), str(kind), str(body)) != made:
            raise self._damaged(f"event {seq} ({kind}, {at}) does not have the hash that it was written with")

    def _damaged(self, what: str) -> LedgerError:
        return LedgerError(
            f"{self.path} is damaged or was changed by hand",
            expected="an intact chain of events",
            got=what,
            fix="Nothing of it is used. Restore it from a backup.",
        )

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        if not self.path.is_file():
            raise LedgerError(
                f"no ledger at {self.path.parent}",
                expected="a folder made by `stakes request init`",
                fix="Check the path.",
            )
        with self._errors(), contextlib.closing(self._connect(self.path)) as db:
            kind, version = (
                db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            )
            if (kind, version) != (_APPLICATION, SCHEMA):
                raise LedgerError(
                    f"{self.path}",
                    expected=f"a ledger of schema {SCHEMA}",
                    got=f"schema {version}" if kind == _APPLICATION else "another SQLite file",
                    fix="A newer version of stakes may have made it.",
                )
            yield db

    def _connect(self, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except StakesError:
            raise
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter from texts of a damaged page
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> StakesError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code
        if code == sqlite3.SQLITE_FULL:
            return OutputError(
                f"cannot write {self.path}",
                expected="free space on that disk",
                got="a full disk",
                fix="Free some space and run the same command again: finished work is kept.",
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return LedgerError(
                f"{self.path}",
                expected=f"the file free within {_BUSY_SECONDS:.0f} seconds",
                got="another process that is writing",
                fix="Try again.",
            )
        if code in (
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_PERM,
        ):
            return OutputError(
                f"cannot use {self.path}",
                expected="a writable place",
                got=str(error),
                fix="Mend its permissions, or move the ledger to a local disk.",
            )
        return self._damaged(str(error))
