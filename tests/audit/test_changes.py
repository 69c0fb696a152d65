"""Everyday changes: they change, stay in range, follow their generator, and see through a model that hides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stakes.audit.changes import CHANGES, SINGLE, forget_accuracy_under_changes
from stakes.data.images import ImageSet


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(count: int = 6, channels: int = 3, side: int = 16) -> Tensor:
    """Smooth pictures, as JPEG likes them."""
    small = torch.rand((count, channels, 4, 4), generator=draws(1))
    return nn.functional.interpolate(small, size=side, mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_range_and_determinism(name: str, channels: int) -> None:
    pixels = photos(channels=channels)
    kept = pixels.clone()
    changed = CHANGES[name](pixels, draws())
    assert changed.shape == pixels.shape
    assert changed.dtype == torch.float32
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert torch.equal(changed, CHANGES[name](pixels, draws()))
    assert torch.equal(pixels, kept)
    assert not torch.equal(changed, pixels)


@pytest.mark.parametrize("name", SINGLE)
def test_a_change_stays_recognisable(name: str) -> None:
    """Each picture is nearer to its own changed form than to the others, but for a mirrored one."""
    pixels = photos()
    changed = SINGLE[name](pixels, draws())
    reference = pixels.flip(-1) if name == "flip" else pixels
    assert torch.cdist(changed.flatten(1), reference.flatten(1)).argmin(1).tolist() == list(range(6))


def test_flip_is_its_own_inverse() -> None:
    pixels = photos()
    assert torch.equal(CHANGES["flip"](CHANGES["flip"](pixels, draws()), draws()), pixels)


def test_a_plain_picture_survives_what_moves_pixels() -> None:
    plain = torch.full((2, 3, 8, 8), 0.5)
    for name in ("flip", "shift", "crop"):
        assert torch.allclose(CHANGES[name](plain, draws()), plain, atol=1e-6)


class Remembers(nn.Module):
    """Misclassifies exactly the images it was shown, and nothing else: forgetting at its weakest."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(images.flatten(1), requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        known = (torch.cdist(pixels.flatten(1), self.images) < 1e-3).any(1)
        right = torch.tensor([1.0, 0.0]).expand(len(pixels), 2)
        return torch.where(known[:, None], right.flip(1), right)


class Blind(nn.Module):
    def __init__(self, says: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.eye(2)[says], requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits.expand(len(pixels), 2)


def test_forgetting_the_exact_pixels_alone_is_seen_through() -> None:
    images = ImageSet.from_tensors(photos(), [0] * 6, ["a", "b"])
    hiding = Remembers(images.batch(slice(None)))
    assert (hiding(images.batch(slice(None))).argmax(1) == 1).all()
    found = forget_accuracy_under_changes(hiding, images, seed=0, draws=2)
    assert found["mean"] > 90
    assert set(found) == {*CHANGES, "mean"}


def test_controls_that_know_nothing_and_everything() -> None:
    images = ImageSet.from_tensors(photos(), [0] * 6, ["a", "b"])
    assert forget_accuracy_under_changes(Blind(1), images, seed=0, draws=1)["mean"] == 0
    assert forget_accuracy_under_changes(Blind(0), images, seed=0, draws=1)["mean"] == 100


def test_streams_are_independent_and_seeded() -> None:
    images = ImageSet.from_tensors(torch.rand((40, 3, 8, 8), generator=draws()), [0] * 40, ["a", "b"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    full = forget_accuracy_under_changes(linear, images, seed=0)
    alone = forget_accuracy_under_changes(linear, images, seed=0, changes={"noise": CHANGES["noise"]})
    assert alone["noise"] == full["noise"] == alone["mean"]
    assert forget_accuracy_under_changes(linear, images, seed=0) == full
    assert forget_accuracy_under_changes(linear, images, seed=1) != full
