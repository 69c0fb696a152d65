"""What can be checked before a network is split, and the batch to try it with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from stakes.data.names import unprintable
from stakes.errors import ModelError
from stakes.models.head import HeadSearch

# No images of pixels in [0, 1] have more; values for 0 to 255 do. NaN is no less than either.
LARGEST_MEAN, LARGEST_STD = 5.0, 10.0


def checked_size(input_size: Sequence[int]) -> tuple[int, int, int]:
    """(C, H, W) as whole numbers of at least 1, or a ``ModelError``."""
    if len(input_size) != 3 or min(input_size) < 1:
        raise ModelError(
            "input_size", expected="(channels, height, width), each at least 1", got=str(tuple(input_size))
        )
    channels, height, width = (int(n) for n in input_size)
    return channels, height, width


def check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Refuse a normalisation that does not fit the channels."""
    if len(mean) != channels or len(std) != channels or not all(s > 0 for s in std):
        raise ModelError(
            "normalisation",
            expected=f"{channels} means and {channels} standard deviations above 0, for pixels in [0, 1]",
            got=f"mean {list(mean)}, std {list(std)}",
        )
    if not all(abs(m) <= LARGEST_MEAN for m in mean) or not all(s <= LARGEST_STD for s in std):
        raise ModelError(
            "normalisation",
            expected="means and standard deviations of pixels in [0, 1]",
            got=f"mean {list(mean)}, std {list(std)}",
            fix="These look like 0 to 255: divide both by 255.",
        )


def check_names(class_names: Sequence[str], found: HeadSearch) -> None:
    """Refuse class names that repeat, hold control characters, or are not one per output."""
    if odd := [name for name in class_names if unprintable(str(name))]:
        raise ModelError("class names for the network", expected="no control characters", got=ascii(odd[0]))
    outputs = found.head.out_features
    if len(class_names) != outputs:
        raise ModelError(
            "class names for the network",
            expected=f"{outputs}, one per output of {found.name!r}",
            got=str(len(class_names)),
            fix="Give the names in the order of the outputs.",
        )
    if repeated := sorted({name for name in class_names if list(class_names).count(name) > 1}):
        raise ModelError("class names", expected="all different", got=f"{repeated[0]!r} more than once")


def dummy_batch(
    network: nn.Module, size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Two seeded random images in the normalised range of the network, on its device."""
    pixels = torch.rand((2, *size), generator=torch.Generator().manual_seed(0))
    normalised = (pixels - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    return normalised.to(device)
