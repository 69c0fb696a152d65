"""Random crops and flips of whole batches."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from stakes.errors import ConfigError


def crop_and_flip(
    pixels: torch.Tensor,
    *,
    crop_padding: int,
    padding: Literal["reflect", "zeros"],
    flip: bool,
    generator: torch.Generator,
) -> torch.Tensor:
    """Pad each image, cut its own size out at a random place, and mirror half of the images left to right.

    Every image draws its own place and side; both are drawn on the CPU, so the result is the same on every
    device.

    Args:
        pixels: (n, C, H, W); any range.
        crop_padding: pixels on each side; the shift is uniform in −crop_padding … crop_padding. 0: no crop.
        padding: ``reflect`` (the mirrored image) or ``zeros`` (black).
        flip: whether to mirror.
        generator: a CPU generator; it moves on by the same amount whatever the other settings.

    Returns:
        (n, C, H, W), a new tensor.

    Raises:
        ConfigError: reflection wider than the image allows.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> draws = torch.Generator().manual_seed(0)
        >>> crop_and_flip(images, crop_padding=1, padding="zeros", flip=True, generator=draws).shape
        torch.Size([2, 3, 8, 8])
    """
    count, _, height, width = pixels.shape
    if padding == "reflect" and crop_padding >= min(height, width):
        raise ConfigError(
            "crop_padding", expected=f"below {min(height, width)}, the image's side", got=str(crop_padding)
        )
    shifts = torch.randint(0, 2 * crop_padding + 1, (2, count, 1), generator=generator)
    mirrored = torch.randint(0, 2, (count, 1), generator=generator).bool() & flip
    columns = torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width)) + shifts[1]
    rows = torch.arange(height) + shifts[0]
    mode = "reflect" if padding == "reflect" else "constant"
    padded = functional.pad(pixels, [crop_padding] * 4, mode=mode) if crop_padding else pixels
    image = torch.arange(count)[:, None, None].to(pixels.device)
    rows, columns = rows[:, :, None].to(pixels.device), columns[:, None, :].to(pixels.device)
    return padded[image, :, rows, columns].permute(0, 3, 1, 2).contiguous()
