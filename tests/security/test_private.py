"""Run folders and caches hold images of people, or what gives them away: nobody but the owner may look."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

import tinydigits
from stakes.api import unlearn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders there have no modes")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def open_to_others(folder: Path) -> list[Path]:
    """Files that somebody else can reach: no folder above them, from here on, keeps others out."""
    found = []
    for path in folder.rglob("*"):
        chain = [path, *(p for p in path.parents if p.is_relative_to(folder))]
        if path.is_file() and all(stat.S_IMODE(p.stat().st_mode) & 0o007 for p in chain):
            found.append(path)
    return found


@pytest.mark.parametrize(
    ("preset", "few"), [("default", tinydigits.FEW_INVERTED), ("paper", tinydigits.FEW_PROBES)]
)
def test_nobody_else_gets_in(umask, tmp_path, preset, few):
    watched: list[Path] = []

    def progress(phase: str, done: int, total: int, **figures: float) -> None:
        watched.extend(open_to_others(tmp_path))

    os.chmod(tmp_path, 0o777)
    unlearn(
        tinydigits.digits_model("resnet10"),
        tinydigits.split(2),
        anchors=tinydigits.anchors(),
        device="cpu",
        preset=preset,
        settings=few | {"max_steps": 2},
        out=tmp_path / "run",
        cache=tmp_path / "cache",
        checkpoint_seconds=1e-9,
        progress=progress,
    )
    assert watched == [], "not even for a moment"
    assert open_to_others(tmp_path) == []
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    for folder in [*(tmp_path / "cache" / "probes").iterdir(), tmp_path / "cache" / "predictions"]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_this_would_be_seen(tmp_path):
    os.chmod(tmp_path, 0o777)
    (tmp_path / "open").mkdir(mode=0o755)
    os.chmod(tmp_path / "open", 0o755)
    (tmp_path / "open" / "x").write_text("x")
    os.chmod(tmp_path / "open" / "x", 0o644)
    assert open_to_others(tmp_path) == [tmp_path / "open" / "x"]
