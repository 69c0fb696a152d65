"""Probes and unlabelled images as one set, the images with what the original model says they are."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from stakes.data.images import ImageSet
from stakes.files import digest


class Probes(Protocol):
    """What a method trains on in place of retained images.

    Attributes:
        labels: (N_s,) int64, the class that each of them is to stay in.
    """

    @property
    def labels(self) -> Tensor:
        """See above."""

    def __len__(self) -> int:
        """N_s."""

    def batch(self, indices: Tensor) -> Tensor:
        """Pixels (n, C, H, W), float32 in [0, 1], of the probes at ``indices``."""

    def fingerprint(self) -> str:
        """SHA-256 of what they were made from."""


class JoinedProbes:
    """Probes, and after them unlabelled images whose labels are the original model's answers.

    Attributes:
        labels: (N_s,) int64.
    """

    def __init__(self, made: Probes, images: ImageSet, answers: Tensor) -> None:
        self._made, self._images = made, images
        self.labels = torch.cat([made.labels, answers.to(made.labels)])

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        """See `Probes.batch`."""
        own = indices < len(self._made)
        if bool(own.all()):
            return self._made.batch(indices)
        images = self._images.batch(indices[~own] - len(self._made))
        if not bool(own.any()):
            return images
        pixels = images.new_empty(len(indices), *images.shape[1:])
        pixels[own], pixels[~own] = self._made.batch(indices[own]), images
        return pixels

    def fingerprint(self) -> str:
        """SHA-256 of both."""
        return digest(self._made.fingerprint(), self._images.fingerprint())
