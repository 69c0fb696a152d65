"""Targeted L2-PGD against foolbox, against the optimum of a linear model, and for what it promises."""

from __future__ import annotations

import foolbox
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from stakes.probes import draw_probe, targeted_pgd
from tinydigits import digits_model, known


def draws(hashes, labels, probes, *, seed=0, epsilon=1.0):
    return [
        draw_probe(h, y, j, num_classes=10, shape=(1, 4, 4), epsilon=epsilon, seed=seed)
        for h, y in zip(hashes, labels, strict=True)
        for j in probes
    ]


# -- the draw --------------------------------------------------------------------------------------------------


@given(st.text("0123456789abcdef", min_size=1), st.integers(0, 9), st.integers(0, 50), st.integers(0, 2**40))
def test_target_is_never_the_label_and_start_is_in_the_ball(name, label, probe, seed):
    draw = draw_probe(name, label, probe, num_classes=10, shape=(3, 5, 4), epsilon=2.0, seed=seed)
    assert draw.target != label
    assert 0 <= draw.target < 10
    assert draw.start.shape == (3, 5, 4)
    assert float(draw.start.double().norm()) <= 2.0 * (1 + 1e-6)
    again = draw_probe(name, label, probe, num_classes=10, shape=(3, 5, 4), epsilon=2.0, seed=seed)
    assert again.target == draw.target
    assert torch.equal(again.start, draw.start)


def test_two_classes_leave_no_choice():
    for label in (0, 1):
        draw = draw_probe("a", label, 0, num_classes=2, shape=(1, 2, 2), epsilon=1.0, seed=0)
        assert draw.target == 1 - label


def test_draws_do_not_depend_on_what_else_is_drawn():
    few = draws(["a", "b"], [3, 4], range(2))
    torch.manual_seed(99)
    many = draws(["x", "b", "a"], [1, 4, 3], range(5))
    assert torch.equal(few[0].start, many[10].start)
    assert few[0].target == many[10].target
    assert torch.equal(few[3].start, many[6].start)
    assert few[3].target == many[6].target


def test_image_label_probe_and_seed_all_matter():
    base = draws(["a"], [3], [0])[0]
    others = draws(["b"], [3], [0]) + draws(["a"], [4], [0]) + draws(["a"], [3], [1])
    others += draws(["a"], [3], [0], seed=1)
    assert not any(torch.equal(base.start, other.start) for other in others)


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    draws(["a"], [3], range(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_targets_and_radii_are_uniform():
    drawn = draws(["a", "b"], [3, 3], range(900), epsilon=2.0)
    targets = np.bincount([draw.target for draw in drawn], minlength=10)
    assert targets[3] == 0
    expected = len(drawn) / 9
    chi2 = ((np.delete(targets, 3) - expected) ** 2 / expected).sum()
    assert chi2 < 26.1, "beyond the 99.9 % quantile of chi-square with 8 degrees of freedom"
    radii = torch.stack([draw.start.norm() for draw in drawn]).sort().values / 2.0
    steps = (torch.arange(len(drawn)) + 0.5) / len(drawn)
    assert float((radii - steps).abs().max()) < 1.95 / len(drawn) ** 0.5, "Kolmogorov-Smirnov at 99.9 %"


# -- the attack ------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(2, 16, generator=drawn))
        self.bias = nn.Parameter(torch.randn(2, generator=drawn))

    def forward(self, pixels):
        return F.linear(pixels.flatten(1), self.weight, self.bias)


@pytest.mark.parametrize("target", [0, 1])
def test_reaches_the_optimum_of_a_linear_model(target):
    net, image = Linear(), torch.full((1, 1, 4, 4), 0.5)
    start = draw_probe("a", 1 - target, 0, num_classes=2, shape=(1, 4, 4), epsilon=0.3, seed=0).start
    probe = targeted_pgd(
        net, image, torch.tensor([target]), start[None], epsilon=0.3, step_size=0.05, iterations=300
    )
    away = (net.weight[target] - net.weight[1 - target]).detach()
    best = 0.3 * away / away.norm()
    assert float((probe - image).flatten().sub(best).norm()) < 1e-5
    # Negative control: the other class has another optimum.
    assert float((probe - image).flatten().add(best).norm()) > 0.5


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(1e-3, 20.0),
    st.floats(1e-3, 5.0),
    st.integers(0, 6),
    st.sampled_from([0.0, 0.5, 1.0, None]),
)
def test_stays_in_ball_and_box(seed, epsilon, step, iterations, level):
    drawn = torch.Generator().manual_seed(seed)
    images = torch.rand((3, 1, 4, 4), generator=drawn)
    if level is not None:
        images.fill_(level)
    starts = torch.stack(
        [d.start for d in draws(["a", "b", "c"], [0, 1, 2], [0], seed=seed, epsilon=epsilon)]
    )
    radii = torch.tensor([epsilon, epsilon / 2, epsilon])
    probes = targeted_pgd(
        Linear(seed),
        images,
        torch.tensor([0, 1, 1]),
        starts,
        epsilon=radii,
        step_size=step,
        iterations=iterations,
    )
    assert bool(((probes >= 0) & (probes <= 1)).all())
    length = (probes - images).double().flatten(1).norm(dim=1)
    assert bool((length <= radii * (1 + 1e-5) + 1e-6).all())


def test_no_iterations_give_the_start():
    images = torch.full((2, 1, 4, 4), 0.5)
    starts = torch.stack([d.start for d in draws(["a", "b"], [0, 1], [0], epsilon=0.2)])
    probes = targeted_pgd(
        Linear(), images, torch.tensor([1, 0]), starts, epsilon=0.2, step_size=0.1, iterations=0
    )
    assert torch.allclose(probes, images + starts, atol=1e-7)


def test_parameters_keep_no_gradient_and_inputs_stay():
    net, images = Linear(), torch.full((2, 1, 4, 4), 0.5)
    starts, before = torch.zeros_like(images), images.clone()
    with torch.no_grad():
        probes = targeted_pgd(
            net, images, torch.tensor([1, 0]), starts, epsilon=0.2, step_size=0.1, iterations=3
        )
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(images, before)
    assert not starts.any()
    assert not probes.requires_grad


def test_a_flat_network_moves_nothing():
    images = torch.full((1, 1, 2, 2), 0.5)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(flat[1].weight)
    probes = targeted_pgd(
        flat, images, torch.tensor([1]), torch.zeros_like(images), epsilon=1.0, step_size=0.1, iterations=3
    )
    assert torch.equal(probes, images)


# -- foolbox ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contest():
    """Ours and foolbox's probes of the same images and targets, from the image itself."""
    images = known().subset(range(40))
    pixels, labels = images.batch(slice(None)), images.labels
    targets = (labels + 1 + torch.arange(40) % 9) % 10
    model = digits_model("resnet10")
    epsilon, step, iterations = 1.0, 0.1, 30
    ours = targeted_pgd(
        model,
        pixels,
        targets,
        torch.zeros_like(pixels),
        epsilon=epsilon,
        step_size=step,
        iterations=iterations,
    )
    attack = foolbox.attacks.L2ProjectedGradientDescentAttack(
        abs_stepsize=step, steps=iterations, random_start=False
    )
    _, theirs, _ = attack(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"),
        pixels,
        foolbox.criteria.TargetedMisclassification(targets),
        epsilons=epsilon,
    )
    return model, pixels, targets, epsilon, ours, theirs


def test_hits_as_often_as_foolbox_within_the_same_ball(contest):
    model, pixels, targets, epsilon, ours, theirs = contest
    rates = []
    for probes in (ours, theirs):
        assert float((probes - pixels).flatten(1).norm(dim=1).max()) <= epsilon * (1 + 1e-5)
        rates.append(float((model(probes).argmax(1) == targets).float().mean()))
    assert rates[0] >= rates[1]
    assert 0.2 < rates[1] < 1.0, "a contest that anyone or no one wins says nothing"


def test_gets_as_close_to_the_target_as_foolbox(contest):
    model, _, targets, _, ours, theirs = contest
    losses = [float(F.cross_entropy(model(probes), targets)) for probes in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_random_pushes_of_the_same_length_do_not_hit(contest):
    model, pixels, targets, epsilon, ours, _ = contest
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    pushed = (pixels + epsilon * noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
    hit = float((model(pushed).argmax(1) == targets).float().mean())
    assert hit < 0.1 < float((model(ours).argmax(1) == targets).float().mean())
