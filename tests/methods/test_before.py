"""BEFORE changes nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from doubles import problem, same

from stakes.api import unlearn
from stakes.data.forget import ForgetSplit


def test_gives_the_model_back(tmp_path: Path) -> None:
    tiny = problem()
    result = unlearn(tiny.model, tiny.split, method="before", cache=tmp_path)
    assert same(result.classifier.exported_state(), tiny.model.exported_state())
    assert result.record.before == result.record.after
    assert (result.record.steps, result.record.stop_reason, result.record.forgotten) == (0, "finished", False)


def test_is_forgotten_only_where_the_model_never_knew(tmp_path: Path) -> None:
    tiny = problem()
    forget = tiny.split.forget
    pixels = forget.batch(slice(None))
    wrong = (tiny.model(pixels).argmax(1) + 1) % 3
    split = ForgetSplit(forget=type(forget).from_tensors(pixels, torch.as_tensor(wrong), forget.class_names))
    record = unlearn(tiny.model, split, method="before", cache=tmp_path).record
    assert record.forgotten
    assert record.already_misclassified == len(forget)
    assert record.stop_reason == "finished"
