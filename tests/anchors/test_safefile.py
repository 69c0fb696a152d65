"""Safetensors bytes that depend on content alone."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load

from stakes.anchors.safefile import stable_bytes

TENSORS = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.tensor([1, 2], dtype=torch.int64),
    "c": torch.zeros(0),
}


def test_equal_content_gives_equal_bytes() -> None:
    metadata = {letter: letter for letter in "abcdefgh"}
    assert len({stable_bytes(TENSORS, metadata) for _ in range(10)}) == 1
    assert stable_bytes(TENSORS, metadata) == stable_bytes(dict(reversed(TENSORS.items())), metadata)


def test_the_library_reads_it_back(tmp_path: Path) -> None:
    for metadata in ({}, {"k": "v"}, {"ü": '"quoted" ' * 50}):
        raw = stable_bytes(TENSORS, metadata)
        back = load(raw)
        assert all(torch.equal(back[name], tensor) for name, tensor in TENSORS.items())
        file = tmp_path / "x.safetensors"
        file.write_bytes(raw)
        with safe_open(file, "pt") as handle:
            assert (handle.metadata() or {}) == metadata
        assert int.from_bytes(raw[:8], "little") % 8 == 0
