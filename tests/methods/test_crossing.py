"""Attacks against the closed forms of a linear classifier."""

from __future__ import annotations

import pytest
import torch
from linear import WIDTH, linear_classifier, middling_images

from stakes.methods.crossing import ascend_linf, closest_crossing, runner_up


def margins(weight: torch.Tensor, bias: torch.Tensor, pixels: torch.Tensor, order: float) -> torch.Tensor:
    """Closed form: the distance (z_y − z_j) / ‖w_y − w_j‖ to each class's boundary; inf for the own class."""
    logits = pixels.flatten(1) @ weight.T + bias
    own = logits.argmax(1)
    gap = logits.gather(1, own[:, None]) - logits
    length = torch.linalg.vector_norm(weight[own][:, None] - weight[None], ord=order, dim=2)
    return torch.where(gap == 0, torch.inf, gap / length)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_closest_crossing_is_as_close_as_the_closed_form(classes: int, generator: torch.Generator) -> None:
    # Orthogonal rows of one length: the way to the nearest boundary is the way to the runner-up.
    weight = 4 * torch.linalg.qr(torch.randn((WIDTH, WIDTH), generator=generator))[0][:classes]
    bias = torch.zeros(classes)
    pixels = middling_images(12, generator)
    model = linear_classifier(40 * weight, bias)  # steep: the gradient points at the runner-up alone
    labels = model(pixels).argmax(1)
    distance, nearest = margins(weight, bias, pixels, 2).min(1)

    found = closest_crossing(model, pixels, labels, radius=0.001)

    assert found.crossed.all()
    assert torch.equal(model(found.images).argmax(1), found.labels)
    assert torch.equal(found.labels, nearest)
    assert torch.allclose(found.distance, (found.images - pixels).flatten(1).norm(dim=1))
    assert (found.distance >= distance * 0.999).all()
    assert (found.distance <= distance * 1.2 + 1e-4).all()


def test_two_classes_at_any_steepness(generator: torch.Generator) -> None:
    weight, bias = torch.randn((2, WIDTH), generator=generator), torch.tensor([0.1, 0.0])
    pixels = middling_images(8, generator)
    distance = margins(weight, bias, pixels, 2).min(1).values
    model = linear_classifier(weight, bias)
    found = closest_crossing(model, pixels, model(pixels).argmax(1), radius=0.001)
    inside = (found.images > 0).flatten(1).all(1) & (found.images < 1).flatten(1).all(1)
    assert inside.any()
    assert (found.distance[inside] <= 1.2 * distance[inside] + 1e-4).all()
    assert (found.distance >= distance * 0.999).all()


def test_misclassified_images_stay_where_they_are(generator: torch.Generator) -> None:
    model = linear_classifier(torch.randn((3, WIDTH), generator=generator), torch.zeros(3))
    pixels = middling_images(4, generator)
    predicted = model(pixels).argmax(1)
    found = closest_crossing(model, pixels, (predicted + 1) % 3)
    assert torch.equal(found.images, pixels)
    assert torch.equal(found.labels, predicted)
    assert found.crossed.all()


def test_an_image_that_cannot_cross_gets_its_runner_up() -> None:
    # Constant logits: no perturbation changes the class.
    model = linear_classifier(torch.zeros((3, WIDTH)), torch.tensor([3.0, 1.0, 2.0]))
    found = closest_crossing(model, torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 0]), steps=2)
    assert not found.crossed.any()
    assert found.labels.tolist() == [2, 2]


def test_certainty_does_not_blind_the_attack(generator: torch.Generator) -> None:
    # At this steepness the softmax is exactly one-hot and the gradient of the cross entropy exactly zero.
    model = linear_classifier(3000 * torch.randn((3, WIDTH), generator=generator), torch.zeros(3))
    pixels = middling_images(8, generator)
    labels = model(pixels).argmax(1)
    assert torch.nn.functional.cross_entropy(model(pixels), labels) == 0
    assert closest_crossing(model, pixels, labels).crossed.all()


def test_direction_is_that_of_the_cross_entropy(generator: torch.Generator) -> None:
    model = linear_classifier(torch.randn((4, WIDTH), generator=generator), torch.zeros(4))
    pixels = middling_images(8, generator).requires_grad_(True)
    labels = model(pixels).argmax(1)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(pixels), labels), pixels)
    moved = ascend_linf(model, pixels.detach(), labels, bound=0.01, step_size=0.01)
    assert torch.allclose(moved - pixels.detach(), 0.01 * gradient.sign(), atol=1e-6)


def test_the_box_holds(generator: torch.Generator) -> None:
    model = linear_classifier(torch.randn((2, WIDTH), generator=generator), torch.tensor([9.0, 0.0]))
    pixels = torch.rand((6, 1, 4, 4), generator=generator)
    for moved in (
        closest_crossing(model, pixels, torch.zeros(6, dtype=torch.int64), steps=10).images,
        ascend_linf(model, pixels, torch.zeros(6, dtype=torch.int64), bound=0.3, step_size=0.3),
    ):
        assert moved.min() >= 0
        assert moved.max() <= 1


def test_fgsm_crosses_exactly_where_the_closed_form_says(generator: torch.Generator) -> None:
    weight, bias = torch.randn((2, WIDTH), generator=generator), torch.zeros(2)
    model = linear_classifier(weight, bias)
    pixels = middling_images(64, generator)
    labels = model(pixels).argmax(1)
    distance = margins(weight, bias, pixels, 1).min(1).values  # L∞ balls: the dual norm is L1
    bound = float(distance.median()) + 1e-4
    moved = ascend_linf(model, pixels, labels, bound=bound, step_size=bound)
    crossed = model(moved).argmax(1) != labels
    assert torch.equal(crossed, distance < bound)
    assert 0 < crossed.sum() < 64


def test_pgd_stays_in_its_ball(generator: torch.Generator) -> None:
    model = linear_classifier(torch.randn((3, WIDTH), generator=generator), torch.zeros(3))
    pixels = middling_images(5, generator)
    moved = ascend_linf(model, pixels, model(pixels).argmax(1), bound=0.05, step_size=0.03, iterations=7)
    assert (moved - pixels).abs().max() <= 0.05 + 1e-6


def test_runner_up_is_never_the_label(generator: torch.Generator) -> None:
    logits = torch.randn((20, 4), generator=generator)
    labels = logits.argmax(1)
    assert torch.equal(runner_up(logits, labels), logits.topk(2).indices[:, 1])
    other = (labels + 1) % 4
    assert torch.equal(runner_up(logits, other), labels)
