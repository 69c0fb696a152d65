"""How much each attack spends: the one home of the audit's defaults.

They are chosen so that a whole audit of a ResNet-18 on 32 × 32 images takes minutes on a CPU.
"""

from __future__ import annotations

from pydantic import Field

from stakes.config import Settings


class ChangesSettings(Settings):
    """Everyday changes of the forget images."""

    images: int = Field(1000, ge=1, description="at most that many forget images")
    draws: int = Field(4, ge=1, description="times each change is drawn for each image")
    unseen: int = Field(
        256, ge=0, description="at most that many test images beside them: what no model has seen; 0: none"
    )


class MembershipSettings(Settings):
    """Membership attacks.

    ``offline_a`` and ``gamma`` are a and γ of RMIA; their values are those of its authors' own tool.
    """

    images: int = Field(2000, ge=2, description="at most that many forget images")
    unseen: int = Field(2000, ge=2, description="at most that many unseen images to tell them from")
    population: int = Field(1000, ge=1, description="at most that many other unseen images: RMIA's z")
    offline_a: float = Field(0.3, ge=0, le=1)
    gamma: float = Field(1.0, gt=0)
    folds: int = Field(5, ge=2, description="of the cross-validation")
    resamples: int = Field(999, ge=99, description="of the bootstrap behind the intervals")


class RelearningSettings(Settings):
    """Fine-tuning by Adam with BatchNorm statistics and dropout as in evaluation.

    Measured after each of the first 20 steps, then after every fifth.
    """

    images: int = Field(256, ge=1, description="at most that many forget images")
    lr: float = Field(3e-4, gt=0)
    batch: int = Field(32, ge=1)
    max_steps: int = Field(100, ge=1)
    retain_steps: int = Field(50, ge=1, description="steps on retained images alone")
    retain_batch: int = Field(64, ge=1)
    search: int = Field(2000, ge=1, description="unseen images searched for misclassified ones")


class ProbeSettings(Settings):
    """Linear probes of the layers."""

    images: int = Field(1000, ge=1, description="at most that many forget images, and as many unseen ones")
    train: int = Field(1000, ge=2, description="at most that many other images to fit on")
    layers: int = Field(12, ge=1, description="at most that many layers, evenly spread")
    width: int = Field(1024, ge=1, description="values a layer at most, by pooling")
    inverse_penalty: float = Field(0.1, gt=0, description="C of scikit-learn's LogisticRegression")


class DistanceSettings(Settings):
    """Distance to retrained models."""

    images: int = Field(1000, ge=1, description="at most that many images of each set")


class AuditSettings(Settings):
    """Limits of all attacks.

    Example:
        >>> AuditSettings().with_overrides({"changes.draws": 1}).changes.draws
        1
    """

    batch: int = Field(256, ge=1, description="images a forward pass")
    changes: ChangesSettings = ChangesSettings()
    membership: MembershipSettings = MembershipSettings()
    relearning: RelearningSettings = RelearningSettings()
    probe: ProbeSettings = ProbeSettings()
    distance: DistanceSettings = DistanceSettings()
