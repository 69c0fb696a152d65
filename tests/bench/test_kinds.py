"""The script that makes images which are less and less like those a model was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stakes.models import Classifier, build_network, save_checkpoint

SCRIPT = Path(__file__).parents[2] / "experiments" / "kinds.py"
NAMES = ("cat", "dog")


@pytest.fixture
def script(load_script: Any) -> Any:
    return load_script(SCRIPT)


def pictures(folder: Path, low: int, high: int) -> str:
    draws = np.random.default_rng(low)
    for split in ("train", "test"):
        for name in NAMES:
            (folder / split / name).mkdir(parents=True)
            for row in range(6):
                pixels = draws.integers(low, high, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{row}.png")
    return str(folder)


def test_folders_and_how_far_each_is(script: Any, tmp_path: Path) -> None:
    own, other = pictures(tmp_path / "own", 0, 120), pictures(tmp_path / "other", 100, 255)
    torch.manual_seed(0)
    model = Classifier.from_network(
        build_network("resnet10", num_classes=2, width=4), class_names=NAMES, input_size=(3, 8, 8)
    )
    save_checkpoint(model, tmp_path / "model")
    out = tmp_path / "kinds"
    words = ["--data", own, "--other", other, "--model", str(tmp_path / "model"), "--out", str(out)]
    script.main([*words, "--images", "10"])
    counts = {folder.name: len(list(folder.glob("*.png"))) for folder in out.iterdir() if folder.is_dir()}
    assert counts.pop("one") == counts.pop("half") == 6  # of two classes, half is one
    assert counts == dict.fromkeys(("test", "gray", "dark", "blur", "bgr", "mix", "other"), 10)
    shifts = json.loads((out / "shift.json").read_text())
    assert shifts.keys() == {*counts, "one", "half"}
    assert all(shift > 0 for shift in shifts.values())

    def mean(kind: str) -> Any:
        return np.mean([np.asarray(Image.open(path)) for path in (out / kind).iterdir()], axis=(0, 1, 2))

    assert mean("bgr") == pytest.approx(mean("test")[::-1])
    assert mean("dark") == pytest.approx(mean("test") / 2, abs=0.5)
    assert mean("mix").sum() > 1.5 * mean("test").sum()
