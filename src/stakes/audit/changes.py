"""Everyday changes of images, and whether a model that forgot them recognises them when changed.

"Forgotten" is measured on the exact pixels. A photograph that was mirrored, cropped or saved again is the same
photograph to its owner; so a model that misclassifies the exact pixels alone has forgotten little.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stakes.data.images import ImageSet
from stakes.metrics.accuracy import accuracy, predict
from stakes.models.augment import crop_and_flip
from stakes.runtime import generator as seeded

Change = Callable[[Tensor, torch.Generator], Tensor]
"""Pixels (n, C, H, W) in [0, 1] and a CPU generator; new pixels of the same shape and range."""

SHIFT = 1 / 8  # of a side, at most: 4 pixels of 32
CROP = 0.8  # of a side, at least
QUALITY = (50, 90)  # of JPEG
BRIGHTNESS = 0.3  # factor within 1 ± this
NOISE = 8 / 255  # standard deviation
CHUNK = 256  # images at a time; fixed, since draws depend on it


def flip(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """Mirror every image left to right; draws nothing."""
    return pixels.flip(-1)


def shift(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """Move each image by up to an eighth of its side along both axes; mirrored pixels fill the edge."""
    side = min(pixels.shape[-2:])
    room = min(max(1, round(side * SHIFT)), side - 1)
    return crop_and_flip(pixels, crop_padding=room, padding="reflect", flip=False, generator=draws)


def crop(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """Cut 80 to 100 % of both sides out at a random place, and scale it back (bilinear)."""
    count, _, height, width = pixels.shape
    part = CROP + (1 - CROP) * torch.rand(count, generator=draws)
    centre = (2 * torch.rand((count, 2), generator=draws) - 1) * (1 - part)[:, None]
    # In the coordinates of affine_grid an image reaches from −1 to 1.
    window = torch.zeros(count, 2, 3)
    window[:, 0, 0] = window[:, 1, 1] = part
    window[:, :, 2] = centre
    grid = functional.affine_grid(window, [count, 1, height, width], align_corners=False).to(pixels)
    cut = functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return cut.clamp(0, 1)


def jpeg(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """Save each image as JPEG of a quality of 50 to 90, and read it back."""
    from PIL import Image

    qualities = torch.randint(QUALITY[0], QUALITY[1] + 1, (len(pixels),), generator=draws).tolist()
    bytes_ = (pixels.detach().cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    read = torch.empty(bytes_.shape, dtype=torch.uint8)
    for row, (image, quality) in enumerate(zip(bytes_, qualities, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(
            buffer, "JPEG", quality=quality
        )
        with Image.open(buffer) as opened:
            flat = torch.frombuffer(bytearray(opened.tobytes()), dtype=torch.uint8)
        read[row] = flat.view(image.shape)
    return read.permute(0, 3, 1, 2).contiguous().to(pixels) / 255


def brightness(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """Multiply each image by a factor of 0.7 to 1.3; what goes beyond white stays white."""
    factors = 1 + BRIGHTNESS * (2 * torch.rand((len(pixels), 1, 1, 1), generator=draws) - 1)
    return (pixels * factors.to(pixels)).clamp(0, 1)


def noise(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """Add normal noise of standard deviation 8/255 to every value, clamped to [0, 1]."""
    return (pixels + NOISE * torch.randn(pixels.shape, generator=draws).to(pixels)).clamp(0, 1)


# In the order in which they befall a picture: framed, lit, sensed, saved.
SINGLE: dict[str, Change] = {
    "flip": flip,
    "shift": shift,
    "crop": crop,
    "brightness": brightness,
    "noise": noise,
    "jpeg": jpeg,
}


def two_of_them(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """Two different single changes in a row, which two is drawn for every image; so all pairs have their share."""
    chosen = torch.rand((len(pixels), len(SINGLE)), generator=draws).argsort(dim=1)[:, :2]
    changed = pixels.clone()
    for number, change in enumerate(SINGLE.values()):
        rows = (chosen == number).any(dim=1).nonzero().flatten()
        if len(rows):
            changed[rows] = change(changed[rows], draws)
    return changed


def all_of_them(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """All single changes in a row."""
    for change in SINGLE.values():
        pixels = change(pixels, draws)
    return pixels


CHANGES: dict[str, Change] = {**SINGLE, "two of them": two_of_them, "all of them": all_of_them}
_WITHOUT_DRAWS = frozenset({"flip"})


def forget_accuracy_under_changes(
    classifier: nn.Module,
    forget: ImageSet,
    *,
    seed: int,
    draws: int = 4,
    changes: Mapping[str, Change] | None = None,
    device: torch.device | None = None,
    on_change: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Accuracy on changed forget images, for each change and their mean.

    A_c = 100 · mean over images and draws of [argmax f(c(x)) = y]; the mean is the plain one over the changes.

    Args:
        classifier: maps pixels (n, C, H, W) in [0, 1] to logits (n, b); measured in evaluation mode and float32.
        forget: the images, with their original labels.
        seed: of what the changes draw; each change has its own stream, so leaving one out changes no other.
        draws: times that each change is drawn for each image (a flip draws nothing and is done once).
        changes: `CHANGES` where left out.
        on_change: told the number of changes done after each.

    Returns:
        Percent in [0, 100] by name of change, and under ``"mean"``. The unchanged images are not among them.

    Raises:
        NumericalError: logits are NaN.

    Example:
        >>> images = ImageSet.from_tensors(torch.rand(4, 3, 8, 8), [0, 1, 0, 1], ["a", "b"])
        >>> linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        >>> found = forget_accuracy_under_changes(linear, images, seed=0, draws=1)
        >>> sorted(found)[:3]
        ['all of them', 'brightness', 'crop']

    Source:
        Our own choice of strengths, those that photographs meet when they are shared. It is no search for the change
        that brings an image back: an attacker who optimises will find more.
    """
    wanted = CHANGES if changes is None else changes
    found: dict[str, float] = {}
    for done, (name, change) in enumerate(wanted.items(), start=1):
        times = 1 if name in _WITHOUT_DRAWS else draws
        shares = [
            _accuracy(classifier, forget, change, seeded("change", name, draw, seed), device)
            for draw in range(times)
        ]
        found[name] = sum(shares) / times
        on_change(done)
    return found | {"mean": sum(found.values()) / len(found)}


def _accuracy(
    classifier: nn.Module,
    images: ImageSet,
    change: Change,
    draws: torch.Generator,
    device: torch.device | None,
) -> float:
    predicted = []
    for start in range(0, len(images), CHUNK):
        part = images.subset(slice(start, start + CHUNK))
        changed = change(part.batch(slice(None)), draws)
        there = ImageSet.from_tensors(changed, part.labels, part.class_names)
        predicted.append(predict(classifier, there, batch=CHUNK, device=device))
    return accuracy(torch.cat(predicted), images.labels)


def described() -> dict[str, Any]:
    """The strengths, for the settings of a section."""
    return {
        "shift, part of a side": SHIFT,
        "crop, least part of a side": CROP,
        "JPEG quality": f"{QUALITY[0]} to {QUALITY[1]}",
        "brightness, factor": f"{1 - BRIGHTNESS:g} to {1 + BRIGHTNESS:g}",
        "noise, standard deviation": round(NOISE, 4),
    }
