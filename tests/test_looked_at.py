"""Retained images that a run measures are the only ones it decodes, where its method trains on none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stakes.api import unlearn
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.data.stores import EncodedStore
from stakes.evaluator import sampled
from stakes.opened import open_run
from stakes.records import Record
from stakes.unlearning import Unlearned
from tinydigits import FEW_PROBES, NAMES, SIZE, anchors, digits_model, known, sets

FEW = FEW_PROBES | {"max_steps": 2, "probe_batch": 6}


class Watched:
    """Digits as files, and which of them were read."""

    def __init__(self, count: int = 60) -> None:
        images = sets()[0].subset(range(100, 100 + count))
        pixels = images.batch(slice(None)).mul(255).round().byte()
        self.read: set[int] = set()
        files = [self._file(one) for one in pixels]

        def open_file(row: int) -> bytes:
            self.read.add(row)
            return files[row]

        store = EncodedStore(open_file, lambda row: f"digit {row}", count)
        self.images = ImageSet(store, images.labels, NAMES, SIZE)

    @staticmethod
    def _file(pixels: torch.Tensor) -> bytes:
        made = io.BytesIO()
        Image.fromarray(pixels[0].numpy()).save(made, "png")
        return made.getvalue()


def run(retain: ImageSet, cache: Path, **call: Any) -> Unlearned:
    wanted = {"settings": FEW, "preset": "paper", "anchors": anchors(), "device": "cpu", "seed": 3} | call
    split = ForgetSplit(known().subset(range(3)), retain=retain)
    return unlearn(digits_model(), split, cache=cache, **wanted)


def test_no_more_than_the_sample_is_decoded(tmp_path: Path) -> None:
    watched = Watched()
    record = run(watched.images, tmp_path, retain_sample=7, out=tmp_path / "run").record
    assert len(watched.read) == record.after.retain_images == 7
    assert record.hashes.retain_set == sampled(watched.images, 7, 3).fingerprint()
    whole = run(watched.images, tmp_path).record
    assert len(watched.read) == whole.after.retain_images == 60
    assert whole.hashes.retain_set == watched.images.fingerprint()


def test_a_method_that_trains_on_them_is_given_all(tmp_path: Path) -> None:
    watched = Watched()
    call = {"method": "oracle-finetune", "preset": None, "settings": {"max_steps": 2}, "anchors": None}
    record = run(watched.images, tmp_path, retain_sample=7, **call).record
    assert record.after.retain_images == 7
    assert record.hashes.retain_set == watched.images.fingerprint()


def test_the_same_sample_whatever_was_left_out_before() -> None:
    images = Watched().images
    once = sampled(images, 7, 3)
    assert sampled(once, 7, 3).fingerprint() == once.fingerprint()
    assert sampled(images, 7, 4).fingerprint() != once.fingerprint()
    assert sampled(images, None, 3) is images


@pytest.mark.parametrize("kind", ["sample", "whole", "another"])
def test_a_run_is_opened_with_its_retain_set(kind: str, stakes_cli: Any, tmp_path: Path) -> None:
    """Also one whose record has the hash of all retained images, as records had before there were samples in them."""
    from stakes.models import save_checkpoint

    save_checkpoint(digits_model("resnet10"), tmp_path / "model")
    words = ["--data", "digits", "--forget", "random:3", "--retain-sample", "9", "--preset", "paper"]
    sets_ = [word for key, value in FEW.items() for word in ("--set", f"{key}={value}")]
    code, _, err = stakes_cli(
        "unlearn", "--model", tmp_path / "model", *words, *sets_, "--out", tmp_path / "run"
    )
    assert code in (0, 3), err
    path = tmp_path / "run" / "record.json"
    record = Record.load(path)
    whole = open_run(tmp_path / "run", device="cpu").split.retain
    assert whole is not None
    assert len(whole) > 1000
    if kind != "sample":
        other = whole.fingerprint() if kind == "whole" else "0" * 64
        hashes = record.hashes.model_copy(update={"retain_set": other})
        record.model_copy(update={"hashes": hashes}).save(path)
    opened = open_run(tmp_path / "run", device="cpu")
    assert (opened.split.retain is None) == bool(opened.notes) == (kind == "another")
