"""What is said about one GPU for many processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stakes.bench.sharing import advice


def test_said_where_processes_would_take_turns_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "nvidia-cuda-mps-control" in (advice(4, "auto") or "")
    assert advice(4, "cuda") is not None
    assert advice(1, "cuda") is None, "nobody to share with"
    assert advice(4, "cpu") is None
    (tmp_path / "control").touch()
    assert advice(4, "cuda") is None, "MPS is there"
    (tmp_path / "control").unlink()
    for cards in (0, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda cards=cards: cards)
        assert advice(4, "auto") is None
