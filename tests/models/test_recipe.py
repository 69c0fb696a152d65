from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from stakes.errors import ConfigError
from stakes.models import PretrainSettings, recipe
from stakes.models.recipe import learning_rate


def test_published_is_what_was_published():
    published = recipe("published")
    assert (published.epochs, published.batch_size, published.learning_rate) == (200, 128, 0.01)
    assert (published.momentum, published.weight_decay, published.schedule) == (0.9, 5e-4, "cosine")
    assert not published.nesterov
    assert published.decay == "all"


def test_cosine_is_pytorchs():
    settings = recipe("published")
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs)
    for epoch in range(settings.epochs):
        assert learning_rate(settings, epoch / settings.epochs) == pytest.approx(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()


def test_one_cycle_rises_then_falls():
    settings = PretrainSettings(learning_rate=0.5, warmup=0.25)
    rates = [learning_rate(settings, i / 100) for i in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[25] == 0.5
    assert rates[-1] == pytest.approx(0)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)


def test_digits_are_not_mirrored():
    assert not recipe("demo").flip


def test_bad_names_and_values():
    with pytest.raises(ConfigError, match="own or published or demo"):
        recipe("best")
    with pytest.raises(ValidationError):
        PretrainSettings(epochs=0)
    with pytest.raises(ValidationError):
        recipe("own").epochs = 3  # type: ignore[misc]
