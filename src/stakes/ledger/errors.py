"""What can go wrong with a ledger."""

from __future__ import annotations

from stakes.errors import StakesError


class LedgerError(StakesError):
    """A ledger is missing, damaged, at work elsewhere, or asked for what it does not hold."""


class CameBackError(StakesError):
    """A deployed model is not the ledger's, or recognises images that were forgotten."""

    exit_code = 8
