"""Boundary Unlearning on linear classifiers, whose neighbours are known."""

from __future__ import annotations

import pytest
import torch
from linear import WIDTH, job_of, linear_classifier, middling_images
from torch.nn import functional as F

from stakes.errors import DataError
from stakes.methods import BoundaryExpand, BoundaryShrink, carry_out
from stakes.methods.boundary import widened_logits


@pytest.fixture
def weight(generator: torch.Generator) -> torch.Tensor:
    return 4 * torch.linalg.qr(torch.randn((WIDTH, WIDTH), generator=generator))[0][:4]


def test_nearest_class_is_that_of_the_closed_form(weight: torch.Tensor, generator: torch.Generator) -> None:
    pixels = middling_images(40, generator)
    model = linear_classifier(weight, torch.zeros(4))
    logits = model(pixels)
    labels = logits.argmax(1)
    gap = logits.gather(1, labels[:, None]) - logits
    # Distance in the L∞ norm of the attack to each class's boundary.
    distance = torch.where(gap == 0, torch.inf, gap / torch.cdist(weight, weight, p=1)[labels])
    sorted_distance, order = distance.sort(1)
    steep = linear_classifier(60 * weight, torch.zeros(4))
    method = BoundaryShrink.configure(overrides={"bound": 0.01})
    nearest = BoundaryShrink.nearest(job_of(method, steep, pixels, labels))
    # Rows of one L2 length do not have one L1 length: look at images whose neighbour is beyond doubt.
    clear = sorted_distance[:, 1] > 1.5 * sorted_distance[:, 0]
    assert clear.sum() > 10
    assert torch.equal(nearest[clear], order[clear, 0])
    assert (nearest != labels).all()


def test_uncrossed_images_follow_the_setting(weight: torch.Tensor, generator: torch.Generator) -> None:
    pixels = middling_images(6, generator)
    model = linear_classifier(weight, torch.zeros(4))
    labels = model(pixels).argmax(1)
    tiny = {"bound": 1e-6}
    text = BoundaryShrink.nearest(job_of(BoundaryShrink.configure(overrides=tiny), model, pixels, labels))
    code = BoundaryShrink.configure(overrides=tiny | {"uncrossed": "keep"})
    assert (text != labels).all()
    assert torch.equal(BoundaryShrink.nearest(job_of(code, model, pixels, labels)), labels)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_shrink_moves_images_to_their_neighbours(
    weight: torch.Tensor, generator: torch.Generator, attack: str
) -> None:
    pixels = middling_images(4, generator)
    model = linear_classifier(weight, torch.zeros(4))
    labels = model(pixels).argmax(1)
    method = BoundaryShrink.configure("instances", {"lr": 0.05, "attack": attack})
    job = job_of(method, model, pixels, labels)
    nearest = BoundaryShrink.nearest(job)
    outcome = carry_out(method, job)
    assert outcome.stop_reason == "forgotten"
    assert torch.equal(outcome.classifier(pixels).argmax(1), nearest)


def test_the_first_expand_step_is_gradient_descent_on_the_widened_loss(
    weight: torch.Tensor, generator: torch.Generator
) -> None:
    pixels = middling_images(5, generator)
    model = linear_classifier(weight, torch.zeros(4))
    labels = model(pixels).argmax(1)
    method = BoundaryExpand.configure(overrides={"lr": 0.1, "momentum": 0.0, "max_steps": 1, "max_epochs": 1})
    job = job_of(method, model, pixels, labels)
    rows = []
    outcome = carry_out(method, job, on_row=rows.append)
    shadow = job._tracked["shadow"]
    assert outcome.classifier.num_classes == 4
    assert outcome.classifier(pixels).shape == (5, 4)
    # Reference: softmax over five outputs, all of the pull on the fifth; dL/dz_j = p_j for the four others.
    start = BoundaryExpand._shadow(job)
    logits = torch.cat([pixels.flatten(1) @ weight.T, start(pixels.flatten(1))], 1).detach()
    p = logits.softmax(1)
    assert rows[0]["loss_forget"] == pytest.approx(float(-p[:, 4].log().mean()), rel=1e-5)
    expected = weight - 0.1 * p[:, :4].T @ pixels.flatten(1) / 5
    assert torch.allclose(outcome.classifier.head.weight, expected, atol=1e-5)
    moved = start.weight - 0.1 * ((p[:, 4:] - 1).T @ pixels.flatten(1)) / 5
    assert torch.allclose(shadow.weight, moved, atol=1e-5)


def test_the_stop_test_looks_at_the_pruned_classifier(
    weight: torch.Tensor, generator: torch.Generator
) -> None:
    # The head alone cannot lose here: all forget images share a class and the shadow takes everything.
    pixels = middling_images(3, generator)
    model = linear_classifier(torch.zeros((2, WIDTH)), torch.tensor([5.0, 0.0]))
    method = BoundaryExpand.configure(overrides={"lr": 0.5, "max_epochs": 30})
    job = job_of(method, model, pixels, torch.zeros(3, dtype=torch.int64))
    outcome = carry_out(method, job)
    widened = widened_logits(job.model, job._tracked["shadow"], job.model.features(pixels))
    assert (widened.argmax(1) == 2).all(), "the widened classifier puts all images into the shadow class"
    pruned = outcome.classifier(pixels).argmax(1)
    assert (outcome.stop_reason == "forgotten") == bool((pruned != 0).all())


def test_a_single_class_has_no_neighbour() -> None:
    model = linear_classifier(torch.zeros((2, WIDTH)), torch.zeros(2))
    model.head = torch.nn.Linear(WIDTH, 1)
    model.class_names = ("one",)
    method = BoundaryShrink.configure()
    job = job_of(method, model, torch.rand(1, 1, 4, 4), torch.tensor([0]))
    with pytest.raises(DataError, match="two classes"):
        BoundaryShrink.nearest(job)


def test_shrink_loss_is_cross_entropy_to_the_neighbour(
    weight: torch.Tensor, generator: torch.Generator
) -> None:
    pixels = middling_images(3, generator)
    model = linear_classifier(weight, torch.zeros(4))
    labels = model(pixels).argmax(1)
    method = BoundaryShrink.configure()
    job = job_of(method, model, pixels, labels)
    row = next(method.run(job))
    expected = F.cross_entropy(job.original(pixels), BoundaryShrink.nearest(job))
    assert row["loss_forget"] == pytest.approx(float(expected), rel=1e-5)
