"""Images that change from step to step: everyday copies of the forget images, and probes cut into each other."""

from __future__ import annotations

import torch
from torch import Tensor

from stakes.models.augment import crop_and_flip

SHIFT = 1 / 8  # of a side, at most
BRIGHTNESS = 0.15  # factor within 1 ± this
NOISE = 0.02  # standard deviation, at most
CUT = (0.2, 0.8)  # of the area, what comes from the other image


def everyday(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """A copy of each image, moved by up to an eighth of its side, mirrored half of the time, lit anew, with noise.

    Args:
        pixels: (n, C, H, W) in [0, 1].
        draws: a CPU generator.

    Returns:
        (n, C, H, W) in [0, 1].

    Example:
        >>> everyday(torch.rand(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """
    side = min(pixels.shape[-2:])
    room = min(max(1, round(side * SHIFT)), side - 1)
    moved = crop_and_flip(pixels, crop_padding=room, padding="reflect", flip=True, generator=draws)
    shape = (len(pixels), 1, 1, 1)
    light = 1 + BRIGHTNESS * (2 * torch.rand(shape, generator=draws) - 1)
    strength = NOISE * torch.rand(shape, generator=draws)
    noise = strength * torch.randn(pixels.shape, generator=draws)
    return (moved * light.to(pixels) + noise.to(pixels)).clamp(0, 1)


def cut_and_mix(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """Everyday copies, and in the first half of them a square from another image of the batch.

    No label is mixed: the original model says what such an image is.

    Args:
        pixels: (n, C, H, W) in [0, 1].
        draws: a CPU generator.

    Returns:
        (n, C, H, W) in [0, 1].

    Source:
        The square is that of CutMix (Yun et al., ICCV 2019), without its labels.

    Example:
        >>> cut_and_mix(torch.rand(4, 3, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([4, 3, 8, 8])
    """
    copies = everyday(pixels, draws)
    count, _, height, width = pixels.shape
    others = torch.randperm(count, generator=draws)
    area = CUT[0] + (CUT[1] - CUT[0]) * torch.rand(count, generator=draws)
    places = torch.rand((2, count), generator=draws)
    rows, columns = torch.arange(height), torch.arange(width)
    inside = (
        _span(rows, height, area, places[0])[:, :, None] & _span(columns, width, area, places[1])[:, None, :]
    )
    inside[count // 2 :] = False
    return torch.where(inside[:, None].to(pixels.device), copies[others.to(pixels.device)], copies)


def _span(numbers: Tensor, side: int, area: Tensor, place: Tensor) -> Tensor:
    """Which rows (or columns) of each image are in its square: (n, side)."""
    length = (side * area.sqrt()).floor().clamp(min=1)
    first = ((side - length + 1) * place).floor()
    return (numbers >= first[:, None]) & (numbers < (first + length)[:, None])
