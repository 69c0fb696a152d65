r"""FISHER: noise on every weight, the stronger the less the kept images depend on it.

F_i  = 1/N Σ_x Σ_y p(y|x) (∂ log p(y|x) / ∂θ_i)²          over the images to keep
θ_i ← θ_i + √(α · min(limit, (F_i + 1e-8)^(−exponent))) · ε_i,   ε_i ~ N(0, 1)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from stakes.config import MethodSettings
from stakes.memory import Fitting
from stakes.methods.base import Method, Row
from stakes.methods.job import Batch, Job
from stakes.models.classifier import Classifier
from stakes.structure import add_up, gradients_at_once

_FLOOR = 1e-8


class FisherSettings(MethodSettings):
    """Settings of FISHER. Of the optimiser's nothing has an effect."""

    alpha: float = Field(
        1e-6, gt=0, description="scale of the noise's variance; the publication sweeps 1e-8 … 1e-5"
    )
    fisher_data: Literal["retain", "probes"] = Field(
        "retain", description="the images to keep; probes: where there is no retain set"
    )
    retain_batch: int = Field(256, ge=1, description="retained images a step")
    max_epochs: int = Field(
        1, ge=1, description="passes over the images to keep; max_steps takes a seeded part"
    )
    variance_limit: float = Field(1e3, gt=0, description="most variance of a weight, before alpha")
    head_variance_limit: float = Field(1e2, gt=0, description="the same for the head")
    exponent: float = Field(1.0, gt=0, description="1: variance ∝ 1/F; .5: the text's optimum, ∝ 1/√F")
    pooled: bool = Field(
        False,
        description="average variances over dimension 1, tenfold on head and vectors, as the public code does",
    )


class Fisher(Method[FisherSettings]):
    """FISHER (Selective Forget): scrub the weights with noise shaped by the Fisher information of the rest.

    Publication: Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep
    Networks", CVPR 2020.

    Published settings, the defaults: the diagonal of the Fisher matrix of all retained images, the expectation over
    the model's own label distribution, in evaluation mode; variance α/(F + 1e-8), clamped at 1e3 (head: 1e2) before
    the scale α, which is swept over 1e-8 … 1e-5 (here 1e-6). Per-sample gradients, not those of batches.

    Needs: the forget set, only to be measured, and the retain set. It refuses to run without. ``fisher_data=probes``
    takes the probe set instead, as its record then says: that is another method in the regime without
    retained data, and F then speaks of adversarial images.

    Deviations: the public code also averages variances over the inputs of a unit and takes ten times as much on the
    head and on vectors (``pooled``); the text derives a variance ∝ F^(−1/2) (``exponent``). A step looks at one batch
    of images, the last one adds the noise.

    Cost: as many backward passes an image as there are classes. ``max_steps`` bounds it.

    Not guaranteed: that the forget set ends at accuracy 0. There is one draw of noise and no stop test.

    Example:
        >>> sorted(Fisher.configure(overrides={"fisher_data": "probes"}).needs)
        ['probes']
    """

    name = "fisher"
    settings_type = FisherSettings
    needs = frozenset({"retain"})
    stops_when_forgotten = False

    def __init__(self, settings: FisherSettings) -> None:
        super().__init__(settings)
        self.needs = frozenset({settings.fisher_data})

    def run(self, job: Job[FisherSettings]) -> Iterator[Row]:
        """Sum up F batch by batch, then add the noise."""
        total = self.total_steps(job)
        if job.model.projector is not None:
            job.track("projector", job.model.projector)
        running = job.track("fisher", _Running(job.original))
        fits = _fits()
        for step in job.steps(self._per_epoch(job)):
            batch = self._batch(job, step)
            classes = job.model.num_classes
            job.meter.count(forward=(1 + classes) * len(batch), backward=classes * len(batch))
            running.add(fisher_sum(job.original, batch.pixels, fits=fits), len(batch))
            row = {"fisher_mean": running.mean()}
            if step + 1 == total:
                row["noise_norm"] = self._scrub(job, running.diagonal())
            yield row

    def total_steps(self, job: Job[FisherSettings]) -> int:
        """Batches of images to keep."""
        return job.limit(self._per_epoch(job))

    @staticmethod
    def _per_epoch(job: Job[FisherSettings]) -> int:
        if job.settings.fisher_data == "probes":
            return job.probe_batches.per_epoch
        return -(-len(job.need_retain()) // job.settings.retain_batch)

    @staticmethod
    def _batch(job: Job[FisherSettings], step: int) -> Batch:
        if job.settings.fisher_data == "probes":
            return job.probe_batch(step)
        return job.retain_batch(step, job.settings.retain_batch)

    @staticmethod
    @torch.no_grad()
    def _scrub(job: Job[FisherSettings], diagonal: Mapping[str, Tensor]) -> float:
        """Add the noise; its norm over all weights."""
        squares = 0.0
        for name, parameter in job.model.named_parameters():
            variance = noise_variance(diagonal[name], job.settings, head=name.startswith("head."))
            draw = torch.randn(parameter.shape, generator=job.generator("noise", name)).to(parameter.device)
            noise = variance.sqrt() * draw
            parameter.add_(noise)
            squares += float(noise.square().sum())
        return math.sqrt(squares)


def noise_variance(diagonal: Tensor, settings: FisherSettings, *, head: bool) -> Tensor:
    """Variance of the noise on a parameter with this Fisher diagonal, of the same shape.

    Example:
        >>> noise_variance(torch.tensor([0.0, 0.1, 10.0]), FisherSettings(alpha=0.5), head=True).tolist()
        [50.0, 4.999999523162842, 0.05000000074505806]
    """
    variance = (diagonal + _FLOOR).pow(-settings.exponent)
    variance = variance.clamp_max(settings.variance_limit)
    if head:
        variance = variance.clamp_max(settings.head_variance_limit)
    variance = settings.alpha * variance
    if settings.pooled:
        if variance.dim() > 1:
            variance = variance.mean(dim=1, keepdim=True).expand_as(variance)
        if head or variance.dim() == 1:
            variance = 10 * variance
    return variance


def fisher_sum(
    model: Classifier,
    pixels: Tensor,
    *,
    chunk: int | None = None,
    fits: tuple[Fitting, Fitting] | None = None,
) -> dict[str, Tensor]:
    """Σ_x Σ_y p(y|x) (∂ log p(y|x) / ∂θ)², with the gradient of every image and label on its own.

    Args:
        model: in evaluation mode.
        pixels: (n, C, H, W).
        chunk: pairs of image and label whose gradients are held at once; None: as suits the device.
        fits: how much fits into memory, of forward passes and of gradients, as earlier calls found; None: unknown.

    Returns:
        A tensor of θ's shape for each parameter of ``model``, a sum over images.
    """
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def log_probability(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, weights, (image.unsqueeze(0),))
        return F.log_softmax(logits.float(), dim=1)[0].gather(0, label)[0]

    chunk = chunk or gradients_at_once(parameters)
    forward, backward = fits or _fits()
    gradients = torch.func.vmap(torch.func.grad(log_probability), in_dims=(None, 0, 0))
    with torch.no_grad():
        probabilities = torch.cat(forward(pixels, model)).float().softmax(dim=1)
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    count, classes = probabilities.shape
    labels = torch.arange(classes, device=pixels.device).repeat(count)
    images = torch.arange(count, device=pixels.device).repeat_interleave(classes)

    def squares(part: Tensor) -> dict[str, Tensor]:
        found = gradients(parameters, pixels[images[part]], labels[part].unsqueeze(1))
        weights = probabilities.flatten()[part]
        return {name: torch.einsum("n,n...->...", weights, one.square()) for name, one in found.items()}

    pairs = torch.arange(count * classes, device=pixels.device).split(chunk)
    add_up(total, pairs, squares, backward)
    return total


def _fits() -> tuple[Fitting, Fitting]:
    return Fitting("retain_batch"), Fitting("the number of gradients at once")


class _Running:
    """F so far, as a sum over images, in the form that a job can save."""

    def __init__(self, model: Classifier) -> None:
        self.total = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
        self.images = 0

    def add(self, part: Mapping[str, Tensor], images: int) -> None:
        for name, value in part.items():
            self.total[name] += value
        self.images += images

    def diagonal(self) -> dict[str, Tensor]:
        return {name: value / self.images for name, value in self.total.items()}

    def mean(self) -> float:
        """Of all entries."""
        entries = sum(value.numel() for value in self.total.values())
        return sum(float(value.sum()) for value in self.total.values()) / entries / self.images

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict["total"].items():
            self.total[name].copy_(value)
        self.images = state_dict["images"]
