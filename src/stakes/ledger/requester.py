"""Who asked, as a keyed hash: recognisable to the owner of the key, and to nobody else."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import unicodedata
from pathlib import Path

from stakes.errors import ConfigError
from stakes.ledger.errors import LedgerError

_BYTES = 32


def make_key(path: Path) -> str:
    """Write a fresh random key that its owner alone can read; gives what `key_check` says of it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    key = secrets.token_bytes(_BYTES)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(key.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key_check(key)


def key_check(key: bytes) -> str:
    """Eight bytes by which the right key is told from another."""
    return hmac.new(key, b"stakes ledger key", hashlib.sha256).hexdigest()[:16]


def read_key(path: Path, check: str) -> bytes:
    """The key of a ledger.

    Raises:
        LedgerError: it is missing, another, or open to other users.
    """
    try:
        text, mode = path.read_text(encoding="ascii"), path.stat().st_mode
        key = bytes.fromhex(text)
    except (OSError, ValueError) as error:
        raise LedgerError(
            f"key {path}",
            expected="the key that the ledger was made with",
            got=getattr(error, "strerror", None) or "another file",
            fix="Restore it, or leave the requester out: without the key no hash can be matched.",
        ) from None
    if os.name == "posix" and mode & 0o077:
        raise LedgerError(
            f"key {path} can be read by other users",
            expected="mode 0600",
            got=oct(mode & 0o777),
            fix=f"Run `chmod 600 {path}`, and consider the hashed requesters known to them.",
        )
    if not hmac.compare_digest(key_check(key), check):
        raise LedgerError(
            f"key {path}", expected="the key that the ledger was made with", got="another", fix="Restore it."
        )
    return key


def hashed(requester: str, key: bytes) -> str:
    """HMAC-SHA256 of a name or address, after Unicode NFKC, case folding and stripped blanks.

    A plain hash would not hide anyone: there are few enough e-mail addresses and names to hash them all and compare.
    With a random key that is infeasible for whoever lacks the key; whoever has ledger and key can still try names. So
    this is a pseudonym, not anonymity. Deleting the key makes it final.

    Raises:
        ConfigError: nothing to hash.

    Example:
        >>> hashed(" Ann@Example.org", b"k" * 32) == hashed("ann@example.org", b"k" * 32)
        True
    """
    plain = unicodedata.normalize("NFKC", requester).strip().casefold()
    if not plain:
        raise ConfigError("--requester", expected="a name, address or number", got="nothing")
    return hmac.new(key, b"requester\0" + plain.encode(), hashlib.sha256).hexdigest()
