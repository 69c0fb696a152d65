"""What a launcher says in the environment of each process that it started; read without loading torch."""

from __future__ import annotations

import os

# torchrun, then the launchers of MPI, through which `accelerate launch` starts many processes on CPUs.
_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_NUMBERS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")


def launched() -> int:
    """How many processes a launcher started, by the environment; 1 where there was none."""
    return max(1, _told(_COUNTS))


def rank() -> int:
    """The number of this process by the environment, known before anything is joined."""
    return _told(_NUMBERS) if launched() > 1 else 0


def _told(names: tuple[str, ...]) -> int:
    return next((int(value) for name in names if (value := os.environ.get(name))), 0)
