"""ORACLE: fresh weights, its schedule and loss, and what it needs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from doubles import NAMES, SIZE, job_of, problem, same, steps_of
from torch import nn

from stakes.errors import ModelError
from stakes.methods import NegGrad, Oracle, OracleFinetune
from stakes.methods.fresh import reinitialise
from stakes.metrics.accuracy import accuracy, predict
from stakes.models import Classifier, Projector, build_network, load_checkpoint, save_checkpoint

TINY = {"retain_batch": 16, "crop_padding": 0, "flip": False}


@pytest.mark.parametrize("network", ["linear", "cnn", "resnet10", "resnet18", "vit"])
def test_fresh_weights_depend_on_the_seed_alone(network: str) -> None:
    trained = problem(network).model
    one, two, other = trained.clone(), trained.clone(), trained.clone()
    with torch.no_grad():
        two.head.weight.mul_(7)
    for model, seed in ((one, 1), (two, 1), (other, 2)):
        reinitialise(model, seed)
    assert same(one.exported_state(), two.exported_state())
    assert not same(one.exported_state(), other.exported_state())
    assert not torch.equal(one.head.weight, trained.head.weight)
    weights = [
        (new, old)
        for new, old in zip(one.parameters(), trained.parameters(), strict=True)
        if old.dim() > 1 and not (old == old.flatten()[0]).all()
    ]
    assert all(not torch.equal(new, old) for new, old in weights)


def test_fresh_weights_are_those_of_the_builder() -> None:
    model = problem("resnet10").model.clone()
    reinitialise(model, 5)
    built = build_network("resnet10", num_classes=3, width=4, seed=5)
    assert same(dict(model.exported_state()), dict(built.state_dict()))


def test_notes_in_the_config_of_a_checkpoint_are_no_options(tmp_path: Path) -> None:
    """Files that say more than is needed load, so they can be trained from nothing as well."""
    save_checkpoint(problem("resnet10").model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"resize": "bilinear, 64 to 32", "epochs": 45}))
    model = load_checkpoint(tmp_path)
    reinitialise(model, 5)
    built = build_network("resnet10", num_classes=3, width=4, seed=5)
    assert same(dict(model.exported_state()), dict(built.state_dict()))


def test_fresh_takes_the_projector_out_and_keeps_the_generator() -> None:
    model = problem("resnet10").model.clone()
    model.projector = Projector(model.feature_width)
    state = torch.get_rng_state()
    reinitialise(model, 5)
    assert model.projector is None
    assert torch.equal(state, torch.get_rng_state())


class _Stubborn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(192))
        self.last = nn.Linear(192, 3)

    def forward(self, pixels):
        return self.last(pixels.flatten(1) * self.scale)


def test_what_cannot_be_reset_is_named() -> None:
    model = Classifier.from_network(_Stubborn(), class_names=NAMES, input_size=SIZE)
    with pytest.raises(ModelError, match=r"body\.scale"):
        reinitialise(model, 0)


class _Remembering(nn.Module):
    """Its statistics are no parameters, and nothing resets them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.full((1,), 0.7))
        self.last = nn.Linear(192, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.last(pixels.flatten(1) - self.running_mean)


def test_statistics_that_cannot_be_reset_are_named() -> None:
    model = Classifier.from_network(_Remembering(), class_names=NAMES, input_size=SIZE)
    with pytest.raises(ModelError, match=r"body\.running_mean"):
        reinitialise(model, 0)


def test_retrained_oracle_learns_the_rest_and_not_the_forget_set() -> None:
    method = Oracle.configure(overrides={**TINY, "max_epochs": 25, "lr": 0.05})
    job = job_of(method, "mlp")
    rows = steps_of(method, job)
    assert len(rows) == 50
    retained = predict(job.model, job.retain)
    assert accuracy(retained, job.retain.labels) > 95
    assert accuracy(predict(job.model, job.forget), job.forget.labels) == 0.0


def test_retrained_oracle_forgets_where_it_started() -> None:
    """The trained weights leave no trace in it."""
    method = Oracle.configure(overrides={**TINY, "max_epochs": 1})
    one, two = job_of(method, "resnet10"), job_of(method, "resnet10")
    with torch.no_grad():
        for value in two.model.parameters():
            value.add_(0.5)
    for job in (one, two):
        steps_of(method, job)
    assert same(one.model.exported_state(), two.model.exported_state())


def test_learning_rate_follows_a_half_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self: (seen.append(self.param_groups[0]["lr"]), step(self))[1]
    )
    method = Oracle.configure(overrides={**TINY, "max_epochs": 2, "lr": 0.08})
    steps_of(method, job_of(method, "mlp"))
    assert seen == pytest.approx([0.04 * (1 + math.cos(math.pi * s / 4)) for s in range(4)])


def test_published_schedule() -> None:
    settings = Oracle.configure().settings
    assert (settings.lr, settings.momentum, settings.weight_decay) == (0.01, 0.9, 5e-4)
    assert (settings.max_epochs, settings.retain_batch, settings.crop_padding) == (200, 128, 4)
    assert not Oracle.stops_when_forgotten


def test_finetuning_loss_is_the_difference_of_means() -> None:
    method = OracleFinetune.configure(overrides={"max_steps": 1, "retain_batch": 32})
    job = job_of(method, "mlp")
    ce = nn.functional.cross_entropy
    with torch.no_grad():
        kept = float(ce(job.original(job.retain.batch(slice(None))), job.retain.labels))
        gone = float(ce(job.original(job.forget.batch(slice(None))), job.forget.labels))
    row = steps_of(method, job)[0]
    assert row["loss_ret"] == pytest.approx(kept, rel=1e-4)
    assert row["loss_del"] == pytest.approx(-gone, rel=1e-4)


def test_finetuning_keeps_more_than_ascent_alone() -> None:
    kept = {}
    for method in (
        OracleFinetune.configure(overrides={"retain_batch": 32, "lr": 0.003}),
        NegGrad.configure(overrides={"lr": 0.003}),
    ):
        job = job_of(method, "resnet10")
        assert steps_of(method, job)[-1]["forget_accuracy"] == 0.0
        kept[method.name] = accuracy(predict(job.model, job.retain), job.retain.labels)
    assert kept["oracle-finetune"] > kept["neggrad"]


def test_the_bare_loss_of_the_text_drowns_the_retained_images() -> None:
    """Why the retrained oracle has a ceiling."""
    kept = []
    for ceiling in (2.0, None):
        overrides = {**TINY, "max_epochs": 25, "lr": 0.05, "weights": "sum", "forget_ceiling": ceiling}
        method = Oracle.configure(overrides=overrides)
        job = job_of(method, "cnn")
        steps_of(method, job)
        kept.append(accuracy(predict(job.model, job.retain), job.retain.labels))
    assert kept[0] > kept[1] + 20
