"""Fifty kills at random moments of all phases: nothing is lost, and nothing that comes out is different."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import faultkit
import pytest
from killer import PHASES

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")


def test_killed_at_fifty_moments_and_resumed(tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("killer.py"), tmp_path / "kills", "--times", "50"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["kills"] == 50
    assert set(told["by_phase"]) == set(PHASES), told
    assert (told["lost"], told["changed"]) == (0, 0), done.stderr


@pytest.mark.parametrize("name", ["model.safetensors", "history.jsonl", "record.json"])
def test_a_change_would_be_seen(tmp_path, name):
    faultkit.run(tmp_path)
    before = faultkit.contents(tmp_path / "run")
    path = tmp_path / "run" / name
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"steps": 4', b'"steps": 3') if name == "record.json" else raw[:-1] + b"\0")
    assert faultkit.contents(tmp_path / "run") != before
