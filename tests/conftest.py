"""Fixtures that many tests share."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from stakes import cli


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real data, checkpoints and anchors, or a skip that says why."""
    folder = Path(os.environ.get("STAKES_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "data" / "cifar10" / "train.parquet").is_file():
        pytest.skip(
            f"real data not found at {folder}; set STAKES_SHARED to the folder that holds data/cifar10"
        )
    return folder


@pytest.fixture(scope="session")
def load_script() -> Callable[[Path], ModuleType]:
    """Import a Python file that is part of no package."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh seeded generator."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run one command in this process: exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stakes", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def stakes_cli(command: Any) -> Any:
    """The same, with stdout read where it is JSON."""

    def run(*words: object) -> tuple[int, Any, str]:
        code, said, errors = command(*words)
        return code, json.loads(said) if "--json" in words and said else said, errors

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums round alike in workers and here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run on digits that nobody interrupted."""
    from api_runs import run

    folder = tmp_path_factory.mktemp("unbroken")
    return folder, run(folder / "cache", out=folder / "run")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits between two attempts to reach a hub."""
    monkeypatch.setattr("stakes.retry.PAUSES", (0.0, 0.0))


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal: a test run started in the background inherits a SIGINT that is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
