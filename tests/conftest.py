"""Fixtures that many tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real data, checkpoints and anchors, or a skip that says why."""
    folder = Path(os.environ.get("STAKES_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "data" / "cifar10" / "train.parquet").is_file():
        pytest.skip(
            f"real data not found at {folder}; set STAKES_SHARED to the folder that holds data/cifar10"
        )
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh seeded generator."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits between two attempts to reach a hub."""
    monkeypatch.setattr("stakes.retry.PAUSES", (0.0, 0.0))


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal: a test run started in the background inherits a SIGINT that is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
