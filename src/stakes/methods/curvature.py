r"""Steps that spare what the model does on the probes: gradients preconditioned by the covariance of layer inputs.

For a layer with weights W (outputs × inputs) and inputs a, let A = E[a aᵀ] over the probes, scaled to mean eigenvalue
1. The gradient G becomes

    G · P,   P = δ (A + δ I)⁻¹ ,

so a direction of the inputs that the probes do not use (eigenvalue 0) keeps its gradient, and one that they use with
eigenvalue λ ≫ δ has it shrunk to δ/λ. To change what the layer does on an image to forget, the step then takes what is
particular to that image. With a hinge and soft answers this is the natural direction of a quadratic model of retention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Extent = Literal["patches", "channels"]
ROWS = 20_000  # of inputs of one layer and pass that go into A; more change it little


class InputCurvature:
    """P of every convolution and linear layer of a network, from the inputs that probes give them.

    Args:
        network: the network; its own weights decide the inputs.
        batches: probes to send through it, (n, C, H, W) each.
        damping: δ > 0.
        extent: of a convolution's inputs: ``patches``, all that a kernel sees (C/groups · kh · kw); ``channels``, one
            place of the map, with the same P for each place of the kernel: a cheaper and weaker approximation.
        draws: a CPU generator, for the rows that stand for all.
        forward: sends pixels through; the network itself where left out.

    Source:
        The factor of K-FAC for the inputs (Martens and Grosse, ICML 2015; convolutions: Grosse and Martens, ICML
        2016), used alone as in FOOF (Benzing, ICML 2022); as a way not to forget, orthogonal weight modification (Zeng
        et al., Nature Machine Intelligence 2019). Assumes that probes use the inputs as retained images do. Not
        guaranteed: that what is kept on the probes is kept elsewhere.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False))
        >>> seen = torch.tensor([[1.0, 0.0]]).repeat(8, 1)
        >>> spared = InputCurvature(net, [seen], damping=0.01, draws=torch.Generator())
        >>> net[0].weight.grad = torch.tensor([[1.0, 1.0]])
        >>> spared.apply(net)
        >>> [round(value, 3) for value in net[0].weight.grad[0].tolist()]
        [0.005, 1.0]
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Iterable[Tensor],
        *,
        damping: float,
        draws: torch.Generator,
        extent: Extent = "patches",
        forward: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.extent = extent
        layers = {name: module for name, module in network.named_modules() if _takes_part(module)}
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}

        def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
                rows = self._rows(module, inputs[0].detach().float())
                if len(rows) > ROWS:
                    rows = rows[torch.randperm(len(rows), generator=draws)[:ROWS].to(rows.device)]
                sums[name] = sums.get(name, 0) + rows.T @ rows
                counts[name] = counts.get(name, 0) + len(rows)

            return hook

        hooks = [module.register_forward_hook(look(name)) for name, module in layers.items()]
        try:
            with torch.no_grad():
                for pixels in batches:
                    (forward or network)(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        self._inverses = {name: _inverse(total / counts[name], damping) for name, total in sums.items()}

    @torch.no_grad()
    def apply(self, network: nn.Module) -> None:
        """Precondition the gradients that the layers of these names have in a network of the same build."""
        for name, inverse in self._inverses.items():
            weight = network.get_submodule(name).weight
            if not isinstance(weight, Tensor) or weight.grad is None:
                continue
            if weight.dim() == 4 and self.extent == "channels":
                weight.grad = torch.einsum("oihw,ij->ojhw", weight.grad, inverse).contiguous()
            else:
                weight.grad = (weight.grad.flatten(1) @ inverse).view_as(weight)

    def _rows(self, module: nn.Module, inputs: Tensor) -> Tensor:
        if not isinstance(module, nn.Conv2d):
            return inputs.flatten(0, -2)
        if self.extent == "channels":
            return inputs.movedim(1, -1).flatten(0, -2)
        seen = F.unfold(
            inputs,
            module.kernel_size,
            dilation=module.dilation,
            padding=cast(tuple[int, ...], module.padding),
            stride=module.stride,
        )
        rows: Tensor = seen.transpose(1, 2).flatten(0, 1)
        return rows


def preconditioned(network: nn.Module) -> list[nn.Parameter]:
    """The weights whose gradients are preconditioned, each once: of linear layers and ungrouped convolutions.

    Example:
        >>> [tuple(weight.shape) for weight in preconditioned(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)))]
        [(2, 3)]
    """
    weights = (module.weight for module in network.modules() if _takes_part(module))
    return list(dict.fromkeys(weights))  # type: ignore[arg-type]


def _takes_part(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return True
    # Grouped convolutions see a part of the channels each; padding by name has no size to unfold with.
    return isinstance(module, nn.Conv2d) and module.groups == 1 and not isinstance(module.padding, str)


def _inverse(covariance: Tensor, damping: float) -> Tensor:
    scale = covariance.diagonal().mean()
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    if float(scale) == 0.0:
        return identity
    inverse: Tensor = torch.linalg.inv(covariance / scale + damping * identity)
    return damping * inverse
