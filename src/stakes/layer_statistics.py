r"""Channel statistics of what layers see, and how far a batch is from those that are wanted.

BatchNorm keeps those of the training data: running means μ̂ and variances σ̂². A network without such a layer keeps none,
and the only images of its kind at hand are those to forget: there the inputs of the other layers that normalise
(LayerNorm, GroupNorm) are to have the means and variances that these images give them, counted in standard deviations
of theirs, since nothing says how large the numbers of a layer are. Those layers save their inputs anyway, so that
looking at them takes no memory. Where nothing normalises, linear layers and convolutions are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Weight of the first gap: that of the pixels or nearly so, which holds the picture together.
FIRST_LAYER = 10.0
# A unit is no less than this share of the mean over the channels, for those that are silent on these images: of their
# standard deviation, and of their size, below which a variance is rounding.
_OF_DEVIATION, _OF_SIZE = 0.1, 0.01


@dataclass(frozen=True)
class Wanted:
    """Mean and variance of each channel at a layer's input, and the standard deviation they are counted in, (C,)."""

    mean: Tensor
    variance: Tensor
    unit: Tensor | float = 1.0

    def gap(self, mean: Tensor, variance: Tensor) -> Tensor:
        """‖(μ − μ̂) / u‖₂ + ‖(σ² − σ̂²) / u²‖₂."""
        of_mean = torch.linalg.vector_norm((mean - self.mean) / self.unit)
        of_variance = torch.linalg.vector_norm((variance - self.variance) / self.unit**2)
        total: Tensor = of_mean + of_variance
        return total


def kept(network: nn.Module) -> dict[nn.Module, Wanted]:
    """What the BatchNorm layers (two dimensions) of a network keep of its training data; empty where there is none.

    Example:
        >>> [wanted.mean.tolist() for wanted in kept(nn.Sequential(nn.BatchNorm2d(2))).values()]
        [[0.0, 0.0]]
    """
    return {
        module: Wanted(module.running_mean, module.running_var)
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
        and module.running_mean is not None
        and module.running_var is not None
    }


def keeps_statistics(network: nn.Module) -> bool:
    """Whether a network has BatchNorm layers that keep statistics of its training data.

    Example:
        >>> keeps_statistics(nn.BatchNorm2d(2)), keeps_statistics(nn.LayerNorm(2))
        (True, False)
    """
    return bool(kept(network))


@torch.no_grad()
def measured(network: nn.Module, call: Callable[[], object]) -> dict[nn.Module, Wanted]:
    """What the layers of a network see in a call of it: those that normalise, or the linear ones and convolutions.

    Layers that are not called are left out. Channels are the last dimension for linear layers, and for LayerNorm where
    it is as long as the layer normalises over; tokens and places are the others.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 3))
        >>> (found,) = measured(net, lambda: net(torch.tensor([[1.0], [5.0]]))).values()
        >>> found.mean.tolist(), found.variance.tolist(), found.unit.tolist()
        ([3.0], [4.0], [2.0])
    """
    found: dict[nn.Module, Wanted] = {}

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        mean, variance = moments(_by_channel(layer, inputs[0]))
        found[layer] = Wanted(mean, variance, _unit(mean, variance))

    layers = _of(network, nn.LayerNorm, nn.GroupNorm) or _of(network, nn.Linear, nn.Conv2d)
    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _of(network: nn.Module, *kinds: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, kinds)]


def _unit(mean: Tensor, variance: Tensor) -> Tensor:
    """Standard deviations (C,) that are nowhere too small to divide by; 1 where all inputs are 0."""
    size = (variance + mean.square()).mean()
    least = (_OF_DEVIATION**2 * variance.mean()).maximum(_OF_SIZE**2 * size)
    return torch.where(size > 0, variance.maximum(least), 1.0).sqrt()


class Gaps:
    """How far the batches sent through are from the statistics wanted, layer by layer, while entered.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm2d(1)).eval()
        >>> with Gaps(kept(net)) as gaps:
        ...     _ = net(torch.ones(1, 1, 2, 2))
        >>> float(gaps.mean()) / FIRST_LAYER  # mean 1 for 0, variance 0 for 1
        2.0
    """

    def __init__(self, wanted: dict[nn.Module, Wanted]) -> None:
        self._wanted = wanted
        self._found: list[Tensor] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Gaps:
        self._hooks = [layer.register_forward_hook(self._look) for layer in self._wanted]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _look(self, layer: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        self._found.append(self._wanted[layer].gap(*moments(_by_channel(layer, inputs[0]))))

    def mean(self) -> Tensor | float:
        """Over the layers called since it was asked last, the first of them ``FIRST_LAYER`` times; 0 without any."""
        found, self._found = self._found, []
        if not found:
            return 0.0
        return (FIRST_LAYER * found[0] + sum(found[1:])) / len(found)


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (uncorrected) of each channel of (n, C, H, W), each (C,).

    Example:
        >>> [part.tolist() for part in moments(torch.tensor([1.0, 5.0]).view(2, 1, 1, 1))]
        [[3.0], [4.0]]
    """
    mean, variance = _Moments.apply(values)
    return mean, variance


def _by_channel(layer: nn.Module, inputs: Tensor) -> Tensor:
    """A layer's inputs as (n, C, H, W), in full precision."""
    values = inputs.float()
    if isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.LayerNorm) and tuple(layer.normalized_shape) == (values.shape[-1],)
    ):
        return values.reshape(-1, values.shape[-1], 1, 1)
    return values if values.dim() == 4 else values.reshape(*values.shape[:2], -1, 1)


class _Moments(torch.autograd.Function):
    """In two passes over the values and one back.

    Left to autograd they are many more, and cost two fifths of what the network itself does.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        """Both (C,)."""
        over = (0, 2, 3)
        mean = values.mean(dim=over)
        squares = torch.linalg.vector_norm(values, dim=over).square() / (values.numel() / values.shape[1])
        ctx.save_for_backward(values, mean)
        return mean, squares - mean.square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Of a mean m and a variance v, for each of N values x of a channel: (∂m + 2 (x − m) ∂v) / N."""
        values, mean = ctx.saved_tensors
        of_mean, of_variance = gradients
        share = values.shape[1] / values.numel()
        slope = 2 * share * of_variance
        level = share * of_mean - slope * mean
        return torch.addcmul(level.view(1, -1, 1, 1), values, slope.view(1, -1, 1, 1))
