"""Weights of the forget images that grow while an image is still recognised: dual ascent on one constraint an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pressure(nn.Module):
    """One multiplier for each forget image: 1 at first, and ``rise`` more each time that its hinge is above 0.

    "Every image within the margin no more" is one constraint for each image; raising the multiplier of one that is
    violated is a step of dual ascent. With ``rise`` 0 all stay at 1.

    Example:
        >>> pressure = Pressure(3, rise=0.5)
        >>> pressure.seen(torch.tensor([0, 2]), torch.tensor([1.2, 0.0]))
        >>> pressure.weights.tolist()
        [1.5, 1.0, 1.0]
    """

    weights: Tensor

    def __init__(self, images: int, rise: float) -> None:
        super().__init__()
        self.rise = rise
        self.register_buffer("weights", torch.ones(images))

    def of(self, images: Tensor) -> Tensor:
        """The multipliers of the images of these numbers, (n,)."""
        return self.weights[images.to(self.weights.device)]

    @torch.no_grad()
    def seen(self, images: Tensor, hinges: Tensor) -> None:
        """Take the hinges of a step, (n,), of the images of these numbers, (n,); a copy counts as its image."""
        violated = torch.zeros_like(self.weights)
        above = (hinges > 0).to(self.weights)
        violated.scatter_reduce_(0, images.to(self.weights.device), above, "amax")
        self.weights += self.rise * violated
