"""A ledger on a problem that is solved in closed form."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The tiny problem lies with the methods' tests.
sys.path.append(str(Path(__file__).parents[1] / "methods"))

from ledgerkit import Clock, new_ledger

from stakes.ledger import Ledger


@pytest.fixture
def clock() -> Clock:
    """A clock that a test turns."""
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Ledger:
    """A ledger without requests."""
    return new_ledger(tmp_path / "ledger", clock=clock)
