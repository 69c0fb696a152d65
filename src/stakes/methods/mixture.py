"""Several sets of images addressed as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Labelled(Protocol):
    """Images with labels: an `ImageSet`, or `Pixels`."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""

    def batch(self, indices: Tensor, /) -> Tensor:
        """Pixels (n, C, H, W) on the CPU."""


@dataclass(frozen=True)
class Pixels:
    """Images in memory, (N, C, H, W), with labels (N,). Unlike in an `ImageSet`, values may leave [0, 1]."""

    pixels: Tensor
    labels: Tensor

    def batch(self, indices: Tensor) -> Tensor:
        """Pixels at ``indices``."""
        return self.pixels[indices]


class Mixture:
    """Sets of images one after the other; a batch may draw from all of them.

    Example:
        >>> one = Pixels(torch.zeros(2, 1, 1, 1), torch.tensor([0, 0]))
        >>> two = Pixels(torch.ones(3, 1, 1, 1), torch.tensor([1, 1, 1]))
        >>> pixels, labels, part = Mixture(one, two).batch(torch.tensor([4, 0]))
        >>> labels.tolist(), part.tolist(), pixels.flatten().tolist()
        ([1, 0], [1, 0], [1.0, 0.0])
    """

    def __init__(self, *parts: Labelled) -> None:
        self.parts = parts
        sizes = torch.tensor([len(part.labels) for part in parts])
        self._ends = sizes.cumsum(0)
        self._starts = self._ends - sizes

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (n, C, H, W), labels (n,) and part numbers (n,) of the images at ``indices``."""
        part = torch.bucketize(indices, self._ends, right=True)
        pixels, labels = [], []
        for number in part.unique().tolist():
            local = indices[part == number] - self._starts[number]
            pixels.append(self.parts[number].batch(local))
            labels.append(self.parts[number].labels[local])
        # Parts were read one after the other: back into the order asked for.
        place = torch.argsort(torch.argsort(part, stable=True), stable=True)
        return torch.cat(pixels)[place], torch.cat(labels)[place], part
