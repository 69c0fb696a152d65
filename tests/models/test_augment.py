from __future__ import annotations

import numpy as np
import pytest
import torch

from stakes.errors import ConfigError
from stakes.models import crop_and_flip


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_every_image_is_a_crop_of_its_padded_or_mirrored_self(padding, generator):
    images = torch.rand(40, 2, 6, 7, generator=generator)
    changed = crop_and_flip(images, crop_padding=2, padding=padding, flip=True, generator=draws())
    mode = {"reflect": "reflect", "zeros": "constant"}[padding]
    found = set()
    for image, new in zip(images.numpy(), changed.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode=mode)
        matches = [
            (mirrored, y, x)
            for mirrored in (False, True)
            for y in range(5)
            for x in range(5)
            if np.array_equal(new, padded[:, y : y + 6, x : x + 7][:, :, :: -1 if mirrored else 1])
        ]
        assert len(matches) == 1
        found.add(matches[0])
    assert len(found) > 20  # each image draws for itself
    assert {m for m, _, _ in found} == {False, True}
    assert {y for _, y, _ in found} == {x for _, _, x in found} == set(range(5))


def test_off_means_off(generator):
    images = torch.rand(6, 1, 4, 4, generator=generator)
    same = crop_and_flip(images, crop_padding=0, padding="zeros", flip=False, generator=draws())
    assert torch.equal(same, images)


def test_seeded(generator):
    images = torch.rand(6, 1, 4, 4, generator=generator)
    first, second, third = (
        crop_and_flip(images, crop_padding=1, padding="zeros", flip=True, generator=g)
        for g in (draws(), draws(), generator)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_reflection_wider_than_the_image():
    with pytest.raises(ConfigError, match="below 4"):
        crop_and_flip(
            torch.rand(1, 1, 4, 8), crop_padding=4, padding="reflect", flip=False, generator=draws()
        )
