"""Calls of :func:`stakes.api.unlearn` on digits, for the tests of what it gives, resumes and refuses."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from stakes.api import unlearn
from stakes.unlearning import Unlearned
from tinydigits import FEW_PROBES, anchors, digits_model, split

SETTINGS = FEW_PROBES | {
    "probe_batch": 4,
    "forget_batch": 2,
    "max_steps": 200,
    "importance_after": 1,
    "lr": 0.003,
}


def run(cache: Path, **call: Any) -> Unlearned:
    model = call.pop("model") if "model" in call else digits_model("resnet10")
    forget = call.pop("forget") if "forget" in call else split()
    given = {"anchors": anchors(), "settings": SETTINGS, "device": "cpu", "measure_every": 2} | call
    if given.get("method", "structguard") == "structguard":
        given.setdefault("preset", "paper")
    return unlearn(model, forget, cache=cache, **given)


def model_bytes(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def interrupt(phase: str, at: int) -> Any:
    """A progress callback that presses Ctrl-C."""

    def progress(now: str, done: int, total: int, **_: float) -> None:
        if now == phase and done == at:
            signal.raise_signal(signal.SIGINT)

    return progress
