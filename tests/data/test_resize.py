from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from stakes.data.resize import resized


def _pixels(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_range_shape_and_idempotence(seed: int, h: int, w: int, height: int, width: int) -> None:
    once = resized(_pixels(seed, 2, 3, h, w), (3, height, width))
    assert once.shape == (2, 3, height, width)
    assert once.dtype == torch.float32
    assert once.is_contiguous()
    assert float(once.min()) >= 0
    assert float(once.max()) <= 1
    assert torch.equal(resized(once, (3, height, width)), once)


def test_native_size_is_exact() -> None:
    pixels = _pixels(0, 4, 3, 6, 5)
    assert torch.equal(resized(pixels, (3, 6, 5)), pixels.float() / 255)


def test_input_is_left_alone() -> None:
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    before = pixels.clone()
    resized(pixels, (1, 2, 2))
    assert torch.equal(pixels, before)


def test_order_in_memory_does_not_matter() -> None:
    pixels = _pixels(1, 3, 3, 16, 16)
    turned = pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(resized(pixels, (3, 7, 9)), resized(turned, (3, 7, 9)))


def test_equals_interpolate_and_comes_near_pillow() -> None:
    pixels = _pixels(2, 1, 3, 64, 64)
    found = resized(pixels, (3, 32, 32))
    direct = functional.interpolate(pixels.float() / 255, (32, 32), mode="bilinear", antialias=True)
    assert torch.equal(found, direct.clamp(0, 1))
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(picture) - found[0].permute(1, 2, 0).numpy() * 255).max() <= 1.01
    # Negative control: without antialiasing it is another image.
    plain = functional.interpolate(pixels.float() / 255, (32, 32), mode="bilinear")
    assert float((plain - found).abs().max()) > 0.05


def test_luminance_is_pillows_and_keeps_grey() -> None:
    pixels = _pixels(3, 1, 3, 16, 16)
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).convert("L")
    assert np.array_equal((resized(pixels, (1, 16, 16))[0, 0] * 255).round().numpy(), np.asarray(picture))
    greys = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(resized(greys.expand(1, 3, 16, 16), (1, 16, 16)), greys.float() / 255)


def test_float_luminance_agrees_with_integer_luminance() -> None:
    pixels = _pixels(4, 1, 3, 8, 8)
    assert resized(pixels.float() / 255, (1, 8, 8)).sub(resized(pixels, (1, 8, 8))).abs().max() <= 0.51 / 255


@pytest.mark.parametrize("size", [(3, 8, 8), (3, 4, 4)])
def test_grey_is_replicated(size: tuple[int, int, int]) -> None:
    found = resized(_pixels(5, 2, 1, 8, 8), size)
    assert found.shape == (2, *size)
    assert torch.equal(found[:, 0], found[:, 2])
    found[:, 0] = 0  # no memory shared between the channels
    assert float(found[:, 1].max()) > 0
