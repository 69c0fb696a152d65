"""A model of the digits, grids on it, and ways to run them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchkit import PLUGIN, Make, Write, digits_grid, save_anchors

import stakes
from stakes import cli
from stakes.bench.grid import load_grid
from stakes.models.recipe import recipe
from stakes.training import train_checkpoint

# The contract that an outside method checks itself against lies with the methods' tests.
sys.path.append(str(Path(__file__).parents[1] / "methods"))


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint trained on the handwritten digits."""
    out = tmp_path_factory.mktemp("bench") / "model"
    settings = recipe("demo").with_overrides({"epochs": 2})
    train_checkpoint(
        stakes.open_source("digits"), out, architecture="resnet10", options={"width": 4}, settings=settings
    )
    return out


@pytest.fixture(scope="session")
def digits_anchors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Anchors of the digits as a file."""
    return save_anchors(tmp_path_factory.mktemp("anchors") / "digits.safetensors")


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A method that can be caught in the act, and one that fails as long as a file is not there."""
    path = tmp_path_factory.mktemp("plugin") / "mine.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def write(tmp_path: Path, digits_model: Path, digits_anchors: Path) -> Write:
    """Write a grid on the digits with changes, and give its path."""

    def make(*, name: str = "grid", **changes: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(digits_grid(digits_model, digits_anchors, **changes)))
        return path

    return make


@pytest.fixture
def grid_of(write: Write) -> Make:
    """The same, read."""
    return lambda **changes: load_grid(write(**changes))


@pytest.fixture
def stakes_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run one command in this process: exit code, stdout (read where it is JSON), stderr."""

    def run(*words: object) -> tuple[int, Any, str]:
        monkeypatch.setattr(sys, "argv", ["stakes", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        out = json.loads(said.out) if "--json" in words and said.out else said.out
        return int(left.value.code or 0), out, said.err

    return run
