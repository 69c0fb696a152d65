"""A model of the digits, grids on it, and ways to run them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchkit import PLUGIN, Make, Write, digits_grid, make_home

from stakes.bench.grid import load_grid

# The contract that an outside method checks itself against lies with the methods' tests.
sys.path.append(str(Path(__file__).parents[1] / "methods"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, model and anchors."""
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A method that can be caught in the act, and one that fails as long as a file is not there."""
    path = tmp_path_factory.mktemp("plugin") / "mine.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def write(tmp_path: Path, home: Path) -> Write:
    """Write a grid on the digits with changes, and give its path."""

    def make(*, name: str = "grid", **changes: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(digits_grid(home, **changes)))
        return path

    return make


@pytest.fixture
def grid_of(write: Write) -> Make:
    """The same, read."""
    return lambda **changes: load_grid(write(**changes))
