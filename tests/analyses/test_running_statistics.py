"""The experiment on running statistics, on a run whose figures are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2] / "experiments"))

import running_statistics

from stakes.opened import OpenedRun


def test_what_is_measured(finished: OpenedRun, tmp_path: Path) -> None:
    words = ["--run", str(finished.path), "--out", str(tmp_path / "found.json")]
    running_statistics.main(words)
    found = json.loads((tmp_path / "found.json").read_text())
    before, (after,) = found["before"], found["runs"]
    assert before["of_the_model_before"] == before["as_saved"], "its own"
    for row, figures in ((before, finished.record.before), (after, finished.record.after)):
        assert abs(row["as_saved"]["test"] - figures.test_accuracy) < 0.01
        assert abs(row["as_saved"]["retain"] - figures.retain_accuracy) < 0.01


def test_statistics_measured_anew_are_those_of_the_images(finished: OpenedRun) -> None:
    retain = finished.split.retain
    assert retain is not None
    images = retain.subset(torch.arange(200))
    state = {name: value.clone() for name, value in finished.after.named_buffers()}
    anew = running_statistics.measured_anew(finished.after, images)
    name, module = next(
        (name, module)
        for name, module in anew.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    )
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        anew(images.batch(torch.arange(200)))
    torch.testing.assert_close(module.running_mean, seen[0].mean(dim=(0, 2, 3)))
    torch.testing.assert_close(module.running_var, seen[0].var(dim=(0, 2, 3)))
    assert all(torch.equal(value, state[key]) for key, value in finished.after.named_buffers()), name
