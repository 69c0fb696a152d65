"""What `batchnorm=freeze` freezes: whatever a network does otherwise in training than when it is used."""

from __future__ import annotations

import pytest
import torch
from doubles import job_of, same, steps_of
from torch import nn

from stakes.methods import NegGrad

FEW = {"max_steps": 3, "lr": 0.01}


@pytest.mark.parametrize(("batchnorm", "draws"), [("freeze", False), ("update", True)])
def test_dropout_is_off_where_statistics_are_frozen(batchnorm, draws):
    method, states = NegGrad.configure(None, FEW | {"batchnorm": batchnorm}), []
    for share in (0.0, 0.5):
        job = job_of(method, "cnn")
        (drop,) = (module for module in job.model.modules() if isinstance(module, nn.Dropout))
        drop.p = share
        steps_of(method, job)
        states.append(job.model.state_dict())
    assert not same(states[0], job.original.state_dict())
    assert same(*states) is not draws


def test_what_is_held_is_what_the_model_answers_when_it_is_used():
    method = NegGrad.configure(None, FEW | {"batchnorm": "freeze"})
    job = job_of(method, "resnet10")
    pixels = job.forget.batch(torch.arange(4))
    job.model.eval()
    used = job.model(pixels)
    job.training()
    assert torch.equal(job.model(pixels), used)
