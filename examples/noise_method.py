"""A method from outside the package: noise on the weights until the forget set is forgotten.

From the command line, in a grid that names the method ``noise``:

    stakes bench grid.yaml --plugins examples/noise_method.py --out runs/noise

From Python: ``stakes.unlearn(model, forget, method=Noise.configure(overrides={"scale": 0.02}))``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field

from stakes.config import MethodSettings
from stakes.methods import Job, Method


class NoiseSettings(MethodSettings):
    """Settings of the noise; of the optimiser's nothing has an effect."""

    scale: float = Field(0.01, gt=0, description="noise a step, relative to each weight's own spread")
    max_epochs: int = Field(200, ge=1, description="most steps")


class Noise(Method[NoiseSettings]):
    """Add w ← w + scale · std(w) · ε, ε ~ N(0, 1), to every weight, step by step.

    Needs: the forget set alone. Not guaranteed: anything about the other images; nothing protects them.
    """

    name = "noise"
    settings_type = NoiseSettings

    def run(self, job: Job[NoiseSettings]) -> Iterator[dict[str, float]]:
        """One draw a step; the base measures, stops, saves and resumes."""
        for step in job.steps(per_epoch=1):
            source, added = job.generator("noise", step), 0.0
            for parameter in job.model.parameters():
                if parameter.dim() < 2:
                    continue
                noise = torch.randn(parameter.shape, generator=source).to(parameter.device)
                change = job.settings.scale * parameter.detach().std() * noise
                parameter.data.add_(change)
                added += float(change.square().sum())
            yield {"noise_norm": added**0.5}

    def total_steps(self, job: Job[NoiseSettings]) -> int:
        """The limit, for the progress display."""
        return job.limit(per_epoch=1)
