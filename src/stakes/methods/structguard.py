r"""STRUCTGUARD: structure-faithful instance unlearning (CVPR 2026, section 3).

The total loss over θ = {ψ, ω, φ} is

    L = w_del L_del + w_ret L_ret + w_align L_align + w_reg L_reg + w_head R(φ)

    L_del   = −CE(h(g(x_f)), y_f)                        deletion bypasses the projector
    L_ret   =  CE(h(p(g(x_s))), y_s)                     retention goes through it
    L_align = −1/b Σ cos(S_i^ori, S_i^unl)               eq. 2, S = norm(·) Aᵀ
    L_reg   = ½ Σ I_i (ψ_i − ψ_i^ori)²                   eq. 3 and 4
    R       = elastic net on the weights of the head     section 4.1

``docs/method.md`` gives our reading of each point that the text leaves open.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from stakes.anchors.bridge import Bridge
from stakes.config import MethodSettings
from stakes.errors import NumericalError
from stakes.methods.base import Method, Row
from stakes.methods.job import Job
from stakes.models.classifier import Classifier
from stakes.models.projector import Projector
from stakes.structure import (
    Alignment,
    Axis,
    affinity,
    alignment_loss,
    all_zero,
    batch_importance,
    elastic_net,
    regularisation,
    sample_importance,
    scale_importance,
)

Weights = Literal["sum", "share"]


class StructGuardSettings(MethodSettings):
    """Settings of STRUCTGUARD. The defaults are the text's; where it is silent, those of L2UL, which it follows."""

    projector_init: Literal["random", "identity"] = "random"
    projector_hidden: int | None = Field(None, ge=1, description="hidden width; None: that of the features")
    projector_lr: float | None = Field(None, gt=0, description="None: lr")
    path: Literal["projector", "bypass"] = Field(
        "projector", description="the path that is deployed, stop-tested and measured"
    )
    batch_weights: Weights = Field(
        "sum", description="sum: L_del + L_ret; share: each weighed by its share of the images of the step"
    )
    align: Alignment = "cosine"
    align_axis: Axis = Field("anchor", description="anchor: columns of S (eq. 2); instance: rows")
    align_weight: float = Field(1.0, ge=0)
    reg_weight: float = Field(1.0, ge=0)
    importance: Literal["sample", "batch"] = Field("sample", description="sample: eq. 4 as written")
    importance_scale: Literal["none", "minmax", "mean"] = "none"
    importance_probes: int | None = Field(
        None, ge=1, description="estimate eq. 4 on this many seeded probes; None: all of D_s"
    )
    importance_after: int = Field(0, ge=0, description="steps before the importance is computed")
    head_weight: float = Field(0.001, ge=0, description="of the elastic net on the head")
    head_l1: float = Field(0.99, ge=0)
    head_l2: float = Field(0.005, ge=0)


class StructGuard(Method[StructGuardSettings]):
    """STRUCTGUARD: keep every probe's affinities to semantic anchors while the forget set is pushed away.

    Publication: Hong, Shin and Kim, "Stake the Points: Structure-Faithful Instance Unlearning", CVPR 2026.

    Needs: the forget set, probes made from the original model, and anchors. No retained image.

    Presets: ``paper``, the text with L2UL's optimiser and probes; ``authors``, the settings that the authors
    published for CIFAR-10 (NOTES: radius 3, SGD .005 without momentum, projector .009, cosine over instances,
    loss weights by share of the batch, importance from batches, at most 100 epochs).

    Assumes that probes stand in for retained images. Not guaranteed: that the forget set ends at accuracy 0 (the
    outcome says so), that images near the forgotten ones are forgotten, or that a membership attack fails.

    Example:
        >>> StructGuard.configure("authors").settings.projector_lr
        0.009
    """

    name = "structguard"
    settings_type = StructGuardSettings
    needs = frozenset({"probes", "anchors"})
    default_preset = "paper"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "authors": {
            "lr": 0.005,
            "projector_lr": 0.009,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "probe_batch": 128,
            "forget_batch": 128,
            "max_epochs": 100,
            "probes.epsilon": 3.0,
            "batch_weights": "share",
            "align_axis": "instance",
            "importance": "batch",
            "importance_after": 1,
        },
    }

    def run(self, job: Job[StructGuardSettings]) -> Iterator[Row]:
        """Minimise the total loss over ψ, ω and φ by SGD."""
        settings, model = job.settings, job.model
        projector = job.track("projector", self._projector(job))
        if settings.path == "projector":
            model.projector = projector
        optimizer = job.track("optimizer", self._optimizer(job, projector))
        structure = _Structure(job, projector)
        for step in job.steps(job.probe_batches.per_epoch):
            if step == settings.importance_after and settings.reg_weight:
                structure.importance()
            job.training()
            losses = self._losses(job, projector, structure, step)
            total = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            yield {name: float(value.detach()) for name, value in losses.items()} | {
                "loss": float(total.detach())
            }

    def _losses(
        self, job: Job[StructGuardSettings], projector: Projector, structure: _Structure, step: int
    ) -> dict[str, Tensor]:
        """The weighted terms of the total loss."""
        settings, model = job.settings, job.model
        probes, forget = job.probe_batch(step), job.forget_batch(step)
        with job.autocast():
            # One pass for both batches, so that BatchNorm sees what it sees in L2UL.
            features = model.features(torch.cat([probes.pixels, forget.pixels]))
            kept, gone = features[: len(probes)], features[len(probes) :]
            projected = projector(kept)
            logits_kept, logits_gone = model.head(projected).float(), model.head(gone).float()
        share = len(forget) / (len(forget) + len(probes)) if settings.batch_weights == "share" else None
        w_del, w_ret = (1.0, 1.0) if share is None else (share, 1.0 - share)
        losses = {
            "loss_del": -w_del * F.cross_entropy(logits_gone, forget.labels),
            "loss_ret": w_ret * F.cross_entropy(logits_kept, probes.labels),
        }
        if settings.align_weight:
            now = structure.of(projected.float())
            loss = alignment_loss(
                structure.original[probes.indices].to(job.device), now, settings.align, settings.align_axis
            )
            losses["loss_align"] = settings.align_weight * loss
        if settings.reg_weight and step >= settings.importance_after:
            losses["loss_reg"] = settings.reg_weight * structure.regularisation()
        if settings.head_weight:
            penalty = elastic_net(model.head.weight, settings.head_l1, settings.head_l2)
            losses["loss_head"] = settings.head_weight * penalty
        return losses

    @staticmethod
    def _projector(job: Job[StructGuardSettings]) -> Projector:
        settings = job.settings
        return Projector(
            job.model.feature_width,
            settings.projector_hidden,
            init=settings.projector_init,
            generator=job.generator("projector"),
        ).to(job.device)

    @staticmethod
    def _optimizer(job: Job[StructGuardSettings], projector: Projector) -> torch.optim.Optimizer:
        settings = job.settings
        own = {id(parameter) for parameter in projector.parameters()}
        network = [parameter for parameter in job.model.parameters() if id(parameter) not in own]
        groups: list[dict[str, Any]] = [
            {"params": network},
            {"params": list(projector.parameters()), "lr": settings.projector_lr or settings.lr},
        ]
        return torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )


class _Structure:
    """S_ori of all probes, S_unl of a batch, and the structural importance of the feature extractor."""

    def __init__(self, job: Job[StructGuardSettings], projector: Projector) -> None:
        self.job, self.projector = job, projector
        anchors = job.need_anchors().for_classes(job.model.class_names)
        self.bridge = Bridge.between(job.model.feature_width, anchors.matrix.shape[1], job.seed).to(
            job.device
        )
        self.anchors = self.bridge.anchors(anchors.matrix.to(job.device))
        self.original = job.remember("structure", self._original)["original"]
        self._parameters = dict(job.model.body.named_parameters())
        self._origin = {name: value.detach() for name, value in job.original.body.named_parameters()}
        self._importance: dict[str, Tensor] | None = None

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

    @torch.no_grad()
    def _original(self) -> dict[str, Tensor]:
        probes, rows = self.job.need_probes(), []
        for part in torch.arange(len(probes)).split(self.job.settings.probe_batch):
            pixels = probes.batch(part).to(self.job.device)
            self.job.meter.count(forward=len(part))
            rows.append(self.of(self.job.original.features(pixels)).cpu())
        return {"original": torch.cat(rows)}

    def _make_importance(self) -> dict[str, Tensor]:
        settings = self.job.settings
        training = self.job.model.training
        self.job.model.eval()
        with self.job.meter.paused():
            raw = self._sample_importance() if settings.importance == "sample" else self._batch_importance()
        self.job.model.train(training)
        if all_zero(raw):
            raise NumericalError(
                "structural importance",
                expected="some gradient of the alignment loss",
                got="zero for every parameter: the projector still is the identity, so S_unl equals S_ori",
                fix="Set importance_after to 1 or more, projector_init to random, or reg_weight to 0.",
            )
        return {name: value.cpu() for name, value in scale_importance(raw, settings.importance_scale).items()}

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        probes, settings = self.job.need_probes(), self.job.settings
        chosen = torch.randperm(len(probes), generator=self.job.generator("importance"))
        for part in chosen[: settings.importance_probes].split(settings.probe_batch):
            self.job.meter.count(forward=len(part), backward=len(part))
            yield probes.batch(part).to(self.job.device), self.original[part].to(self.job.device)

    def _sample_importance(self) -> dict[str, Tensor]:
        # Per sample the cosine of columns is ±1 and has no gradient: eq. 4 is read over instances.
        kind = self.job.settings.align
        view = _Projected(self.job.model, self.projector)

        def loss(parameters: dict[str, Tensor], pixels: Tensor, row: Tensor) -> Tensor:
            named = {f"model.body.{name}": value for name, value in parameters.items()}
            projected = functional_call(view, named, (pixels.unsqueeze(0),))
            return alignment_loss(row.unsqueeze(0), self.of(projected), kind, "instance")

        return sample_importance(loss, self._parameters, self._batches())  # type: ignore[arg-type]

    def _batch_importance(self) -> dict[str, Tensor]:
        settings = self.job.settings

        def loss(pixels: Tensor, rows: Tensor) -> Tensor:
            projected = self.projector(self.job.model.features(pixels))
            return alignment_loss(rows, self.of(projected), settings.align, settings.align_axis)

        return batch_importance(loss, self._parameters, self._batches())


class _Projected(torch.nn.Module):
    """p(g(x)) as a module, for functional calls."""

    def __init__(self, model: Classifier, projector: Projector) -> None:
        super().__init__()
        self.model, self.projector = model, projector

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projector(self.model.features(pixels))  # type: ignore[no-any-return]
