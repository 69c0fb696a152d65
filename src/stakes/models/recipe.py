"""Recipes for training a classifier from nothing: the BEFORE model."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from stakes.config import Precision, Settings
from stakes.errors import ConfigError


class PretrainSettings(Settings):
    """How a BEFORE model is trained: SGD on the cross-entropy. Rates and counts, no paths.

    ``schedule``: ``one-cycle`` rises linearly from 0 to ``learning_rate`` during the first ``warmup`` part of
    all steps and falls to 0 along a half cosine; ``cosine`` is the half cosine alone. ``decay`` says whether
    ``weight_decay`` pulls on all weights or only on those of two or more dimensions (no biases, no
    BatchNorm). ``crop_padding`` is in pixels on each side; 0 does not crop. The last ``plain_epochs`` see the
    images as they are.

    Example:
        >>> PretrainSettings(epochs=5).batch_size
        128
    """

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=0.12, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    decay: Literal["all", "matrices"] = "matrices"
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup: float = Field(default=0.2, gt=0, lt=1)
    crop_padding: int = Field(default=4, ge=0)
    padding: Literal["reflect", "zeros"] = "reflect"
    flip: bool = True
    plain_epochs: int = Field(default=3, ge=0)
    precision: Precision = "fp32"


RECIPES: dict[str, PretrainSettings] = {
    # Ours: a tenth of the published epochs and better use of them.
    "own": PretrainSettings(),
    # The paper's baselines as L2UL publishes them (CIFAR-10: 92.59 % test, 99.60 % train).
    "published": PretrainSettings(
        epochs=200,
        learning_rate=0.01,
        nesterov=False,
        decay="all",
        schedule="cosine",
        padding="zeros",
        plain_epochs=0,
    ),
    # For handwritten digits of 8×8 pixels: a mirrored digit is another sign, so no flip.
    "demo": PretrainSettings(
        epochs=12,
        batch_size=64,
        learning_rate=0.1,
        crop_padding=1,
        padding="zeros",
        flip=False,
        plain_epochs=2,
    ),
}


def recipe(name: str) -> PretrainSettings:
    """The settings of a named recipe: ``own``, ``published`` or ``demo``.

    Raises:
        ConfigError: another name.

    Example:
        >>> recipe("published").epochs
        200
    """
    if name not in RECIPES:
        raise ConfigError("unknown recipe", expected=" or ".join(RECIPES), got=repr(name))
    return RECIPES[name]


def learning_rate(settings: PretrainSettings, done: float) -> float:
    """The learning rate when the part ``done`` (0 to 1) of all steps is done.

    Example:
        >>> learning_rate(recipe("published"), 0.5)
        0.005
    """
    if settings.schedule == "one-cycle":
        if done < settings.warmup:
            return settings.learning_rate * done / settings.warmup
        done = (done - settings.warmup) / (1 - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
