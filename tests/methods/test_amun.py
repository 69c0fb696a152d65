"""AMUN's training set, its falling rate, and what it does to confidence."""

from __future__ import annotations

import pytest
import torch
from doubles import problem
from linear import WIDTH, job_of, linear_classifier, middling_images

from stakes.errors import DataError
from stakes.methods import Amun, carry_out


def test_the_adversarial_set_is_what_the_model_sees() -> None:
    tiny = problem("mlp")
    pixels, labels = tiny.split.forget.batch(slice(None)), tiny.split.forget.labels
    made = Amun.adversarial(job_of(Amun.configure(), tiny.model, pixels, labels))
    assert torch.equal(tiny.model(made["images"]).argmax(1), made["labels"])
    assert (made["labels"] != labels).all()
    distance = (made["images"] - pixels).flatten(1).norm(dim=1)
    # Negative control: random directions of the same length do not change the class.
    draws = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    moved = pixels + draws / draws.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * distance.view(-1, 1, 1, 1)
    assert (tiny.model(moved.clamp(0, 1)).argmax(1) == labels).float().mean() > 0.5


@pytest.mark.parametrize(
    ("preset", "images", "needs"),
    [(None, 8, set()), ("adversarial-only", 4, set()), ("retain", 40, {"retain"})],
)
def test_an_epoch_is_a_pass_over_all_sets(preset: str | None, images: int, needs: set[str]) -> None:
    tiny = problem("mlp")
    method = Amun.configure(preset, {"forget_batch": 5, "max_epochs": 2})
    retain = (tiny.split.retain.batch(slice(None)), tiny.split.retain.labels)
    job = job_of(method, tiny.model, tiny.split.forget.batch(slice(None)), tiny.split.forget.labels, retain)
    assert method.needs == needs
    assert method.total_steps(job) == 2 * -(-images // 5)


def test_the_rate_falls_as_set() -> None:
    tiny = problem("mlp")
    method = Amun.configure(overrides={"forget_batch": 4, "max_epochs": 4, "lr_decay_epochs": 2})
    job = job_of(method, tiny.model, tiny.split.forget.batch(slice(None)), tiny.split.forget.labels)
    rates = []
    for _ in method.run(job):
        rates.append(job._tracked["optimizer"].param_groups[0]["lr"])
        job.step += 1
    assert rates == pytest.approx([0.01] * 4 + [0.001] * 4)


def test_confidence_falls_and_the_fixed_length_is_kept() -> None:
    tiny = problem("mlp")
    pixels, labels = tiny.split.forget.batch(slice(None)), tiny.split.forget.labels
    method = Amun.configure(overrides={"lr_decay": 1.0, "max_epochs": 10})
    outcome = carry_out(method, job_of(method, tiny.model, pixels, labels))
    assert (outcome.stop_reason, outcome.steps) == ("finished", 10)

    @torch.no_grad()
    def confidence(model: torch.nn.Module) -> float:
        return float(model(pixels).softmax(1).gather(1, labels[:, None]).mean())

    assert confidence(outcome.classifier) < confidence(tiny.model)


def test_instances_preset_forgets() -> None:
    tiny = problem("mlp")
    method = Amun.configure("instances", {"lr": 0.02})
    job = job_of(method, tiny.model, tiny.split.forget.batch(slice(None)), tiny.split.forget.labels)
    assert carry_out(method, job).stop_reason == "forgotten"


def test_one_step_on_a_linear_model_is_plain_gradient_descent(generator: torch.Generator) -> None:
    weight = torch.randn((2, WIDTH), generator=generator)
    model = linear_classifier(weight, torch.zeros(2))
    pixels = middling_images(3, generator)
    labels = model(pixels).argmax(1)
    method = Amun.configure(overrides={"momentum": 0.0, "weight_decay": 0.0, "max_steps": 1})
    job = job_of(method, model, pixels, labels)
    made = Amun.adversarial(job)
    x = torch.cat([pixels, made["images"]]).flatten(1)
    y = torch.cat([labels, made["labels"]])
    p = (x @ weight.T).softmax(1)
    expected = weight - 0.01 * (p - torch.eye(2)[y]).T @ x / len(x)
    outcome = carry_out(method, job)
    assert torch.allclose(outcome.classifier.head.weight, expected, atol=1e-6)


def test_a_single_class_cannot_be_wrong() -> None:
    model = linear_classifier(torch.zeros((2, WIDTH)), torch.zeros(2))
    model.head = torch.nn.Linear(WIDTH, 1)
    model.class_names = ("one",)
    with pytest.raises(DataError, match="two classes"):
        Amun.adversarial(job_of(Amun.configure(), model, torch.rand(1, 1, 4, 4), torch.tensor([0])))
