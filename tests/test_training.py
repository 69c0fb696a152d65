"""A folder of a training: what is damaged, and what another process works on, is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from stakes.data.sources import open_source
from stakes.errors import RunFolderError
from stakes.locks import alone
from stakes.models.recipe import recipe
from stakes.training import train_checkpoint


def train(out: Path) -> None:
    train_checkpoint(open_source("digits"), out, architecture="resnet10", settings=recipe("demo"))


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff"])
def test_a_damaged_record_is_refused_by_name(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "pretrain.json").write_bytes(text)
    with pytest.raises(RunFolderError, match=r"pretrain\.json cannot be read"):
        train(tmp_path)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    lock = tmp_path / "training.lock"
    with alone(lock, what="it", fix="Wait."), pytest.raises(RunFolderError, match="no other process"):
        train(tmp_path)
