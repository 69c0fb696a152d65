"""Device, precision, seeds and versions: what a run stands on."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from importlib import metadata

import torch

from stakes.config import Device, Precision
from stakes.errors import ConfigError
from stakes.files import digest
from stakes.launcher import launched
from stakes.processes import launched_on_cpu, start

_RECORDED = (
    "stakes",
    "torch",
    "numpy",
    "safetensors",
    "datasets",
    "sentence-transformers",
    "transformers",
    "pillow",
)


def resolve_device(device: Device) -> torch.device:
    """Turn ``auto`` into the best device at hand, and check a named one.

    Where a launcher started many processes they are joined here, and each has its own device.

    Raises:
        ConfigError: the named device is not available.
    """
    if launched() > 1:
        return start(device).device
    if device == "auto" and launched_on_cpu():
        device = "cpu"
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    if not available[device]:
        usable = " or ".join(name for name, ok in available.items() if ok)
        raise ConfigError("--device", expected=f"auto, {usable}", got=device, fix="Leave it out for auto.")
    return torch.device(device)


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Kernels that round alike at each call, where the device has others too; what was set before comes back.

    On a GPU the fastest kernels add in an order that changes from call to call. An operation without a deterministic
    kernel is carried out, with PyTorch's warning. ``fp32`` leaves TF32 in convolutions as PyTorch has it. Gradients are
    recorded, whatever the caller does without them.

    Example:
        >>> with torch.no_grad(), repeatable(torch.device("cpu")):
        ...     torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()
        (False, True)
    """
    with torch.inference_mode(False), torch.enable_grad(), _deterministic(device):
        yield


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    # Read by cuBLAS when it starts, so it counts from a process's first use of the GPU on.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # A user who has asked for them may want errors in place of warnings.
    asked = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=cudnn.allow_tf32):
        try:
            if not asked:
                torch.use_deterministic_algorithms(True, warn_only=True)
            yield
        finally:
            if not asked:
                torch.use_deterministic_algorithms(False)


def device_name(device: torch.device) -> str:
    """The device for a record: a GPU with its model, a CPU with the instructions that its kernels are made for.

    Records of two of them are the same within rounding at first, and after many steps no more.

    Example:
        >>> device_name(torch.device("cpu")).startswith("cpu (")  # for example: cpu (AVX2)
        True
    """
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"{device} ({torch.backends.cpu.get_cpu_capability()})"
    return str(device)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The autocast context of a precision; none for ``fp32``."""
    if precision == "fp32":
        return contextlib.nullcontext()
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=kind)


def loss_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """What scales the loss of a step, so that small gradients do not vanish in ``fp16``; else it passes all through.

    It starts low beside PyTorch's 65,536: each step that overflows is left out, and schedules here are short.

    Example:
        >>> loss_scaler(torch.device("cpu"), "bf16").is_enabled()
        False
    """
    return torch.amp.GradScaler(device.type, init_scale=1024.0, enabled=precision == "fp16")


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every part has the mode it had, so that a frozen layer stays frozen.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
        >>> with evaluating(net):
        ...     [part.training for part in net]
        [False, False]
        >>> [part.training for part in net]
        [True, False]
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any parts, the same on every machine.

    Example:
        >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 3) != derive_seed(0, "order", 4)
        True
    """
    return int(digest(*(repr(part) for part in parts))[:16], 16) & (2**63 - 1)


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def positions(count: int, most: int, *stream: object) -> torch.Tensor:
    """At most ``most`` of ``count`` positions, drawn by the generator of ``stream``, in ascending order.

    Example:
        >>> positions(3, 5, "any").tolist(), len(positions(100, 5, "any"))
        ([0, 1, 2], 5)
    """
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator(*stream))[:most].sort().values


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a figure."""
    found = {"python": platform.python_version()}
    for name in _RECORDED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
