r"""One network pass by many processes: the batch is cut, the features come back whole, and so do the gradients.

Every process runs the same method on the same batches. Where it asks a classifier for features, each process sends its
share of the images through the body and all receive all features. Everything behind them (projector, head, losses
over anchors, columns or pairs of images, regularisers, the optimiser) is computed by every process alike from the same
numbers. Backward, each process takes the gradient of its share, and the parameters' gradients are summed:

    ∂L/∂ψ = Σ_p Σ_{x in share p} ∂L/∂g(x) · ∂g(x)/∂ψ

which is the gradient of one process, whatever L is; only the order of summation differs. BatchNorm in training mode
takes its statistics over the whole batch (two sums over the processes for each layer, in both directions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stakes.processes import Processes, spreading

_whole: list[int] = []


def whole_batch(images: int) -> int:
    """Images of the batch of which ``images`` are this process's share, while a shared pass goes on."""
    return _whole[-1] if _whole else images


def shared_pass(module: nn.Module, run: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """``run(pixels)``, a pass through ``module``, shared by the processes where `stakes.processes.spread` says so.

    A batch with fewer images than processes is sent through whole by each of them. So are the single images of
    per-sample gradients (``torch.func.vmap``).

    Args:
        module: holds the parameters and BatchNorm layers that ``run`` uses.
        run: pixels (n, C, H, W) to features (n, d); each image's features depend on the others through BatchNorm alone.

    Note:
        Gradients are of first order. Layers that draw at random (dropout) draw apart in each process, so with them
        the result equals that of one process in distribution only.
    """
    processes = spreading()
    if processes is None or len(pixels) < processes.count:
        return run(pixels)
    parameters = [value for value in module.parameters() if value.requires_grad]
    wanted = torch.is_grad_enabled() and (pixels.requires_grad or bool(parameters))
    return _SharedPass.apply(processes, module, run, wanted, pixels, *parameters)  # type: ignore[no-any-return]


class _SharedPass(torch.autograd.Function):
    """Features of all images from each process's share, with whole gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        processes: Processes,
        module: nn.Module,
        run: Callable[[Tensor], Tensor],
        wanted: bool,
        pixels: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.processes, ctx.total, ctx.parameters = processes, len(pixels), parameters
        ctx.mine = (
            pixels[processes.share(len(pixels))].detach().requires_grad_(wanted and pixels.requires_grad)
        )
        with torch.set_grad_enabled(wanted), _as_one(module, processes, len(pixels)):
            features = run(ctx.mine)
        ctx.features = features if wanted else None
        return processes.gather(features.detach(), len(pixels))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        pixels = [ctx.mine] if ctx.mine.requires_grad else []
        own = gradient[ctx.processes.share(ctx.total)]
        found = torch.autograd.grad(
            ctx.features, [*pixels, *ctx.parameters], own, allow_unused=True, materialize_grads=False
        )
        to_pixels = None
        if pixels:
            to_pixels = ctx.processes.gather(found[0], ctx.total)
        summed = _summed(ctx.processes, found[len(pixels) :])
        ctx.features = None
        return (None, None, None, None, to_pixels, *summed)


def _summed(processes: Processes, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Sums over the processes, in one message for each kind of number."""
    result = list(gradients)
    kinds = dict.fromkeys(value.dtype for value in gradients if value is not None)
    for kind in kinds:
        at = [i for i, value in enumerate(gradients) if value is not None and value.dtype == kind]
        values = [value for i in at if (value := gradients[i]) is not None]
        flat = processes.reduce(torch.cat([value.reshape(-1) for value in values]))
        for i, value, part in zip(at, values, flat.split([v.numel() for v in values]), strict=True):
            result[i] = part.view_as(value)
    return result


@contextmanager
def _as_one(module: nn.Module, processes: Processes, total: int) -> Iterator[None]:
    """While it lasts, BatchNorm sees the whole batch, and layers that draw at random draw apart in each process."""
    layers = [one for one in module.modules() if isinstance(one, _BatchNorm) and _takes_statistics(one)]
    for layer in layers:
        # In the instance: for this pass alone, and under hooks and names as they are.
        layer.forward = _synchronised(layer, processes, total)  # type: ignore[method-assign, assignment]
    _whole.append(total)
    try:
        if not module.training:
            yield
            return
        # The draw keeps the generators of all processes in step, whatever the layers take.
        seed = int(torch.randint(2**62, ())) + processes.index
        devices = [processes.device] if processes.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield
    finally:
        _whole.pop()
        for layer in layers:
            del layer.__dict__["forward"]


def _takes_statistics(layer: _BatchNorm) -> bool:
    return layer.training or layer.running_mean is None


def _synchronised(layer: _BatchNorm, processes: Processes, total: int) -> Callable[[Tensor], Tensor]:
    """BatchNorm over the batches of all processes. ``torch.nn.SyncBatchNorm`` does the same on GPUs alone."""

    def forward(values: Tensor) -> Tensor:
        over = [0, *range(2, values.dim())]
        shape = [1, -1, *[1] * (values.dim() - 2)]
        count = values.numel() // (values.shape[1] * len(values)) * total
        wide = values.float()
        mean = _Sum.apply(processes, wide.sum(over)) / count
        centred = wide - mean.view(shape)
        variance = _Sum.apply(processes, centred.square().sum(over)) / count
        _update(layer, mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        scaled = centred * (variance + layer.eps).rsqrt().view(shape)
        if layer.weight is not None:
            scaled = scaled * layer.weight.view(shape)
        if layer.bias is not None:
            scaled = scaled + layer.bias.view(shape)
        return scaled.to(values.dtype)  # type: ignore[no-any-return]

    return forward


@torch.no_grad()
def _update(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """The running statistics, as ``torch.nn.BatchNorm`` keeps them."""
    if layer.running_mean is None or layer.running_var is None or not layer.training:
        return
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
    momentum = layer.momentum
    if momentum is None:
        momentum = 1.0 / float(layer.num_batches_tracked or 1)
    # Through .data, as torch's own kernel: a pass of the same step in evaluation mode may have kept them.
    layer.running_mean.data.lerp_(mean.to(layer.running_mean.dtype), momentum)
    layer.running_var.data.lerp_(variance.to(layer.running_var.dtype), momentum)


class _Sum(torch.autograd.Function):
    """The sum over the processes; every process's loss hangs on it, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, processes: Processes, values: Tensor) -> Tensor:
        ctx.processes = processes
        return processes.reduce(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.processes.reduce(gradient.contiguous())
