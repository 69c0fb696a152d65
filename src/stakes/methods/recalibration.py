r"""Running means that follow the weights, without data.

A BatchNorm layer after weights W holds μ = E[W a] over the training images. Once W moves to W + ΔW and μ stays,
channels are off by ΔW E[a]; measuring it again needs training images. Here E[a] is estimated: of the probes' moments
and of μ, the best linear estimate is

    Ê = ā + Cov(a, z) (Cov(z, z) + ε I)⁻¹ (μ − z̄),   z = W a,

so that W Ê ≈ μ, what is known of the training images, and in directions that W does not see Ê is as the probes have it.
The means of the moved network are then μ + ΔW Ê + Δb, where b is the bias of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stakes.methods.curvature import input_rows, takes_part, thinned

RIDGE = 1e-3  # ε, in mean variances of z


class MeanRecalibration:
    """Running means for a network whose weights before BatchNorm have moved.

    Args:
        network: the network as it was trained, in evaluation mode.
        batches: probes to send through it, (n, C, H, W) each.
        draws: a CPU generator, for the rows that stand for all.

    Source:
        ours. The estimate is the linear minimum-mean-square-error one. Assumes that inputs of a layer vary over
        training images as they do over probes, up to their mean, and that a BatchNorm layer's input is the very output
        of a convolution or linear layer: others are left alone. Not guaranteed: that running variances fit, which stay
        as they are.

    Example:
        >>> net, moved = (nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1)).eval() for _ in range(2))
        >>> _ = net[0].weight.data.fill_(0.0), moved[0].weight.data.fill_(1.0)
        >>> seen = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
        >>> MeanRecalibration(net, [seen], draws=torch.Generator()).apply(moved)
        >>> round(float(moved[1].running_mean), 3)  # 1 · 1 + 1 · 2
        3.0
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Iterable[Tensor],
        *,
        draws: torch.Generator,
    ) -> None:
        moments: dict[str, _Moments] = {}
        feeds: dict[str, str] = {}
        passed: dict[int, tuple[str, Tensor, Tensor]] = {}

        def layer(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                passed[id(output)] = (name, inputs[0], output)  # held, so that no other tensor takes its id

            return hook

        def norm(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                found = passed.pop(id(inputs[0]), None)  # let go, since a whole pass would fill the memory
                if found is None:
                    return
                feeds[name], entered, _ = found
                fed = layers[feeds[name]]
                rows = thinned(input_rows(fed, entered.float()), draws)
                moments.setdefault(name, _Moments()).add(rows, rows @ _matrix(fed).T)

            return hook

        layers = {name: module for name, module in network.named_modules() if takes_part(module)}
        norms = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }
        hooks = [module.register_forward_hook(layer(name)) for name, module in layers.items()]
        hooks += [module.register_forward_pre_hook(norm(name)) for name, module in norms.items()]
        try:
            with torch.no_grad():
                for pixels in batches:
                    network(pixels)
                    passed.clear()
        finally:
            for hook in hooks:
                hook.remove()
        self._weights = {name: _matrix(layers[feeds[name]]).clone() for name in feeds}
        self._biases = {name: _bias(layers[feeds[name]]) for name in feeds}
        self._means = {
            name: moments[name].mean_where(_expected(norms[name], layers[feeds[name]])) for name in feeds
        }
        self._feeds = feeds
        self._running = {name: _running(norms[name]).clone() for name in feeds}

    @torch.no_grad()
    def apply(self, network: nn.Module) -> None:
        """Set the running means of a network of the same build to μ + ΔW Ê + Δb, whatever they are now."""
        for name, layer in self._feeds.items():
            moved = network.get_submodule(layer)
            shift = (_matrix(moved) - self._weights[name]) @ self._means[name]
            shift = shift + _bias(moved) - self._biases[name]
            running = _running(network.get_submodule(name))
            running.copy_(self._running[name] + shift.to(running))


@dataclass
class _Moments:
    """Sums over rows of a (inputs,) and z (outputs,)."""

    count: int = 0
    a: Tensor | float = 0.0
    z: Tensor | float = 0.0
    az: Tensor | float = 0.0
    zz: Tensor | float = 0.0

    def add(self, a: Tensor, z: Tensor) -> None:
        self.count += len(a)
        self.a, self.z = self.a + a.sum(dim=0), self.z + z.sum(dim=0)
        self.az, self.zz = self.az + a.T @ z, self.zz + z.T @ z

    def mean_where(self, expected: Tensor) -> Tensor:
        """The best linear estimate of E[a] (inputs,) where E[z] is ``expected`` (outputs,)."""
        a, z = torch.as_tensor(self.a) / self.count, torch.as_tensor(self.z) / self.count
        az = torch.as_tensor(self.az) / self.count - torch.outer(a, z)
        zz = torch.as_tensor(self.zz) / self.count - torch.outer(z, z)
        # The second term: where nothing varies but by rounding, nothing is learnt from E[z].
        ridge = RIDGE * zz.diagonal().mean() + RIDGE**2 * (z.square().mean() + 1)
        identity = torch.eye(len(z)).to(zz)
        correction: Tensor = az @ torch.linalg.solve(zz + ridge * identity, expected - z)
        return a + correction


def _matrix(module: nn.Module) -> Tensor:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.detach().float().flatten(1)


def _running(norm: nn.Module) -> Tensor:
    mean: Tensor = norm.running_mean  # type: ignore[assignment]
    return mean


def _expected(norm: nn.Module, layer: nn.Module) -> Tensor:
    """E[W a] over the training images: the running mean, less the layer's own bias."""
    return _running(norm).float() - _bias(layer)


def _bias(layer: nn.Module) -> Tensor:
    """The layer's bias (outputs,), a copy, or zero where it has none."""
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    return _matrix(layer).new_zeros(()) if bias is None else bias.detach().float().clone()
