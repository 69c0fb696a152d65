"""Steps in half precision: fp16 has no small numbers, so the loss is scaled; the scale is part of the state."""

from __future__ import annotations

from pathlib import Path

import contract
import pytest
from contract import EVERYTHING, Row
from doubles import job_of, problem, same
from torch import Tensor
from torch.nn import functional as F

from stakes.methods import Job, NegGrad
from stakes.methods.tuning import descend, sgd, train_logits
from stakes.models.pretrain import pretrain
from stakes.models.recipe import PretrainSettings

SMALL = 1e-5
"""Of a loss whose gradients fp16 rounds to nothing in most layers."""


def _job(precision: str, lr: float = 1.0) -> Job:
    method = NegGrad.configure(overrides={"lr": lr, "momentum": 0.0, "weight_decay": 0.0})
    job = job_of(method, "resnet10")
    job.precision = precision
    return job


def _loss(job: Job, times: float) -> Tensor:
    batch = job.forget_batch(0)
    return -times * F.cross_entropy(train_logits(job, batch.pixels), batch.labels)


def _step(precision: str) -> dict[str, Tensor]:
    """How far one step down a small loss moves each weight."""
    job = _job(precision, lr=1 / SMALL)
    descend(job, sgd(job), {"loss_del": _loss(job, SMALL)})
    before = dict(job.original.named_parameters())
    return {name: value.detach() - before[name] for name, value in job.model.named_parameters()}


def _off(moved: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The worst relative distance of a layer's step from the right one."""
    return max(float((moved[name] - step).norm() / step.norm()) for name, step in right.items())


def test_small_gradients_survive_fp16() -> None:
    right = _step("fp32")
    assert _off(_step("fp16"), right) < 0.2
    job = _job("fp16", lr=1 / SMALL)
    _loss(job, SMALL).backward()
    bare = {name: -value.grad / SMALL for name, value in job.model.named_parameters()}
    assert _off(bare, right) > 0.5, "without a scale as well: the test says nothing"


def test_a_step_that_overflows_is_left_out() -> None:
    job = _job("fp16")
    optimizer = sgd(job)
    row = descend(job, optimizer, {"loss_del": _loss(job, 1e6)})
    assert row["loss_scale"] == 1024
    assert same(dict(job.model.named_parameters()), dict(job.original.named_parameters()))
    assert descend(job, optimizer, {"loss_del": _loss(job, 1.0)})["loss_scale"] == 512


def test_only_fp16_is_scaled() -> None:
    for precision in ("fp32", "bf16"):
        job = _job(precision)
        assert "loss_scale" not in descend(job, sgd(job), {"loss_del": _loss(job, 1.0)})
        assert job.state().keys() == {"step", "optimizer"}


def test_fp16_resumes_with_its_scale(tmp_path: Path) -> None:
    row = Row(
        "structguard",
        {**EVERYTHING, "del_weight": 3e4, "reg_weight": 0.0, "lr": 1e-6, "max_steps": 8},
        forgets=False,
    )
    first = contract.run(row, cache=tmp_path / "cache", precision="fp16")
    scales = [entry["loss_scale"] for entry in first.history]
    assert len(set(scales)) > 1, "the scale never changed: the test says nothing"
    contract.check_resume(row, first, tmp_path / "cache", tmp_path / "runs", precision="fp16")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_pretraining_learns_and_resumes(precision: str, tmp_path: Path) -> None:
    images = problem().split.retain
    settings = PretrainSettings(epochs=3, batch_size=8, crop_padding=0, precision=precision)
    network = {"architecture": "resnet10", "options": {"width": 4}, "settings": settings}
    whole, rows = pretrain(images, **network)
    assert rows[-1].loss < rows[0].loss

    def stop(phase: str, done: int, total: int, **figures: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(images, **network, state_path=tmp_path / "state", progress=stop)
    again, resumed = pretrain(images, **network, state_path=tmp_path / "state")
    assert resumed == rows
    assert again.fingerprint() == whole.fingerprint()
