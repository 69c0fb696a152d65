"""stakes: make a trained image classifier forget named training images, and keep everything else it knows.

    >>> import stakes
    >>> result = stakes.unlearn(model, (pixels, labels), class_names=names)  # doctest: +SKIP
    >>> result.record.forget_accuracy                                      # doctest: +SKIP
    0.0

Names are imported when first used, so ``import stakes`` itself is fast and loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stakes.anchors import Anchors, build_anchors
    from stakes.api import evaluate, unlearn
    from stakes.data.forget import ForgetSplit, split_forget
    from stakes.data.images import ImageSet
    from stakes.data.sources import open_source
    from stakes.errors import StakesError
    from stakes.inputs import as_classifier
    from stakes.models.checkpoint import load_checkpoint, save_checkpoint
    from stakes.models.classifier import Classifier
    from stakes.records import Figures, Record
    from stakes.unlearning import Unlearned

__version__ = "0.1.0"

_HOME = {
    "Anchors": "stakes.anchors",
    "Classifier": "stakes.models.classifier",
    "Figures": "stakes.records",
    "ForgetSplit": "stakes.data.forget",
    "ImageSet": "stakes.data.images",
    "Record": "stakes.records",
    "StakesError": "stakes.errors",
    "Unlearned": "stakes.unlearning",
    "as_classifier": "stakes.inputs",
    "build_anchors": "stakes.anchors",
    "evaluate": "stakes.api",
    "load_checkpoint": "stakes.models.checkpoint",
    "open_source": "stakes.data.sources",
    "save_checkpoint": "stakes.models.checkpoint",
    "split_forget": "stakes.data.forget",
    "unlearn": "stakes.api",
}

__all__ = [
    "Anchors",
    "Classifier",
    "Figures",
    "ForgetSplit",
    "ImageSet",
    "Record",
    "StakesError",
    "Unlearned",
    "__version__",
    "as_classifier",
    "build_anchors",
    "evaluate",
    "load_checkpoint",
    "open_source",
    "save_checkpoint",
    "split_forget",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stakes' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
