"""The learnable projector p between features and head."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from stakes.errors import ConfigError


def _empty_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with weights still to be set; nn.Linear itself would draw from the global generator."""
    return nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")


class Projector(nn.Module):
    """Linear, ReLU, linear: p(z) = W₂ · max(W₁ z + c₁, 0) + c₂, from width d to width d.

    Args:
        width: d, the width of the features.
        hidden: h, the width between the two layers. By default d for ``random``; for ``identity`` it is set
            by the construction and may be left out.
        init: ``random`` draws every weight and bias from U(−1/√fan_in, 1/√fan_in), PyTorch's default for
            linear layers. ``identity`` gives p(z) = z exactly for finite z: W₁ = [I; −I], W₂ = [I, −I], h =
            2d, since max(z, 0) − max(−z, 0) = z.
        nonnegative: with ``identity``, use W₁ = W₂ = I, h = d. Exact only where z ≥ 0 (features behind a
            ReLU, as in a ResNet); negative entries become 0.
        generator: source of the random weights; by default a fresh one with seed 0. The global one is not
            used.

    Shapes:
        z (…, d) to (…, d).

    Raises:
        ConfigError: a width below 1, an unknown ``init``, or a ``hidden`` that the identity cannot have.

    Example:
        >>> z = torch.tensor([[1.5, -2.0]])
        >>> Projector(2, init="identity")(z)
        tensor([[ 1.5000, -2.0000]], grad_fn=<AddmmBackward0>)

    Source:
        The paper, section 4.1 (the shape); the two starts are ours. The identity is exact in float32 and
        float64. Under autocast or TF32 the products round the features, and so does the identity.
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        *,
        init: Literal["random", "identity"] = "random",
        nonnegative: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if init not in ("random", "identity"):
            raise ConfigError("start of the projector", expected="'random' or 'identity'", got=repr(init))
        needed = width if nonnegative or init == "random" else 2 * width
        self.width = width
        self.hidden = needed if hidden is None else hidden
        if min(self.width, self.hidden) < 1:
            raise ConfigError("width of the projector", expected="at least 1", got=f"{width} and {hidden}")
        if init == "identity" and self.hidden != needed:
            raise ConfigError(
                "hidden width of an identity projector",
                expected=str(needed),
                got=str(hidden),
                fix="Leave it out, or start from random weights.",
            )
        self.fc1 = _empty_linear(width, self.hidden)
        self.fc2 = _empty_linear(self.hidden, width)
        if init == "random":
            self._draw(generator or torch.Generator().manual_seed(0))
        else:
            self._become_identity(nonnegative)

    @torch.no_grad()
    def _draw(self, generator: torch.Generator) -> None:
        for layer in (self.fc1, self.fc2):
            bound = 1 / math.sqrt(layer.in_features)
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)

    @torch.no_grad()
    def _become_identity(self, nonnegative: bool) -> None:
        eye = torch.eye(self.width)
        self.fc1.weight.copy_(eye if nonnegative else torch.cat([eye, -eye]))
        self.fc2.weight.copy_(eye if nonnegative else torch.cat([eye, -eye], dim=1))
        self.fc1.bias.zero_()
        self.fc2.bias.zero_()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """p(z) for features (…, width)."""
        return self.fc2(torch.relu(self.fc1(features)))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The two widths."""
        return f"width={self.width}, hidden={self.hidden}"
