"""Inverting a model: what it comes nearer to, what it leaves alone, and its first step in another form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.config import InversionSettings
from stakes.inversion import invert, mixed_starts
from stakes.layer_statistics import FIRST_LAYER, Gaps, measured
from stakes.models import Classifier
from tinydigits import digits_model, known

SETTINGS = InversionSettings(iterations=20)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def starts() -> Tensor:
    return mixed_starts(known().subset(range(6)).batch(slice(None)), 20, draws(1))


TARGETS = torch.arange(20) % 10


def cross_entropy(model: Classifier, pixels: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(pixels), TARGETS))


def tiny_plain(size: tuple[int, int, int] = (1, 8, 8)) -> Classifier:
    """A classifier without BatchNorm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(size), 12), nn.ReLU(), nn.Linear(12, 10))
    model = Classifier.from_network(layers, class_names=[str(n) for n in range(10)], input_size=size)
    return model.requires_grad_(False)


# -- starts ------------------------------------------------------------------------------------------------


def shares(start: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The share s of the best mixture s · first + (1 − s) · second, and how far the start is from it."""
    direction, offset = (first - second).ravel(), (start - second).ravel()
    share = float(direction @ offset / (direction @ direction))
    return share, float(np.abs(offset - share * direction).max())


@pytest.mark.parametrize(("height", "width", "turns"), [(5, 5, {0, 1, 2, 3}), (4, 6, {0, 2}), (6, 4, {0, 2})])
def test_a_start_is_a_turned_mixture_of_an_image_and_a_mirrored_one(height, width, turns):
    image = torch.rand((1, 2, height, width), generator=draws())
    made = mixed_starts(image, 40, draws(1))
    assert made.shape == (40, 2, height, width)
    seen = set()
    for start in made.numpy():
        fits = {}
        for turn in (0, 1, 2, 3) if height == width else (0, 2):
            back = np.rot90(start, -turn, (-2, -1))
            share, distance = shares(back, image[0].numpy(), image[0].numpy()[..., ::-1])
            if distance < 1e-5:
                fits[turn] = share
        assert len(fits) >= 1, "no turn of a mixture"
        seen |= fits.keys()
        assert all(0 <= share <= 1 for share in fits.values())
    assert seen == turns


def test_starts_mix_all_images_and_the_draws_decide():
    colours = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(3, 1, 4, 4)
    made = mixed_starts(colours, 60, draws())
    assert torch.equal(made.amax((1, 2, 3)), made.amin((1, 2, 3))), "mixtures of flat colours are flat"
    values = made[:, 0, 0, 0]
    assert float(values.min()) < 0.1
    assert float(values.max()) > 0.9
    assert torch.equal(made, mixed_starts(colours, 60, draws()))
    assert not torch.equal(made, mixed_starts(colours, 60, draws(1)))
    assert mixed_starts(colours[1:2], 3, draws()).unique().tolist() == [0.5]


# -- what it comes nearer to -------------------------------------------------------------------------------


def gap_in_numpy(model: Classifier, pixels: Tensor) -> float:
    """‖μ − μ̂‖ + ‖σ² − σ̂²‖ at the only BatchNorm of the small network: the convolution before it, place by place."""
    body = model.body
    weight, bias = body.conv1.weight.double().numpy()[:, 0], body.conv1.bias.double().numpy()
    images = ((pixels - model.mean) / model.std).double().numpy()[:, 0]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    maps = np.zeros((len(images), len(weight), *images.shape[1:]))
    for row in range(images.shape[1]):
        for column in range(images.shape[2]):
            patch = padded[:, None, row : row + 3, column : column + 3]
            maps[:, :, row, column] = (patch * weight).sum((2, 3)) + bias
    mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3))
    running = body.norm.running_mean.double().numpy(), body.norm.running_var.double().numpy()
    return float(np.linalg.norm(mean - running[0]) + np.linalg.norm(variance - running[1]))


def test_it_comes_nearer_to_targets_and_to_the_statistics_of_the_training_data(starts):
    model = digits_model()
    made = invert(model, starts, TARGETS, SETTINGS, draws())
    assert made.shape == starts.shape
    assert cross_entropy(model, made) < 0.9 * cross_entropy(model, starts)
    assert gap_in_numpy(model, made) < 0.5 * gap_in_numpy(model, starts)
    careless = invert(model, starts, TARGETS, SETTINGS.with_overrides({"statistics_weight": 0.0}), draws())
    assert gap_in_numpy(model, careless) > 2 * gap_in_numpy(model, made), "without the term it does not"


def test_smoothness_smooths(starts):
    def roughness(pixels: Tensor) -> float:
        return float(pixels.diff(dim=-1).square().sum() + pixels.diff(dim=-2).square().sum())

    plain, smooth = (
        invert(digits_model(), starts, TARGETS, SETTINGS.with_overrides({"smoothness": weight}), draws())
        for weight in (0.0, 10.0)
    )
    assert roughness(smooth) < 0.5 * roughness(plain)


@pytest.mark.parametrize("kind", ["small", "resnet10", "no BatchNorm"])
def test_pixels_stay_pixels_and_targets_come_nearer(starts, kind):
    model = tiny_plain() if kind == "no BatchNorm" else digits_model(kind)
    made = invert(model, starts, TARGETS, InversionSettings(iterations=8, lr=0.3), draws())
    assert bool(torch.isfinite(made).all())
    assert (float(made.min()), float(made.max())) == (0.0, 1.0), "such steps reach the walls and stop there"
    assert cross_entropy(model, made) < cross_entropy(model, starts)


def test_without_batchnorm_it_comes_nearer_to_the_statistics_of_other_images(starts):
    model, like = tiny_plain(), known().subset(range(6, 12)).batch(slice(None))
    wanted = measured(model, lambda: model(like))

    def gap(pixels: Tensor) -> float:
        with torch.no_grad(), Gaps(wanted) as gaps:
            model(pixels)
            return float(gaps.mean())

    made = invert(model, starts, TARGETS, SETTINGS, draws(), like=like)
    careless = invert(
        model, starts, TARGETS, SETTINGS.with_overrides({"statistics_weight": 0.0}), draws(), like=like
    )
    assert gap(made) < 0.7 * gap(starts)
    assert gap(made) < 0.7 * gap(careless), "without the term it does not"
    assert cross_entropy(model, made) < cross_entropy(model, starts)


def test_without_batchnorm_and_without_such_images_there_are_no_statistics(starts):
    made = [
        invert(tiny_plain(), starts, TARGETS, SETTINGS.with_overrides({"statistics_weight": weight}), draws())
        for weight in (0.0, 50.0)
    ]
    assert torch.equal(*made)


def test_with_batchnorm_no_other_images_are_looked_at(starts):
    few, passes = InversionSettings(iterations=2), []
    model = digits_model("resnet10")

    def forward(pixels: Tensor) -> Tensor:
        passes.append(len(pixels))
        return model(pixels)

    one, other = (
        invert(model, starts, TARGETS, few, draws(), like=like, forward=forward)
        for like in (None, torch.rand((3, *starts.shape[1:]), generator=draws()))
    )
    assert torch.equal(one, other)
    assert passes == [20] * 4


# -- the first step ----------------------------------------------------------------------------------------


class _Two(nn.Module):
    """Two layers with BatchNorm; the first sees the pixels themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.conv = nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1)
        self.norm2, self.last = nn.BatchNorm2d(3), nn.Linear(3 * 5 * 7, 10)
        for norm in (self.norm1, self.norm2):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 1.5)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.last(F.relu(self.norm2(self.conv(self.norm1(pixels)))).flatten(1))


@pytest.mark.parametrize("seed", range(4))
def test_the_first_step_goes_down_the_objective(seed):
    """Adam's first step is lr · sign of the gradient: here of the objective, layer by layer, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Two().eval()
    model = Classifier.from_network(
        network,
        class_names=[str(n) for n in range(10)],
        input_size=(2, 5, 7),
        mean=(0.4, 0.5),
        std=(0.3, 0.2),
    ).requires_grad_(False)
    starts = 0.2 + 0.6 * torch.rand((20, 2, 5, 7), generator=draws(seed))
    settings = InversionSettings(iterations=1, lr=0.01, statistics_weight=2.0, smoothness=0.1)
    made = invert(model, starts, TARGETS, settings, draws(seed))

    exact = network.double()
    pixels = starts.double().requires_grad_(True)
    down, right, mirror = torch.randint(-2, 3, (3,), generator=draws(seed)).tolist()
    seen = pixels.roll((down, right), (2, 3))
    seen = seen.flip(3) if mirror % 2 else seen
    first = (seen - torch.tensor([0.4, 0.5]).view(1, 2, 1, 1).double()) / torch.tensor([0.3, 0.2]).view(
        1, 2, 1, 1
    )
    second = exact.conv(exact.norm1(first))
    loss = F.cross_entropy(exact.last(F.relu(exact.norm2(second)).flatten(1)), TARGETS)
    gaps = []
    for values, norm in ((first, exact.norm1), (second, exact.norm2)):
        mean = values.mean((0, 2, 3))
        variance = (values - mean.view(1, -1, 1, 1)).square().mean((0, 2, 3))
        gaps.append((mean - norm.running_mean).norm() + (variance - norm.running_var).norm())
    loss = loss + 2.0 * (FIRST_LAYER * gaps[0] + gaps[1]) / 2
    rough = pixels.diff(dim=2).square().sum() + pixels.diff(dim=3).square().sum()
    (gradient,) = torch.autograd.grad(loss + 0.1 * rough / len(pixels), [pixels])
    clear = gradient.abs() > 1e-4 * gradient.abs().max()
    assert bool(clear.float().mean() > 0.9)
    wanted = starts - 0.01 * gradient.sign().float()
    assert torch.allclose(made[clear], wanted[clear], atol=1e-5)


# -- what it leaves alone ----------------------------------------------------------------------------------


def test_the_draws_decide_and_nothing_else(starts):
    model, kept = digits_model("resnet10"), starts.clone()
    few = InversionSettings(iterations=3)
    before, state = model.fingerprint(), torch.random.get_rng_state()
    one = invert(model, starts, TARGETS, few, draws())
    torch.manual_seed(99)
    assert torch.equal(one, invert(model, starts, TARGETS, few, draws()))
    assert not torch.equal(one, invert(model, starts, TARGETS, few, draws(1)))
    torch.random.set_rng_state(state)
    assert model.fingerprint() == before
    assert torch.equal(starts, kept)
    assert not one.requires_grad
    with torch.no_grad():
        assert torch.equal(one, invert(model, starts, TARGETS, few, draws())), (
            "whatever the caller switched off"
        )


def test_a_model_that_learns_is_not_touched(starts):
    model = digits_model("resnet10").clone().requires_grad_(True)
    before = model.fingerprint()
    invert(model, starts, TARGETS, InversionSettings(iterations=2), draws())
    assert model.fingerprint() == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_hook_is_left_even_after_a_failure(starts):
    model = digits_model("resnet10")

    def fail(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    invert(model, starts, TARGETS, InversionSettings(iterations=1), draws())
    with pytest.raises(KeyboardInterrupt):
        invert(model, starts, TARGETS, InversionSettings(iterations=1), draws(), forward=fail)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("size", [(1, 4, 6), (1, 6, 4), (2, 3, 3)])
def test_images_of_any_shape(size):
    made = invert(
        tiny_plain(size),
        mixed_starts(torch.rand((3, *size), generator=draws()), 20, draws()),
        TARGETS,
        InversionSettings(iterations=2),
        draws(),
    )
    assert made.shape == (20, *size)
