"""One process at a time where two would spoil each other's work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stakes.errors import OutputError, RunFolderError


@contextmanager
def alone(lock: Path, *, what: str, fix: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder while the block runs; a second holder is refused, or waits.

    The system lifts the lock when the process ends, however it ends, so a lock file that is left behind locks
    nothing. Two threads of one process exclude each other too. The file itself stays empty and is never removed.

    Where neither ``fcntl.flock`` (Unix) nor ``msvcrt.locking`` (Windows) is at hand, as on some network drives,
    the mere presence of the lock file counts: after a crash it has to be deleted by hand. Not guaranteed: that
    a network drive tells two machines of each other's locks.

    Args:
        lock: the lock file; its parent is made where it is missing.
        what: the thing that is locked, for the message.
        fix: what else the second one can do, a sentence.
        wait: seconds to wait for the other one before giving up.

    Raises:
        RunFolderError: another process holds the lock.
        OutputError: the lock file cannot be made.

    Example:
        >>> with alone(Path("runs/first/state/lock"), what="runs/first", fix="Wait for it."):  # doctest: +SKIP
        ...     work()
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=wait, mode=0o600)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        raise RunFolderError(
            what, expected="a folder that no other process works in", got="one at work", fix=fix
        ) from None
    except OSError as error:
        raise OutputError(
            f"cannot lock {what}",
            expected="a writable place",
            got=error.strerror or str(error),
            fix="Choose another output path or mend its permissions.",
        ) from error
    try:
        yield
    finally:
        held.release()
