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

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.methods.anchored import AnchoredStructure
from stakes.methods.base import Method, Row
from stakes.methods.curvature import InputCurvature
from stakes.methods.job import Batch, Job
from stakes.methods.pressure import Pressure
from stakes.methods.recalibration import MeanRecalibration
from stakes.methods.retreat import Way, surest_label
from stakes.methods.structguard_settings import (
    FOR_FEW,
    IN_SEQUENCE,
    PRESETS,
    WITH_UNLABELLED,
    WITHOUT_BATCHNORM,
    StructGuardSettings,
)
from stakes.methods.tuning import descend, train_features
from stakes.methods.variants import cut_and_mix, everyday
from stakes.models.projector import Projector
from stakes.processes import spread
from stakes.structure import alignment_loss, elastic_net

# Logits of an image that are held: as many as there are where their weight was chosen.
_LOGITS = 10


class StructGuard(Method[StructGuardSettings]):
    """STRUCTGUARD: keep every probe's affinities to semantic anchors while the forget set is pushed away.

    Publication: Hong, Shin and Kim, "Stake the Points: Structure-Faithful Instance Unlearning", CVPR 2026.

    Needs: the forget set, probes made from the original model, and, where alignment or regularisation have a weight,
    anchors. No retained image.

    Presets: ``default``, a variant for models that are to be shipped, without the paper's structure terms, which add
    nothing to it that could be measured: a bounded loss on the forget images and their everyday copies, the original
    model's logits on inverted and mixed probes, frozen BatchNorm, steps that spare what the probes use, and a
    schedule that goes on until what broke is mended (of at most 16 images it forgets two copies each in a step, in a
    longer schedule of smaller steps, and holds soft answers in place of logits; of more of them, and without
    BatchNorm, the schedule is longer too, and images that are still recognised weigh more from its first step on);
    ``thorough``, with two everyday copies of every forget image, more weight on them and more steps, so that most
    copies are forgotten too, for a higher price (with unlabelled images, of more than 16 to be forgotten, a wider
    margin); ``paper``, the text with L2UL's optimiser and probes; ``authors``,
    the settings that the authors published for CIFAR-10: radius 3, SGD .005 without momentum, projector .009 from a
    random start and deployed, cosine over instances, importance from batches, at most 100 epochs. ``docs/method.md``
    gives our reading of each point that the text leaves open.

    Assumes that probes stand in for retained images. Not guaranteed: that the forget set ends at accuracy 0 (the
    outcome says so), that images near the forgotten ones are forgotten, or that a membership attack fails.

    Example:
        >>> StructGuard.configure("authors").settings.projector_lr
        0.009
    """

    name = "structguard"
    settings_type = StructGuardSettings
    needs = frozenset({"probes", "anchors"})
    default_preset = "default"
    presets = PRESETS
    for_few = FOR_FEW
    without_batchnorm = WITHOUT_BATCHNORM
    with_unlabelled = WITH_UNLABELLED
    in_sequence = IN_SEQUENCE

    def __init__(self, settings: StructGuardSettings) -> None:
        super().__init__(settings)
        if not settings.structural:
            self.needs = frozenset({"probes"})
        self._works = _Works()

    _recalibration: MeanRecalibration | None = None

    def run(self, job: Job[StructGuardSettings]) -> Iterator[Row]:
        """Minimise the total loss over ψ, ω and φ by SGD."""
        settings, model = job.settings, job.model
        projector = job.track("projector", self._projector(job))
        if settings.path == "projector" and settings.projector == "learned":
            model.projector = projector
        # A model that came with a projector has no other path: deletion goes through it as well.
        around: nn.Module = nn.Identity() if job.original.projector is None else projector
        curvature = self._curvature(job)
        precondition = partial(curvature.apply, model) if curvature else lambda: None
        optimizer = self._optimizer(job, projector, curvature)
        # Before a resumed job puts back the state, in which the lr is that of a later step.
        pressure = job.track("pressure", Pressure(len(job.forget), settings.pressure).to(job.device))
        rates = [group["lr"] for group in optimizer.param_groups]
        job.track("optimizer", optimizer)
        self._works = job.track("works", _Works())
        structure = AnchoredStructure(job, projector)
        for step in job.steps(job.probe_batches.per_epoch):
            if step == settings.importance_after and settings.reg_weight:
                structure.importance()
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * _pace(step, _settle(job))
            job.training()
            losses = self._losses(job, projector, around, structure, pressure, step)
            yield descend(job, optimizer, losses, precondition)

    def may_stop(self, job: Job[StructGuardSettings]) -> bool:
        """Whether the schedule is over and the deployed path works."""
        return job.step >= _settle(job) and self.works(job)

    def finish(self, job: Job[StructGuardSettings], forgotten: Callable[[], bool]) -> Row | None:
        """Let the running means follow the weights, and give back what was too much.

        What the new means bring back is forgotten in further steps. Logged: ``way``, the share of the way
        from the first weights to the last ones at which the model stays.
        """
        follow = self._followed(job)
        follow()
        if job.settings.recalibrate and not forgotten():
            return None
        most = job.settings.retreat
        if most is None:
            return {}
        if surest_label(job) > most:
            return {"way": 1.0}
        way = Way(job.start or job.original, job.model, follow)
        return {"way": way.least(lambda: forgotten() and surest_label(job) <= most)}

    def _followed(self, job: Job[StructGuardSettings]) -> Callable[[], None]:
        """What makes the running means those of the weights as they are."""
        if not job.settings.recalibrate:
            return lambda: None
        if self._recalibration is None:
            draws = job.generator("recalibration")
            with spread(False):
                self._recalibration = MeanRecalibration(job.original, _seen(job, draws), draws=draws)
        recalibration = self._recalibration
        return lambda: recalibration.apply(job.model)

    def works(self, job: Job[StructGuardSettings]) -> bool:
        """Whether probes are classified as well as the settings ask: a projector at random first has to be learned."""
        return float(self._works.probe_accuracy) >= job.settings.stop_probe_accuracy

    def _losses(
        self,
        job: Job[StructGuardSettings],
        projector: nn.Module,
        around: nn.Module,
        structure: AnchoredStructure,
        pressure: Pressure,
        step: int,
    ) -> dict[str, Tensor]:
        """The weighted terms of the total loss."""
        settings, model = job.settings, job.model
        probes, forget = self._probes(job, structure, step), self._forget(job, step)
        with job.autocast():
            if settings.passes == "joint":
                features = train_features(job, torch.cat([probes.pixels, forget.pixels]))
                kept, gone = features[: len(probes)], features[len(probes) :]
            else:
                kept, gone = train_features(job, probes.pixels), train_features(job, forget.pixels)
            projected = projector(kept)
            logits_kept, logits_gone = model.head(projected).float(), model.head(around(gone)).float()
        right = (logits_kept.argmax(dim=1) == probes.labels).double().mean()
        self._works.probe_accuracy.fill_(float(right))
        share = len(forget) / (len(forget) + len(probes)) if settings.batch_weights == "share" else None
        w_del, w_ret = (1.0, 1.0) if share is None else (share, 1.0 - share)
        retention = _retention(logits_kept, probes, settings)
        deletion = self._deletion(job, logits_gone, forget, pressure, step)
        losses = {
            "loss_del": w_del * settings.del_weight * deletion,
            "loss_ret": w_ret * settings.ret_weight * retention,
        }
        if settings.align_weight:
            loss = alignment_loss(
                probes.answers["affinities"],
                structure.of(projected.float()),
                settings.align,
                settings.align_axis,
            )
            losses["loss_align"] = settings.align_weight * loss
        if settings.reg_weight and step >= settings.importance_after:
            losses["loss_reg"] = settings.reg_weight * structure.regularisation()
        if settings.head_weight:
            penalty = elastic_net(model.head.weight, settings.head_l1, settings.head_l2)
            losses["loss_head"] = settings.head_weight * penalty
        return losses

    @staticmethod
    def _probes(job: Job[StructGuardSettings], structure: AnchoredStructure, step: int) -> _Kept:
        """The probes of a step, with what the original model says of them."""
        batch = job.probe_batch(step)
        if job.settings.probe_mixing:
            pixels = cut_and_mix(batch.pixels, job.generator("mixing", step))
            answers = structure.answers(pixels)
            return _Kept(pixels, answers["logits"].argmax(dim=1), answers)
        return _Kept(batch.pixels, batch.labels, structure.kept(batch.indices))

    @staticmethod
    def _forget(job: Job[StructGuardSettings], step: int) -> Batch:
        """The forget images of a step, and everyday copies of them where the settings say so."""
        batch, times = job.forget_batch(step), job.settings.variants
        copied = job.settings.copies(len(batch), job.forget_batches.per_epoch)
        if not copied:
            return batch
        # The order of a batch is drawn anew in each round, so its first images are a sample.
        some = torch.arange(copied // times).repeat(times)
        copies = everyday(batch.pixels[some.to(batch.pixels.device)], job.generator("variants", step))
        rows = torch.cat([torch.arange(len(batch)), some])
        return Batch(
            torch.cat([batch.pixels, copies]),
            batch.labels[rows.to(batch.labels.device)],
            batch.indices[rows.to(batch.indices.device)],
        )

    @staticmethod
    def _deletion(
        job: Job[StructGuardSettings], logits: Tensor, forget: Batch, pressure: Pressure, step: int
    ) -> Tensor:
        """L_del of the forget images' logits (n, b): minus the cross-entropy, or the hinge on their margin."""
        settings = job.settings
        if settings.deletion == "ascent":
            return -F.cross_entropy(logits, forget.labels)
        hinge, weights = _hinge(logits, forget.labels, settings.margin), pressure.of(forget.indices)
        if step >= settings.pressure_from * _settle(job):
            own = len(job.forget_batches.at(step))
            pressure.seen(forget.indices[:own], hinge.detach()[:own])
        return (weights * hinge).sum() / _count(hinge, settings.hinge_mean, job.forget_batches.per_epoch)

    @staticmethod
    def _curvature(job: Job[StructGuardSettings]) -> InputCurvature | None:
        """What spares inputs in a step; made from the original model, so a resumed job makes the same."""
        settings = job.settings
        if settings.precondition == "none":
            return None
        draws = job.generator("curvature")
        # Every process sends all of them, since a share would give each a P of its own.
        with spread(False):
            return InputCurvature(
                job.original,
                _seen(job, draws),
                damping=settings.damping,
                draws=draws,
                extent=settings.precondition,
            )

    @staticmethod
    def _projector(job: Job[StructGuardSettings]) -> nn.Module:
        settings = job.settings
        if job.model.projector is not None:
            return job.model.projector
        if settings.projector == "none":
            return nn.Identity()
        return Projector(
            job.model.feature_width,
            settings.projector_hidden,
            init=settings.projector_init,
            generator=job.generator("projector"),
        ).to(job.device)

    @staticmethod
    def _optimizer(
        job: Job[StructGuardSettings], projector: nn.Module, curvature: InputCurvature | None
    ) -> torch.optim.Optimizer:
        settings = job.settings
        own = {id(parameter) for parameter in projector.parameters()}
        # Biases and BatchNorm have no inputs to spare: they would move for every image alike.
        trained = curvature.weights(job.model) if curvature else job.model.parameters()
        network = [parameter for parameter in trained if id(parameter) not in own]
        groups: list[dict[str, Any]] = [{"params": network}]
        if own:
            groups.append(
                {"params": list(projector.parameters()), "lr": settings.projector_lr or settings.lr}
            )
        return torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )


class _Works(nn.Module):
    """How well the last step's probes are classified, in [0, 1]; saved, since a milestone is judged by it."""

    probe_accuracy: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("probe_accuracy", torch.zeros((), dtype=torch.float64))


@dataclass(frozen=True)
class _Kept:
    """Probes of a step (n, C, H, W), their labels, and what the original model answers on them, (n, b) each."""

    pixels: Tensor
    labels: Tensor
    answers: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.labels)


def _seen(job: Job[StructGuardSettings], draws: torch.Generator) -> Iterator[Tensor]:
    """All probes in batches, mixed as they are in the steps."""
    probes, settings = job.need_probes(), job.settings
    for part in torch.arange(len(probes)).split(settings.probe_batch):
        pixels = probes.batch(part).to(job.device)
        job.meter.count(forward=len(part))
        yield cut_and_mix(pixels, draws) if settings.probe_mixing else pixels


def _retention(logits: Tensor, probes: _Kept, settings: StructGuardSettings) -> Tensor:
    """L_ret: the cross-entropy with the labels, or KL(original ‖ now), in nats; or the squared change of logits.

    Logits count up to what all of an image have in common, which changes no answer. Of many classes those count that
    are the most probable, before or now: a mean over all would hold each the less, the more there are.
    """
    if settings.retention == "hard":
        return F.cross_entropy(logits, probes.labels)
    before = probes.answers["logits"].float()
    if settings.retention == "logits":
        change = logits - before
        if change.shape[1] > _LOGITS:
            seen = torch.maximum(F.log_softmax(before, dim=1), F.log_softmax(logits.detach(), dim=1))
            change = change.gather(1, seen.topk(_LOGITS, dim=1).indices)
        return (change - change.mean(dim=1, keepdim=True)).square().mean()
    target = F.log_softmax(before, dim=1)
    return F.kl_div(F.log_softmax(logits, dim=1), target, reduction="batchmean", log_target=True)


def _pace(step: int, settle: int) -> float:
    """The share of the lr at a step: half a cosine down to a tenth, where it stays."""
    if not settle:
        return 1.0
    return max(0.1, 0.5 * (1 + math.cos(math.pi * min(step, settle) / settle)))


def _settle(job: Job[StructGuardSettings]) -> int:
    """Steps of the schedule."""
    return job.settings.schedule(job.forget_batches.per_epoch, job.limit(job.probe_batches.per_epoch))


def _count(hinge: Tensor, kind: str, batches: int) -> Tensor | float:
    """What the sum over the hinges (n,) is divided by, at least 1, where a round takes so many batches."""
    if kind == "all" or (kind == "auto" and batches == 1):
        return float(len(hinge))
    active = (hinge > 0).sum().clamp(min=1).to(hinge.dtype)
    return active if kind == "active" else (active * len(hinge)).sqrt()


def _hinge(logits: Tensor, labels: Tensor, margin: float) -> Tensor:
    """max(0, m + z_y − max of the others) of each image, (n,)."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    other = logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(dim=1)
    return F.relu(margin + own - other)
