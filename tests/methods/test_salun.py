"""SalUn's mask against NumPy, and that weights outside it never move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubles import problem
from linear import WIDTH, job_of, linear_classifier, middling_images

from stakes.methods import SalUn, carry_out
from stakes.methods.salun import forget_gradient, saliency_mask


def test_gradient_on_a_linear_model_is_the_closed_form(generator: torch.Generator) -> None:
    weight = torch.randn((3, WIDTH), generator=generator)
    pixels, labels = middling_images(5, generator), torch.tensor([0, 1, 2, 0, 1])
    x, w = pixels.flatten(1).numpy(), weight.numpy()
    z = x @ w.T
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    expected = -(p - np.eye(3)[labels.numpy()]).T @ x
    model = linear_classifier(weight, torch.zeros(3))
    found = forget_gradient(model, iter([(pixels[:2], labels[:2]), (pixels[2:], labels[2:])]))
    assert np.allclose(found["head.weight"].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.77, 1.0])
def test_mask_keeps_the_largest_of_all_weights_together(share: float, generator: torch.Generator) -> None:
    shapes = {"a": (7, 3), "b": (5,), "c": (2, 2, 4)}
    gradients = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    mask = saliency_mask(gradients, share)
    flat = np.concatenate([np.abs(g.numpy()).ravel() for g in gradients.values()])
    threshold = np.sort(flat)[::-1][int(np.ceil(share * flat.size - 1e-9)) - 1]
    for name, gradient in gradients.items():
        assert np.array_equal(mask[name].numpy(), (np.abs(gradient.numpy()) >= threshold).astype(np.uint8))


def test_ties_do_not_change_the_count() -> None:
    mask = saliency_mask({"a": torch.zeros(10), "b": torch.zeros(10)}, 0.5)
    assert sum(int(part.sum()) for part in mask.values()) == 10


@pytest.mark.parametrize("network", ["mlp", "resnet10"])
def test_weights_outside_the_mask_stay_bit_for_bit(network: str) -> None:
    tiny = problem(network)
    method = SalUn.configure(overrides={"lr": 0.05, "weight_decay": 0.1, "max_steps": 5, "share": 0.3})
    job = job_of(method, tiny.model, tiny.split.forget.batch(slice(None)), tiny.split.forget.labels)
    mask = method._mask(job)
    carry_out(method, job)
    before = dict(job.original.named_parameters())
    moved = {name: value != before[name] for name, value in job.model.named_parameters()}
    assert moved.keys() == mask.keys()
    assert not any((moved[name] & (mask[name] == 0)).any() for name in moved)
    chosen = sum(int(part.sum()) for part in mask.values())
    assert sum(int(part.sum()) for part in moved.values()) > 0.5 * chosen


def test_weights_go_back_to_where_the_work_began_not_to_the_reference() -> None:
    tiny = problem("mlp")
    method = SalUn.configure(overrides={"lr": 0.05, "max_steps": 2, "share": 0.05})
    start = tiny.model.clone()
    with torch.no_grad():
        for value in start.parameters():
            value.add_(0.01)
    job = job_of(method, tiny.model, tiny.split.forget.batch(slice(None)), tiny.split.forget.labels)
    job.model.load_state_dict(start.state_dict())
    job.start = start
    mask = method._mask(job)
    carry_out(method, job)
    began = dict(start.named_parameters())
    for name, value in job.model.named_parameters():
        assert torch.equal(value[mask[name] == 0], began[name][mask[name] == 0]), name


def test_the_paper_preset_needs_the_retain_set() -> None:
    assert SalUn.configure("paper").needs == {"retain"}
    assert SalUn.configure().needs == frozenset()
