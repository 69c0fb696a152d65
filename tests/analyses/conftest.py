"""A finished run on the digits, opened once, and ways to look at it."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "methods"))

from runkit import SMALL, make_run

from stakes.analyses import AnalysisSettings
from stakes.analyses.context import Context
from stakes.opened import OpenedRun, open_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> OpenedRun:
    """A run that forgot eight random digits; do not write into its folder."""
    return open_run(make_run(tmp_path_factory.mktemp("home"), "random:8"), device="cpu")


@pytest.fixture
def run(finished: OpenedRun, tmp_path: Path) -> OpenedRun:
    """The same run in a folder of its own."""
    shutil.copytree(finished.path, tmp_path / "run")
    return dataclasses.replace(finished, path=tmp_path / "run")


@pytest.fixture
def context(run: OpenedRun) -> Context:
    """The run under analysis, with small samples and the anchors beside its model."""
    return Context(
        run,
        AnalysisSettings().with_overrides(SMALL),
        Path(run.record.request["model"]).parent / "anchors.safetensors",
    )


@pytest.fixture
def unchanged(context: Context) -> Context:
    """A run whose unlearned model is the original: the negative control."""
    context.run = dataclasses.replace(context.run, after=context.run.before)
    return context
