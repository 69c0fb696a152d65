"""Whether worker processes can work on one GPU at the same time."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from stakes.config import Device

# Where NVIDIA's MPS listens unless told otherwise.
_PIPES = "/tmp/nvidia-mps"  # noqa: S108 - NVIDIA's own default


def advice(jobs: int, device: Device) -> str | None:
    """What to do so that ``jobs`` processes do not wait for each other on one GPU; None where there is nothing to say.

    Without NVIDIA's MPS a card does the work of one process at a time. For small steps that leaves most of it idle:
    fourteen processes of all kinds finished several times as many cells a minute with it (docs/scale.md).

    Example:
        >>> advice(1, "auto") is None
        True
    """
    if jobs < 2 or device not in ("auto", "cuda") or torch.cuda.device_count() != 1:
        return None
    if (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", _PIPES)) / "control").exists():
        return None
    return (
        f"{jobs} processes share one GPU, in turns. To let them work at the same time, start NVIDIA's MPS first: "
        "nvidia-cuda-mps-control -d"
    )
