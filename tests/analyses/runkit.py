"""A small finished run on the digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import stakes
import tinydigits
from stakes.anchors import Anchors
from stakes.data.forget import split_forget
from stakes.models.checkpoint import save_checkpoint

SMALL = {
    "gallery": 300,
    "test_images": 120,
    "queries": 40,
    "maps": 6,
    "examples": 2,
    "neighbours": 3,
    "snapshot_images": 60,
}


def make_run(home: Path, forget: str, **changes: Any) -> Path:
    """Carry out a small run on the digits in ``home``, with the model beside it."""
    model = tinydigits.digits_model("resnet10")
    save_checkpoint(model, home / "model")
    Anchors(
        tinydigits.anchors().matrix,
        tinydigits.NAMES,
        {"descriptions": json.dumps({name: f"the shape of a {name}" for name in tinydigits.NAMES})},
    ).save(home / "anchors.safetensors")
    split = split_forget(
        forget, stakes.open_source("digits"), class_names=model.class_names, size=model.input_size
    )
    stakes.unlearn(
        model,
        split,
        **({"method": "neggrad", "settings": {"lr": 0.003, "max_steps": 12}} | changes),
        out=home / "run",
        request={"model": str(home / "model"), "data": "digits", "forget": forget},
        device="cpu",
    )
    return home / "run"
