"""The script that compares requests one after another with all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from doubles import problem
from ledgerkit import source

import stakes
from stakes.models import save_checkpoint

SCRIPT = Path(__file__).parents[2] / "experiments" / "sequential.py"


@pytest.fixture
def script(load_script: Any) -> Any:
    return load_script(SCRIPT)


def test_writes_what_happened_and_resumes(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stakes, "open_source", lambda *_, **__: source())
    save_checkpoint(problem("resnet10").model, tmp_path / "model")
    words = [
        "--model",
        tmp_path / "model",
        "--data",
        "tiny",
        "--work",
        tmp_path / "work",
        "--out",
        tmp_path / "out.json",
    ]
    words += ["--requests", 3, "--images", 2, "--method", "random-label", "--device", "cpu"]
    words += ["--set", "lr=0.003", "--set", "batchnorm=freeze", "--set", "max_epochs=60", "--test", 7]
    script.main([*map(str, words), "--half", "together"])
    half = json.loads((tmp_path / "out.json").read_text())
    assert (half["sequential"], [row["requests"] for row in half["together"]]) == ([], [[1, 2, 3]])
    script.main([str(word) for word in words])
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["requests"] for row in found["sequential"]] == [[1], [2], [3]]
    assert found["together"] == half["together"]
    for row in (*found["sequential"], *found["together"]):
        assert row["outcome"] == "done"
        assert row["after"]["test_images"] == 7
        assert row["steps"] > 0
    asked = [
        [
            request.images
            for request in stakes.ledger.open_ledger(tmp_path / "work" / name).view().requests.values()
        ]
        for name in ("sequential", "together")
    ]
    assert asked[0] == asked[1]
    assert len({name for images in asked[0] for name in images}) == 6
    script.main([str(word) for word in words])
    assert json.loads((tmp_path / "out.json").read_text()) == found
