"""What a run stands on, as far as it can be seen without a GPU."""

from __future__ import annotations

import os

import pytest
import torch

from stakes.runtime import device_name, repeatable

CUDA = torch.device("cuda")


def _switches() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        cudnn.allow_tf32,
    )


@pytest.mark.parametrize("tf32", [True, False])
def test_kernels_round_alike_inside_and_the_users_choice_comes_back(
    tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = _switches()

    def fail() -> None:
        with repeatable(CUDA):
            assert _switches() == (True, True, True, False, tf32)
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert _switches() == before


def test_a_strict_user_stays_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    try:
        torch.use_deterministic_algorithms(True)
        before = _switches()
        with repeatable(CUDA):
            assert _switches()[:2] == (True, False), "an error stays an error, not a warning"
        assert _switches() == before
    finally:
        torch.use_deterministic_algorithms(False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_nothing_is_switched_for_a_cpu() -> None:
    before = _switches()
    with repeatable(torch.device("cpu")):
        assert _switches() == before


def test_a_gpu_is_named_by_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Model {device.type}")
    assert device_name(CUDA) == "cuda (Model cuda)"
    assert device_name(torch.device("cpu")) == f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    assert device_name(torch.device("mps")) == "mps"
