"""The script that forecasts how much of forgetting reaches others, by what is held in place."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from torch import nn

from stakes.methods.curvature import InputCurvature
from stakes.models import Classifier

SCRIPT = Path(__file__).parents[2] / "experiments" / "held_gradients.py"
NAMES = ("cat", "dog")


@pytest.fixture
def script(load_script: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return load_script(SCRIPT)


def kernel_of(points: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(points @ points.T)


def test_with_nothing_held_it_is_kernel_ridge_regression(script: Any) -> None:
    points = np.random.default_rng(0).normal(size=(9, 20))
    kernel = kernel_of(points)
    ridge = KernelRidge(alpha=script.NOISE * float(kernel.diagonal().mean())).fit(points[:4], np.ones(4))
    assert np.allclose(script.lowered(kernel, 4, 0).numpy(), ridge.predict(points))


def test_what_is_held_hard_stays_and_takes_its_like_along(script: Any, monkeypatch: Any) -> None:
    """Of three points, one to lower, one like the held one, one held: what they have in common is given up."""
    shared, own, apart = np.eye(3)
    points = np.stack([shared + own, shared + 0.1 * apart, shared])
    free = script.lowered(kernel_of(points), 1, 0)
    monkeypatch.setattr(script, "HOLD", 1e9)
    monkeypatch.setattr(script, "NOISE", 1e-9)
    held = script.lowered(kernel_of(points), 1, 1)
    assert held.tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    assert float(free[1]) > 0.4


def test_all_weights_give_the_inner_products_themselves(script: Any) -> None:
    """The logit of class 0 less the mean of two is (w₀ − w₁) · x / 2, whose gradient is (x, −x) / 2."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    model = Classifier.from_network(network, class_names=NAMES, input_size=(3, 2, 2)).eval()
    images = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    curvature = InputCurvature(model, [torch.zeros_like(images)], damping=0.1, draws=torch.Generator())
    kernel = script.Kernel(model, curvature)
    flat = images.flatten(1).double()
    assert torch.allclose(kernel.between(kernel.pulls(images, 0)), flat @ flat.T / 2, rtol=1e-5)


def test_it_tells_what_each_kind_holds(script: Any, home: Path, tmp_path: Path) -> None:
    words = ["--model", str(home / "model"), "--data", str(home / "data"), "--forget", "random:40"]
    words += ["--weights", "20000"]
    out = tmp_path / "found.json"
    script.main([*words, "--classes", "3", "8", "--out", str(out)])
    found, first = json.loads(out.read_text())["lowered"], out.read_bytes()
    assert set(found) == {"3", "8", "mean"}
    assert set(found["mean"]) == {"nothing", "inverted", "moved", "retained"}
    for kind, seen in product(found["mean"], ("copies", "retained")):
        pair = [found[name][kind][seen] for name in "38"]
        assert found["mean"][kind][seen] == pytest.approx(sum(pair) / 2, abs=2e-3)
    reached = {kind: found["mean"][kind]["retained"] for kind in found["mean"]}
    assert min(reached, key=reached.__getitem__) == "retained"
    assert max(reached, key=reached.__getitem__) == "nothing"
    script.main([*words, "--classes", "3", "8", "--out", str(out)])
    assert out.read_bytes() == first
    with pytest.raises(SystemExit, match=r"no classes of this model: \['cow'\]"):
        script.main([*words, "--classes", "cow", "--out", str(tmp_path / "none.json")])


def test_layers_by_name_count_alone(script: Any) -> None:
    """Of two layers in a row, the kernels of each make up that of both."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 5, bias=False), nn.Tanh(), nn.Linear(5, 2, bias=False)
    )
    model = Classifier.from_network(network, class_names=NAMES, input_size=(3, 2, 2)).eval()
    images = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    curvature = InputCurvature(model, [images], damping=0.1, draws=torch.Generator())

    def of(layers: list[str] | None) -> torch.Tensor:
        kernel = script.Kernel(model, curvature, layers=layers)
        found: torch.Tensor = kernel.between(kernel.pulls(images, 0))
        return found

    first, second, both = of(["body"]), of(["head"]), of(["body", "head"])
    assert torch.allclose(first + second, both)
    assert torch.equal(both, of(None))
    assert not torch.allclose(first, second)
    with pytest.raises(SystemExit, match=r"no layers that are trained have \['layer9'\] in their names"):
        of(["layer9"])


def test_a_request_that_it_can_tell_nothing_of_is_refused_before_work(
    script: Any, home: Path, tmp_path: Path
) -> None:
    words = [
        "--model",
        str(home / "model"),
        "--data",
        str(home / "data"),
        "--out",
        str(tmp_path / "none.json"),
    ]
    with pytest.raises(SystemExit, match="no class has two images to forget"):
        script.main([*words, "--forget", "random:1"])
    with pytest.raises(SystemExit, match="all images to forget are of class"):
        script.main([*words, "--forget", "class:3"])
