"""What a job is to keep: the original model's answers on probes and, with anchors, S_ori, S_unl and what holds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stakes.anchors.bridge import Bridge
from stakes.errors import NumericalError, RunFolderError
from stakes.memory import Fitting, in_parts
from stakes.methods.job import Job
from stakes.models.classifier import Classifier
from stakes.processes import Processes, current
from stakes.runtime import evaluating
from stakes.structure import (
    affinity,
    alignment_loss,
    all_zero,
    batch_importance,
    regularisation,
    sample_importance,
    scale_importance,
)


class AnchoredStructure:
    """The original model's answers, S_ori of all probes, S_unl of a batch, and the feature extractor's importance.

    Where no term of the loss is about affinities there are answers alone, and no anchors are needed.
    """

    def __init__(self, job: Job[Any], projector: nn.Module) -> None:
        self.job, self.projector = job, projector
        # A model that already deploys through a projector has its structure behind it.
        self._original_projector = job.original.projector or nn.Identity()
        if job.settings.structural:
            matrix = job.need_anchors().for_classes(job.model.class_names).matrix.to(job.device)
            self.bridge = Bridge.between(job.model.feature_width, matrix.shape[1], job.seed).to(job.device)
            self.anchors = self.bridge.anchors(matrix)
        self._kept: dict[str, Tensor] | None = None
        self._parameters = dict(job.model.body.named_parameters())
        self._origin = {name: value.detach() for name, value in job.original.body.named_parameters()}
        self._importance: dict[str, Tensor] | None = None

    @property
    def affinities(self) -> Tensor:
        """S_ori of all probes, (N_s, b), on the CPU."""
        return self._original_answers()["affinities"]

    @torch.no_grad()
    def answers(self, pixels: Tensor) -> dict[str, Tensor]:
        """``logits`` of the original model on any images and, where needed, their ``affinities`` S_ori: (n, b) each."""
        features = self.job.original.features(pixels)
        self.job.meter.count(forward=len(pixels))
        found = {"logits": self.job.original.logits(features)}
        if self.job.settings.structural:
            found["affinities"] = self.of(self._original_projector(features))
        return found

    def kept(self, indices: Tensor) -> dict[str, Tensor]:
        """The same of probes, on the job's device; computed once for all of them."""
        return {name: value[indices].to(self.job.device) for name, value in self._original_answers().items()}

    def of(self, features: Tensor) -> Tensor:
        """Affinities of (projected) features."""
        return affinity(self.bridge.features(features), self.anchors)

    def importance(self) -> dict[str, Tensor]:
        """I of eq. 4, computed at the step that the settings name and kept for resumed jobs."""
        if self._importance is None:
            made = self.job.remember("importance", self._make_importance)
            self._importance = {name: value.to(self.job.device) for name, value in made.items()}
        return self._importance

    def regularisation(self) -> Tensor:
        """L_reg of eq. 3."""
        return regularisation(self.importance(), self._parameters, self._origin)

    def _original_answers(self) -> dict[str, Tensor]:
        if self._kept is None:
            self._kept = self.job.remember("structure", self._original)
        return self._kept

    def _original(self) -> dict[str, Tensor]:
        probes = self.job.need_probes()
        found: dict[str, list[Tensor]] = {}

        def answers(part: Tensor) -> dict[str, Tensor]:
            return self.answers(probes.batch(part).to(self.job.device))

        fit = Fitting("probe_batch")
        for batch in torch.arange(len(probes)).split(self.job.settings.probe_batch):
            for answer in fit(batch, answers):
                for name, rows in answer.items():
                    found.setdefault(name, []).append(rows.cpu())
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _make_importance(self) -> dict[str, Tensor]:
        settings = self.job.settings
        if self.job.step != settings.importance_after:
            raise RunFolderError(
                "structural importance of this run",
                expected=f"the file kept since step {settings.importance_after}",
                got="none, or a damaged one",
                fix="It cannot be made again from later weights. Delete the run folder and start anew.",
            )
        with evaluating(self.job.model), self.job.meter.paused():
            raw = self._sample_importance() if settings.importance == "sample" else self._batch_importance()
        if all_zero(raw):
            raise NumericalError(
                "structural importance",
                expected="some gradient of the alignment loss",
                got="zero for every parameter: the projector still is the identity, so S_unl equals S_ori",
                fix="Set importance_after higher, projector_init to random, or reg_weight to 0.",
            )
        return {name: value.cpu() for name, value in scale_importance(raw, settings.importance_scale).items()}

    def _batches(self, processes: Processes | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The probes of the importance with their rows of S_ori; of each batch only a process's share."""
        probes, settings = self.job.need_probes(), self.job.settings
        chosen = torch.randperm(len(probes), generator=self.job.generator("importance"))
        for part in chosen[: settings.importance_probes].split(settings.probe_batch):
            self.job.meter.count(forward=len(part), backward=len(part))
            part = part if processes is None else part[processes.share(len(part))]
            yield probes.batch(part).to(self.job.device), self.affinities[part].to(self.job.device)

    def _sample_importance(self) -> dict[str, Tensor]:
        # Per sample the cosine of columns is ±1 and has no gradient: eq. 4 is read over instances.
        kind = self.job.settings.align
        view = _Projected(self.job.model, self.projector)

        def loss(parameters: dict[str, Tensor], pixels: Tensor, row: Tensor) -> Tensor:
            named = {f"model.body.{name}": value for name, value in parameters.items()}
            projected = functional_call(view, named, (pixels.unsqueeze(0),))
            return alignment_loss(row.unsqueeze(0), self.of(projected), kind, "instance")

        team = current()
        own = 0

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal own
            for pixels, rows in self._batches(team):
                own += len(pixels)
                if len(pixels):
                    yield pixels, rows

        mean = sample_importance(loss, self._parameters, batches())  # type: ignore[arg-type]
        if team.count == 1:
            return mean
        images = team.sum(own)
        return {name: team.reduce(value * own) / images for name, value in mean.items()}

    def _batch_importance(self) -> dict[str, Tensor]:
        settings = self.job.settings

        def loss(pixels: Tensor, rows: Tensor) -> Tensor:
            features = in_parts(self.job.model.features, pixels, self.job.most_images)
            return alignment_loss(
                rows, self.of(self.projector(features)), settings.align, settings.align_axis
            )

        return batch_importance(loss, self._parameters, self._batches())


class _Projected(torch.nn.Module):
    """p(g(x)) as a module, for functional calls."""

    def __init__(self, model: Classifier, projector: nn.Module) -> None:
        super().__init__()
        self.model, self.projector = model, projector

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projector(self.model.features(pixels))  # type: ignore[no-any-return]
