"""Everyday copies and mixed probes: they stay images, the generator decides them, and squares are where they may be."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stakes.methods.variants import BRIGHTNESS, CUT, NOISE, cut_and_mix, everyday

BOTH = pytest.mark.parametrize("change", [everyday, cut_and_mix])
Change = Callable[[Tensor, torch.Generator], Tensor]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@BOTH
@pytest.mark.parametrize(
    "shape", [(5, 3, 8, 8), (4, 1, 5, 9), (3, 3, 16, 4), (2, 1, 2, 2), (1, 3, 8, 8), (2, 1, 1, 1)]
)
def test_images_stay_images(change: Change, shape):
    pixels = torch.rand(shape, generator=draws())
    kept = pixels.clone()
    made = change(pixels, draws(1))
    assert made.shape == shape
    assert made.dtype == torch.float32
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    assert torch.equal(pixels, kept), "the originals are not changed"
    for extreme in (torch.zeros(shape), torch.ones(shape)):
        assert bool(((change(extreme, draws()) >= 0) & (change(extreme, draws()) <= 1)).all())


@BOTH
def test_the_generator_decides(change: Change):
    pixels = torch.rand((6, 3, 8, 8), generator=draws())
    state = torch.random.get_rng_state()
    one, other = draws(3), draws(3)
    assert torch.equal(change(pixels, one), change(pixels, other))
    assert torch.equal(one.get_state(), other.get_state())
    assert not torch.equal(change(pixels, one), change(pixels, draws(3))), "further on, other draws"
    assert torch.equal(state, torch.random.get_rng_state())


def test_copies_of_a_flat_image_differ_in_light_and_noise_alone():
    made = everyday(torch.full((300, 1, 8, 8), 0.5), draws())
    light = made.mean((1, 2, 3)) / 0.5
    assert float((light - 1).abs().max()) < BRIGHTNESS + NOISE
    assert float(light.min()) < 1 - 0.8 * BRIGHTNESS
    assert float(light.max()) > 1 + 0.8 * BRIGHTNESS
    spread = made.std((1, 2, 3))
    assert float(spread.max()) < 1.5 * NOISE
    assert float(spread.min()) < 0.3 * NOISE


def test_copies_move_by_an_eighth_and_half_are_mirrored():
    """Where the one bright pixel of an image goes."""
    pixels = torch.zeros(400, 1, 16, 16)
    pixels[:, :, 8, 5] = 1.0
    peak = everyday(pixels, draws()).flatten(1).argmax(1)
    rows, columns = peak // 16, peak % 16
    assert set((rows - 8).tolist()) == {-2, -1, 0, 1, 2}
    plain = (columns - 5).abs() <= 2
    mirrored = (columns - 10).abs() <= 2
    # Column 7 or 8 could come from either, if they were reached: 5 + 2 < 10 − 2.
    assert bool((plain ^ mirrored).all())
    assert 0.4 < float(mirrored.float().mean()) < 0.6


def flat(count: int, height: int, width: int) -> Tensor:
    """Images of one colour each, half dark and half bright, far enough apart for light and noise."""
    values = torch.where(torch.rand(count, generator=draws(9)) < 0.5, 0.2, 0.8)
    return values[:, None, None, None].expand(count, 1, height, width)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 32), (8, 8)])
def test_the_square_has_the_area_it_may_have(height, width):
    count = 200
    pixels = flat(count, height, width)
    made = cut_and_mix(pixels, draws())
    foreign = ((made - pixels).abs() > 0.3)[:, 0]
    assert not bool(foreign[count // 2 :].any()), "the second half has no square"
    areas = []
    for image in foreign[: count // 2]:
        if not bool(image.any()):
            continue  # the other image has the same colour
        rows, columns = image.any(1).nonzero().flatten(), image.any(0).nonzero().flatten()
        tall, wide = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert int(image.sum()) == tall * wide, "a whole rectangle"
        # Sides are rounded down.
        for side, length in ((height, tall), (width, wide)):
            assert math.floor(side * math.sqrt(CUT[0])) <= length <= math.floor(side * math.sqrt(CUT[1]))
        assert abs(tall / height - wide / width) < 1 / min(height, width), "the shape of the image"
        areas.append(tall * wide / height / width)
    assert len(areas) > 30, "about half of them"
    assert min(areas) < 0.3
    assert max(areas) > 0.65


def test_squares_lie_anywhere():
    pixels = flat(400, 8, 8)
    foreign = ((cut_and_mix(pixels, draws()) - pixels).abs() > 0.3)[:200, 0]
    assert bool(foreign.any(0).all()), "every place is reached"
    corners = foreign[:, 0, 0] | foreign[:, 0, 7] | foreign[:, 7, 0] | foreign[:, 7, 7]
    assert 0 < int(corners.sum()) < int(foreign.any((1, 2)).sum()), "and not every square is in a corner"


def test_outside_of_the_square_are_everyday_copies():
    """What the two have in common is drawn first."""
    pixels = torch.rand((8, 3, 8, 8), generator=draws(2))
    made, copies = cut_and_mix(pixels, draws()), everyday(pixels, draws())
    assert torch.equal(made[4:], copies[4:])
    for image in range(4):
        own = (made[image] == copies[image]).all(0)
        foreign = [bool(((made[image] == other).all(0) | own).all()) for other in copies]
        assert any(foreign), "and inside it is one copy of another image"


def test_one_image_has_none_to_mix_with():
    pixels = torch.rand((1, 3, 8, 8), generator=draws())
    assert torch.equal(cut_and_mix(pixels, draws()), everyday(pixels, draws()))
