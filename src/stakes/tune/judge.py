"""How much of a model is kept, told without retained or test images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stakes.config import InversionSettings, Precision, ProbeSettings
from stakes.data.images import ImageSet
from stakes.inverted_store import build_inverted
from stakes.methods.variants import cut_and_mix
from stakes.metrics.accuracy import accuracy
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.runtime import derive_seed, generator

# Four batches of 128 images: half of what the preset `default` trains on, from other starts.
VALIDATION = ProbeSettings(kind="inverted", inversion=InversionSettings(batches=4))
MIXES = 2  # draws of every validation probe, cut and mixed


def judging(trials: int) -> tuple[int, int]:
    """Images sent forward and back to the pixels to make the validation probes of a request, and forward to judge so
    many trials on them.

    Example:
        >>> judging(8)[1]
        9216
    """
    images = VALIDATION.number(1)
    return VALIDATION.passes(1), (trials + 1) * MIXES * images


class Judge:
    """Compares classifiers with the original on validation probes of a request.

    They are inverted from the original model, cut and mixed, as the probes of StructGuard's ``default`` are, but from
    seeds that no run uses: no method trains on them.

    Assumes that who answers such images as before answers retained ones as before. Not guaranteed: they are no
    photographs, and the rank of two settings can differ from that on real images.

    Example:
        >>> judge = Judge(classifier, split.forget, seed=100, cache=Path("cache"))  # doctest: +SKIP
        >>> judge.agreement(classifier)  # doctest: +SKIP
        100.0
    """

    def __init__(
        self,
        original: Classifier,
        forget: ImageSet,
        *,
        seed: int,
        cache: Path,
        device: torch.device | None = None,
        precision: Precision = "fp32",
        batch: int = 256,
        progress: Progress = silent,
    ) -> None:
        common: dict[str, Any] = {"device": device, "precision": precision, "progress": progress}
        # Of its own, whatever seed a run has.
        probes = build_inverted(
            cache, original, forget, VALIDATION, seed=derive_seed("validation", seed), **common
        )
        draws = generator("validation mixes", seed)
        seen = torch.cat([probes.batch(part) for part in torch.arange(len(probes)).split(batch)])
        self.pixels = torch.cat([cut_and_mix(seen, draws) for _ in range(MIXES)])
        self.batch, self.fingerprint = batch, probes.fingerprint()
        self.answers = self._predict(original)

    def agreement(self, classifier: Classifier) -> float:
        """Share of validation probes that get the original model's answer, in percent."""
        return accuracy(self._predict(classifier), self.answers)

    @torch.no_grad()
    def _predict(self, classifier: Classifier) -> Tensor:
        classifier.eval()
        device = classifier.mean.device
        found = [classifier(part.to(device)).argmax(dim=1).cpu() for part in self.pixels.split(self.batch)]
        return torch.cat(found)
