"""Pixels of any size and channel count to float pixels of the wanted ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def resized(pixels: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Bring a batch to (C, H, W), as float32 in [0, 1].

    Where height or width differ: ``torch.nn.functional.interpolate`` with ``mode="bilinear"``,
    ``antialias=True`` on the float pixels, then clamped to [0, 1]. The sides are scaled independently
    (nothing is cropped or padded). Where they agree the pixels are exactly x / 255. The channels are brought
    to C first: three become one by their luminance (ITU-R 601, Y = 0.299 R + 0.587 G + 0.114 B, for uint8
    rounded as Pillow does), one becomes three by replication.

    Args:
        pixels: (n, c, h, w), uint8, or float32 in [0, 1]; c of 1 or 3.
        size: (C, H, W); C of 1 or 3.

    Example:
        >>> resized(torch.full((1, 1, 4, 4), 255, dtype=torch.uint8), (3, 2, 2)).unique().tolist()
        [1.0]
    """
    channels, height, width = size
    if pixels.shape[1] == 3 and channels == 1:
        pixels = _luminance(pixels)
    # The order in memory decides which kernel interpolates: one order, one result.
    values = pixels.contiguous().to(torch.float32)
    if pixels.dtype == torch.uint8:
        values.div_(255)
    if values.shape[-2:] != (height, width):
        values = functional.interpolate(values, (height, width), mode="bilinear", antialias=True)
        values = values.clamp(0, 1)
    if values.shape[1] == 1 and channels == 3:
        values = values.expand(-1, 3, -1, -1).contiguous()
    return values


def _luminance(pixels: Tensor) -> Tensor:
    red, green, blue = pixels[:, :1], pixels[:, 1:2], pixels[:, 2:]
    if pixels.dtype == torch.uint8:
        # 16-bit fixed point: grey stays exactly the same grey, which floating point would not promise.
        total = 19595 * red.int() + 38470 * green.int() + 7471 * blue.int() + 0x8000
        return (total >> 16).to(torch.uint8)
    return (0.299 * red + 0.587 * green + 0.114 * blue).clamp(0, 1)
