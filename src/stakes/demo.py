"""The demonstration: the whole path on scikit-learn's handwritten digits, without a network."""

from __future__ import annotations

from pathlib import Path

from stakes.anchors import build_anchors
from stakes.api import unlearn
from stakes.config import Device, Precision
from stakes.data.forget import split_forget
from stakes.data.sources import open_source
from stakes.models.checkpoint import load_checkpoint
from stakes.models.recipe import recipe
from stakes.progress import Progress, silent
from stakes.records import Record
from stakes.report.page import write_page
from stakes.training import train_checkpoint

FORGET = "random:16"


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
    progress: Progress = silent,
) -> tuple[Record, Path]:
    """Train a small classifier, forget 16 random training images with StructGuard, measure the reloaded model.

    Returns:
        The record and the run folder ``out/run``; the BEFORE model stays in ``out/model``.
    """
    source = open_source("digits")
    train_checkpoint(
        source,
        out / "model",
        architecture="resnet10",
        options={"width": 16},
        settings=recipe("demo"),
        preset="demo",
        seed=seed,
        device=device,
        progress=progress,
    )
    classifier = load_checkpoint(out / "model")
    split = split_forget(
        FORGET, source, class_names=classifier.class_names, size=classifier.input_size, seed=seed
    )
    result = unlearn(
        classifier,
        split,
        anchors=build_anchors(classifier.class_names),
        out=out / "run",
        cache=out / "cache",
        request={"data": "digits", "model": "model", "forget": FORGET},
        progress=progress,
        seed=seed,
        device=device,
        precision=precision,
    )
    write_page(out / "run")
    return result.record, out / "run"
