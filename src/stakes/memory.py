"""What is done when memory runs out: less at a time, to the same result, or a clear word about what to lower.

A pass whose rows do not influence each other (making probes, measuring) is cut in halves until it fits; its result
does not depend on where it was cut, up to the rounding of the device's kernels. A training step is cut only where that
holds for it too, which is where BatchNorm takes no statistics from the batch and nothing is dropped at random: its
network pass is then done part by part, and the activations of one part at a time are in memory. Losses over the whole
batch stay as they are, since they see the features of all parts.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stakes.config import MethodSettings
from stakes.errors import OutOfMemoryError

_SAID = ("out of memory", "can't allocate memory", "not enough memory", "unable to allocate")
_RANDOM = (nn.modules.dropout._DropoutNd,)
_RANDOM_NAMES = ("DropPath", "StochasticDepth")

R = TypeVar("R")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on whatever device.

    Example:
        >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."))
        True
        >>> out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        False
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU's allocator and that of Apple's devices have no class of their own.
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _SAID)


def free() -> None:
    """Give back what a failed pass left; call it where the error is no longer held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Fitting:
    """Passes over rows, in halves, quarters, and so on, from when one did not fit into memory.

    Args:
        setting: what to lower, for the message when not even one row fits.

    Example:
        >>> fit = Fitting("eval_batch")
        >>> fit(torch.arange(4), lambda part: part + 1)
        [tensor([1, 2, 3, 4])]
    """

    def __init__(self, setting: str) -> None:
        self.setting = setting
        self.most: int | None = None

    def __call__(self, rows: Any, work: Callable[[Any], R]) -> list[R]:
        """What ``work`` gives for each part of ``rows`` (a tensor or a sequence), in order.

        Raises:
            OutOfMemoryError: a single row does not fit.
        """
        done: list[R] = []
        start = 0
        while start < len(rows):
            part = rows[start : start + (self.most or len(rows))]
            if not self._attempt(part, work, done):
                free()
                continue
            start += len(part)
        return done

    def _attempt(self, part: Any, work: Callable[[Any], R], done: list[R]) -> bool:
        try:
            done.append(work(part))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(part) == 1:
                raise OutOfMemoryError(
                    "memory",
                    expected="room for a pass of one image",
                    got=_first_line(error),
                    fix=f"{self.setting} cannot go lower: use a device with more memory, or close other programs.",
                ) from error
            self.most = len(part) // 2
            return False
        return True


def in_parts(run: Callable[[Tensor], Tensor], pixels: Tensor, most: int | None) -> Tensor:
    """``run(pixels)`` with the activations of at most ``most`` images in memory; None: in one piece.

    Each part's activations are computed again when its gradient is due, so a step costs a second forward pass,
    which the meter does not see.

    Args:
        run: pixels (n, C, H, W) to features or logits (n, d), row by row.

    Source:
        Chen et al. 2016, "Training deep nets with sublinear memory cost", over images instead of layers.
    """
    if most is None or len(pixels) <= most:
        return run(pixels)
    from torch.utils.checkpoint import checkpoint

    return torch.cat([checkpoint(run, part, use_reentrant=False) for part in pixels.split(most)])


def fewer_images(settings: MethodSettings, network: nn.Module, most: int | None, error: BaseException) -> int:
    """How many images of a training step to have in memory after so many (None: all) did not fit.

    Raises:
        OutOfMemoryError: a step cannot be cut without changing what it does, or is cut to single images already.
    """
    batches = {name: value for name, value in settings if name.endswith("_batch") and isinstance(value, int)}
    named = ", ".join(f"{name} ({value})" for name, value in sorted(batches.items()))
    obstacle = _obstacle(settings, network)
    if obstacle is None and (left := (most or max(batches.values())) // 2):
        return left
    cut = f" Or set batchnorm=freeze: a step is then {_CUT}." if obstacle else ""
    raise OutOfMemoryError(
        "memory for a training step",
        expected="room for the batches of the settings",
        got=_first_line(error),
        fix=f"Lower {named}; {obstacle or 'not even single images fit'}.{cut} The last saved state is kept.",
    )


_CUT = "cut into parts that fit, to the same result"
_BATCHNORM = "BatchNorm takes its statistics from whole batches, so a step cannot be cut without changing it"
_DROPOUT = "dropout draws for whole batches, so a step cannot be cut without changing it"


def _obstacle(settings: MethodSettings, network: nn.Module) -> str | None:
    """Why a step of this network cannot be cut; None where it can."""
    if settings.batchnorm == "freeze":
        return None
    modules: Sequence[nn.Module] = list(network.modules())
    if any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in modules):
        return _BATCHNORM
    return _DROPOUT if any(_draws(one) for one in modules) else None


def _draws(module: nn.Module) -> bool:
    if isinstance(module, _RANDOM):
        return module.p > 0
    return type(module).__name__ in _RANDOM_NAMES


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
