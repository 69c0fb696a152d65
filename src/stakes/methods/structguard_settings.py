"""Settings and presets of STRUCTGUARD; what its loss is made of stands in `stakes.methods.structguard`."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from stakes.config import MethodSettings
from stakes.methods.base import ForFew
from stakes.methods.opposing import Passes, Weights
from stakes.structure import Alignment, Axis


class StructGuardSettings(MethodSettings):
    """Settings of STRUCTGUARD, each at the text's value, or L2UL's where it is silent: those of preset ``paper``."""

    later = frozenset({"pressure_from"})

    projector: Literal["learned", "none"] = Field(
        "learned", description="none: p is the identity, both paths are one"
    )
    projector_init: Literal["random", "identity"] = Field(
        "identity", description="identity: the deployed path starts as the original model"
    )
    projector_hidden: int | None = Field(None, ge=1, description="hidden width; null: that of the features")
    projector_lr: float | None = Field(None, gt=0, description="null: lr")
    path: Literal["projector", "bypass"] = Field(
        "bypass", description="the path that is deployed, stop-tested and measured"
    )
    deletion: Literal["ascent", "hinge"] = Field(
        "ascent",
        description="ascent: −CE, unbounded; hinge: max(0, margin + z_y − max z_other), 0 once forgotten",
    )
    margin: float = Field(1.0, gt=0, description="of the hinge, in logits")
    hinge_mean: Literal["all", "active", "geometric", "auto"] = Field(
        "all",
        description="over all images of the step; over those within the margin: then the last ones are pushed as "
        "hard as the first, however large the forget set; or over the geometric mean of both counts; auto: all where "
        "one batch holds the forget set, geometric where an image has its turn in every so many steps only",
    )
    pressure: float = Field(
        0.0,
        ge=0,
        description="what the weight of a forget image's hinge grows by when a step still finds it above 0",
    )
    pressure_from: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the schedule after which weights grow; 1: after all of it, at its last and least lr",
    )
    retention: Literal["hard", "soft", "logits"] = Field(
        "hard",
        description="hard: CE to the target labels; soft: KL from the original model's answers on the probes; logits: "
        "squared differences from the logits of its ten likeliest classes, each less their mean, which a probability "
        "near 1 does not hide",
    )
    del_weight: float = Field(1.0, gt=0, description="of the deletion loss")
    ret_weight: float = Field(1.0, ge=0, description="of the retention loss")
    passes: Passes = Field(
        "separate", description="of forget images and probes: each with batch statistics of its own"
    )
    batch_weights: Weights = Field(
        "share",
        description="sum: of the two means; share: of the images' losses, over the images of the step",
    )
    stop_probe_accuracy: float = Field(
        0.0,
        ge=0,
        le=1,
        description="the stop test counts only from steps whose probes are classified this well on the deployed path: "
        "a projector that starts at random misclassifies everything at first",
    )
    probe_mixing: bool = Field(
        False,
        description="probes are moved, mirrored and cut into each other anew at each step, and the original model "
        "answers on what comes out; goes with soft retention and that of logits",
    )
    variants: int = Field(
        0, ge=0, description="everyday copies of each forget image that are to be forgotten in a step as well"
    )
    variant_images: int | None = Field(
        None,
        ge=1,
        description="images of a round through the forget set whose copies are to be forgotten, spread over its "
        "batches, one a batch at least; null: all. Forgetting what an image looks like costs more than forgetting the "
        "image, and more so the more of them there are",
    )
    variants_of_many: bool = Field(
        True,
        description="copies also where one batch does not hold the forget set; there, few of them change little and "
        "cost accuracy all the same",
    )
    precondition: Literal["none", "channels", "kronecker", "patches"] = Field(
        "none",
        description="spare the inputs of layers that probes use (`stakes.methods.curvature`), and train the weights "
        "of linear layers and convolutions only",
    )
    recalibrate: bool = Field(
        False,
        description="once all are forgotten, running means of BatchNorm follow the weights by what the probes say of "
        "the inputs of the layer before (`stakes.methods.recalibration`); images that this brings back are forgotten "
        "in further steps",
    )
    retreat: float | None = Field(
        None,
        gt=0,
        le=1,
        description="once all are forgotten, go straight back towards the weights it began with, as far as they stay "
        "forgotten and no forget image's label gets more than this probability (`stakes.methods.retreat`); null: stay. "
        "Less is lost, and more everyday copies are recognised",
    )
    damping: float = Field(0.1, gt=0, description="of the preconditioner, in mean eigenvalues")
    settle: int = Field(
        0,
        ge=0,
        description="steps over which the lr falls along a half cosine, times the root of the number of forget "
        "batches, and three quarters of the most steps at most; the stop test counts only after them, so that what "
        "forgetting broke at first is mended",
    )
    align: Alignment = Field(
        "cosine", description="measure of the alignment loss (eq. 2; the others: Table 6)"
    )
    align_axis: Axis = Field("anchor", description="anchor: columns of S (eq. 2); instance: rows")
    align_weight: float = Field(1.0, ge=0, description="of the alignment of structures; 0: none")
    reg_weight: float = Field(
        1.0, ge=0, description="of the regularisation by structural importance; 0: none"
    )
    importance: Literal["sample", "batch"] = Field("sample", description="sample: eq. 4 as written")
    importance_scale: Literal["none", "minmax", "mean"] = Field(
        "none", description="none: as eq. 4 gives it; minmax: to [0, 1] in each tensor; mean: to mean 1"
    )
    importance_probes: int | None = Field(
        1024, ge=1, description="estimate eq. 4 on this many probes, drawn by seed; null: all of D_s"
    )
    importance_after: int = Field(1, ge=0, description="steps before the importance is computed")
    head_weight: float = Field(0.001, ge=0, description="of the elastic net on the head")
    head_l1: float = Field(0.99, ge=0, description="factor on ‖W‖₁ in the elastic net")
    head_l2: float = Field(0.005, ge=0, description="factor on ‖W‖² in it")

    @property
    def structural(self) -> bool:
        """Whether affinities to anchors have a part in the loss."""
        return self.align_weight > 0 or self.reg_weight > 0

    def schedule(self, batches: int, most: int) -> int:
        """Steps of the schedule: more batches need more of them, by the square root.

        A quarter of the most steps is left for images that outlast it.
        """
        return min(round(self.settle * math.sqrt(batches)), most * 3 // 4)

    def copies(self, images: int, batches: int) -> int:
        """Everyday copies in a step of so many forget images, where a round takes so many steps."""
        if batches > 1 and not self.variants_of_many:
            return 0
        most = images if self.variant_images is None else -(-self.variant_images // batches)
        return self.variants * min(images, most)

    @field_validator("recalibrate")
    @classmethod
    def _either_follows_or_is_measured(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("batchnorm") == "update":
            raise PydanticCustomError(
                "following", "no with batchnorm=update, which measures them: give recalibrate=false"
            )
        return value

    @field_validator("probe_mixing")
    @classmethod
    def _mixing_has_no_labels(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("retention") == "hard":
            raise PydanticCustomError("mixing", "No with retention=hard: a mixture has no target label")
        return value


_DEFAULT: dict[str, Any] = {
    "projector": "none",
    "deletion": "hinge",
    "margin": 0.2,
    "hinge_mean": "auto",
    "pressure": 0.2,
    "variants": 1,
    "variant_images": 8,
    "variants_of_many": False,
    "del_weight": 2.0,
    "retention": "logits",
    "ret_weight": 30.0,
    "probe_mixing": True,
    "batch_weights": "sum",
    "passes": "joint",
    "batchnorm": "freeze",
    "precondition": "kronecker",
    "damping": 0.1,
    "settle": 100,
    "recalibrate": True,
    "retreat": 0.03,
    "lr": 0.005,
    "weight_decay": 0.0,
    "probe_batch": 96,
    "forget_batch": 64,
    "max_steps": 800,
    "align_weight": 0.0,
    "reg_weight": 0.0,
    "head_weight": 0.0,
    "probes.kind": "inverted",
    "probes.inversion.batches": 4,
}

# Copies of so few images cost nothing that can be measured, given the time to learn them. With logits held a little
# more would be kept, and more of the copies left. Answers alone do not bear the greater lr.
FOR_FEW = {
    "default": ForFew(
        16,
        {
            "variants": 2,
            "variant_images": None,
            "del_weight": 3.0,
            "settle": 250,
            "retention": "soft",
            "lr": 0.0025,
            "max_steps": 400,
        },
    ),
    "thorough": ForFew(
        16, {"del_weight": 6.0, "settle": 500, "retention": "soft", "lr": 0.0025, "max_steps": 1600}
    ),
}

# Without BatchNorm forgetting stands still at half where only the schedule's end raises the weights of images, at its
# least lr, and what they then break is not mended.
WITHOUT_BATCHNORM: dict[str, dict[str, Any]] = {
    "default": {"pressure": 0.05, "pressure_from": 0.0, "settle": 250, "max_steps": 2000},
}

# What the copies that are pushed leave of others goes with the margin; natural images bear the greater one.
WITH_UNLABELLED: dict[str, dict[str, Any]] = {"thorough": {"margin": 2.5}}

# Requests one after another: what copies and answers cost would add up.
IN_SEQUENCE: dict[str, dict[str, Any]] = {"default": {"variants": 0}}

PRESETS: dict[str, dict[str, Any]] = {
    "default": _DEFAULT,
    "thorough": _DEFAULT
    | {
        "variants": 2,
        "variant_images": None,
        "variants_of_many": True,
        "del_weight": 32.0,
        "hinge_mean": "all",
        "settle": 200,
    },
    "paper": {},
    "authors": {
        "path": "projector",
        "projector_init": "random",
        "stop_probe_accuracy": 0.5,
        "lr": 0.005,
        "projector_lr": 0.009,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "probe_batch": 128,
        "forget_batch": 128,
        "max_epochs": 100,
        "probes.epsilon": 3.0,
        "align_axis": "instance",
        "importance": "batch",
        "importance_probes": None,
    },
}
