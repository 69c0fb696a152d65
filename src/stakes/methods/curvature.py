r"""Steps that spare what the model does on the probes: gradients preconditioned by the covariance of layer inputs.

For a layer with weights W (outputs × inputs) and inputs a, let A = E[a aᵀ] over the probes, scaled to mean eigenvalue
1. The gradient G becomes

    G · P,   P = δ (A + δ I)⁻¹ ,

so a direction of the inputs that the probes do not use (eigenvalue 0) keeps its gradient, and one that they use with
eigenvalue λ ≫ δ has it shrunk to δ/λ. To change what the layer does on an image to forget, the step then takes what is
particular to that image. With a hinge and soft answers this is the natural direction of a quadratic model of retention.

A convolution's inputs are what its kernel sees: C channels at K places. ``kronecker`` takes A ≈ A_C ⊗ A_K, the
covariances of channels and of places; with the eigenvalues μ_j of A_K, P is one C × C matrix for each j,
δ (μ_j A_C + δ I)⁻¹, and costs C·C instead of CK·CK for each output and place.

Of a layer with very many inputs A is never formed: with the rows R of inputs seen, P = I − Rᵀ (R Rᵀ + n δ I)⁻¹ R
(Woodbury), as large as there are rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Extent = Literal["patches", "kronecker", "channels"]
ROWS = 20_000  # of inputs of one layer and pass that go into A; more change it little
WIDE = 8192  # inputs of a layer above which rows are kept instead of A: that of VGG's first linear layer takes 2.5 GB


class InputCurvature:
    """P of every convolution and linear layer of a network, from the inputs that probes give them.

    A layer that is not called has none: `torch.nn.MultiheadAttention`, for one, takes the weights of its output
    projection and multiplies by itself. Nor has the convolution with which transformers cut pixels into patches (its
    kernel as large as its stride, above 1): nothing comes before it that would bring images and probes closer, so of
    the directions that probes leave free images use some, and steps along them cost far more than they forget.

    Args:
        network: the network; its own weights decide the inputs.
        batches: probes to send through it, (n, C, H, W) each.
        damping: δ > 0.
        extent: of a convolution's inputs: ``patches``, all that a kernel sees (C · kh · kw); ``kronecker``, channels
            and places of the kernel apart, which costs a fraction of it; ``channels``, one place of the map, with the
            same P for each place of the kernel: the weakest approximation.
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
        layers = {name: module for name, module in network.named_modules() if takes_part(module)}
        sums: dict[str, list[Tensor]] = {}
        wide: dict[str, list[Tensor]] = {}
        channels = 0

        def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
                if _cuts_patches(module, channels):
                    return
                rows = thinned(self._rows(module, inputs[0].detach().float()), draws)
                if rows.shape[1] > WIDE and not isinstance(module, nn.Conv2d):
                    wide.setdefault(name, []).append(rows)
                    return
                products = self._products(module, rows)
                before = sums.get(name, [torch.zeros_like(product) for product in products])
                sums[name] = [total + product for total, product in zip(before, products, strict=True)]

            return hook

        hooks = [module.register_forward_hook(look(name)) for name, module in layers.items()]
        try:
            with torch.no_grad():
                for pixels in batches:
                    channels = pixels.shape[1]
                    (forward or network)(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        self._shrinks = {name: _shrink(total, damping) for name, total in sums.items()}
        for name, seen in wide.items():
            self._shrinks[name] = _shrink_by_rows(thinned(torch.cat(seen), draws, most=WIDE), damping)

    def weights(self, network: nn.Module) -> list[nn.Parameter]:
        """The weights whose gradients ``apply`` preconditions in a network of the same build, each once.

        Example:
            >>> net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
            >>> spared = InputCurvature(net, [torch.ones(1, 3)], damping=0.1, draws=torch.Generator())
            >>> [tuple(weight.shape) for weight in spared.weights(net)]
            [(2, 3)]
        """
        weights = (module.weight for name, module in network.named_modules() if name in self._shrinks)
        return list(dict.fromkeys(weights))

    @torch.no_grad()
    def apply(self, network: nn.Module) -> None:
        """Precondition the gradients that the layers of these names have in a network of the same build."""
        for name, shrink in self._shrinks.items():
            weight = network.get_submodule(name).weight
            if not isinstance(weight, Tensor) or weight.grad is None:
                continue
            if weight.dim() == 4 and self.extent == "channels":
                rows = weight.grad.movedim(1, -1)
                weight.grad = shrink(rows).movedim(-1, 1).contiguous()
            else:
                weight.grad = shrink(weight.grad.flatten(1)).view_as(weight)

    def _rows(self, module: nn.Module, inputs: Tensor) -> Tensor:
        if isinstance(module, nn.Conv2d) and self.extent == "channels":
            return inputs.movedim(1, -1).flatten(0, -2)
        return input_rows(module, inputs)

    def _products(self, module: nn.Module, rows: Tensor) -> list[Tensor]:
        """Sums of a aᵀ of rows (n, inputs); for ``kronecker`` those of channels and of places apart."""
        if self.extent != "kronecker" or not isinstance(module, nn.Conv2d) or module.kernel_size == (1, 1):
            return [rows.T @ rows]
        seen = rows.view(len(rows), module.in_channels, -1)
        channels, places = seen.transpose(1, 2).flatten(0, 1), seen.flatten(0, 1)
        return [channels.T @ channels, places.T @ places]


def input_rows(module: nn.Module, inputs: Tensor) -> Tensor:
    """What a layer multiplies its weights with, (rows, inputs): what a kernel sees at each place, or the vectors."""
    if not isinstance(module, nn.Conv2d):
        return inputs.flatten(0, -2)
    seen = F.unfold(
        inputs,
        module.kernel_size,
        dilation=module.dilation,
        padding=cast(tuple[int, ...], module.padding),
        stride=module.stride,
    )
    rows: Tensor = seen.transpose(1, 2).flatten(0, 1)
    return rows


def thinned(rows: Tensor, draws: torch.Generator, most: int | None = None) -> Tensor:
    """``most`` of the rows (n, inputs), ``ROWS`` where not said, drawn from a CPU generator where there are more."""
    most = ROWS if most is None else most
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=draws)[:most].to(rows.device)]


def takes_part(module: nn.Module) -> bool:
    """Whether a layer is one whose inputs are looked at: linear, or an ungrouped convolution padded by numbers."""
    if isinstance(module, nn.Linear):
        return True
    # Grouped convolutions see a part of the channels each; padding by name has no size to unfold with.
    return isinstance(module, nn.Conv2d) and module.groups == 1 and not isinstance(module.padding, str)


def _cuts_patches(module: nn.Module, channels: int) -> bool:
    """Whether a layer cuts images of so many channels into patches that do not overlap."""
    if not isinstance(module, nn.Conv2d) or module.in_channels != channels:
        return False
    return module.kernel_size == module.stride and module.kernel_size != (1, 1)


def _shrink(products: list[Tensor], damping: float) -> Callable[[Tensor], Tensor]:
    """Rows (…, inputs) times P, where A is the Kronecker product of one or two covariances.

    Of two, in the eigenbasis of the places A falls apart into one matrix of channels for each place, μ_j A_C, so P is
    one product with a matrix of channels for each.
    """
    covariances = [_scaled(product) for product in products]
    channels = covariances[0]
    identity = torch.eye(len(channels)).to(channels)
    if len(covariances) == 1:
        inverse: Tensor = damping * torch.linalg.inv(channels + damping * identity)
        return lambda rows: rows @ inverse
    # Few places: in double, on the CPU, since not every accelerator has doubles.
    values, places = (part.to(channels) for part in torch.linalg.eigh(covariances[1].cpu().double()))
    inverses = damping * torch.linalg.inv(
        values.clamp(min=0)[:, None, None] * channels + damping * identity  # (places, channels, channels)
    )

    def both(rows: Tensor) -> Tensor:
        seen = rows.view(len(rows), len(channels), len(places))
        shrunk = torch.bmm((seen @ places).permute(2, 0, 1), inverses)
        back: Tensor = (shrunk.permute(1, 2, 0) @ places.T).flatten(1)
        return back

    return both


def _shrink_by_rows(seen: Tensor, damping: float) -> Callable[[Tensor], Tensor]:
    """The same where A is that of the rows seen (n, inputs), without forming it."""
    gram = (seen @ seen.T).cpu().double()  # not every accelerator has doubles
    scale = gram.trace() / seen.shape[1]  # mean eigenvalue of n · A before it is scaled to 1
    if not float(scale):
        return lambda rows: rows
    # Rounding counts here: P is what is left of a difference.
    inner = torch.linalg.inv(gram + scale * damping * torch.eye(len(gram), dtype=gram.dtype)).to(seen)
    return lambda rows: rows - (rows @ seen.T) @ inner @ seen


def _scaled(product: Tensor) -> Tensor:
    """With mean eigenvalue 1; zeros stay zeros, so that inputs that are never used are free."""
    scale = product.diagonal().mean()
    return product / scale if float(scale) else product
