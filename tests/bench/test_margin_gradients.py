"""The script that says how far a step on one image carries to others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stakes.methods.curvature import InputCurvature
from stakes.models import Classifier, build_network, save_checkpoint

SCRIPT = Path(__file__).parents[2] / "experiments" / "margin_gradients.py"
NAMES = ("cat", "dog")


@pytest.fixture
def script(load_script: Any) -> Any:
    return load_script(SCRIPT)


def test_of_a_linear_model_it_is_the_cosine_of_the_images(script: Any) -> None:
    """The margin of label 0 is (w₀ − w₁) · x, whose gradient is (x, −x)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    model = Classifier.from_network(network, class_names=NAMES, input_size=(3, 2, 2)).eval()
    images = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    curvature = InputCurvature(model, [images], damping=0.1, draws=torch.Generator())
    found = list(script.Spared(model, curvature, script.margin).of(images, 0))
    one, other = script.unconditioned({"forget": found})["forget"]
    wanted = torch.cosine_similarity(images[0].flatten(), images[1].flatten(), dim=0)
    assert script.cosine(one, other) == pytest.approx(float(wanted), abs=1e-6)
    assert script.cosine(one, one) == pytest.approx(1.0, abs=1e-6)


def test_an_image_moves_with_its_copy_more_than_with_others(script: Any, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for split, name, row in ((s, n, r) for s in ("train", "test") for n in NAMES for r in range(6)):
        folder = tmp_path / "data" / split / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{row}.png")
    torch.manual_seed(0)
    network = build_network("resnet10", num_classes=2, width=4)
    save_checkpoint(
        Classifier.from_network(network, class_names=NAMES, input_size=(3, 8, 8)), tmp_path / "model"
    )
    words = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--forget", "random:6"]
    script.main([*words, "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    script.main([*words, "--out", str(tmp_path / "again.json")])
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "found.json").read_bytes()
    for metric in ("plain", "preconditioned"):
        assert all(-1 <= value <= 1 for value in found[metric].values())
        assert found[metric]["forget, its own copy"] > found[metric]["forget, forget"]
    assert found["plain"] != found["preconditioned"]
