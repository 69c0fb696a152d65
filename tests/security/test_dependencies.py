"""`make audit`: known vulnerabilities fail the build, a database out of reach does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {"name": "numpy", "version": "1.0", "vulns": []}
BAD = {"name": "pillow", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.0"]}]}
SKIPPED = {"name": "torch", "skip_reason": "not found"}


def run(tmp_path: Path, *, out: str = "", err: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    tool = tmp_path / "pip-audit"
    script = f"import sys; sys.stdout.write({out!r}); sys.stderr.write({err!r}); sys.exit({code})"
    tool.write_text(f"#!{sys.executable}\n{script}\n")
    tool.chmod(0o755)
    return audit(tool, tmp_path)


def audit(tool: Path, environment: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, ROOT / "tools" / "audit.py", "--tool", tool, "--environment", environment]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_nothing_known(tmp_path):
    done = run(tmp_path, out=json.dumps({"dependencies": [CLEAN, SKIPPED]}))
    assert done.returncode == 0
    assert "1 packages audited, 0 with known vulnerabilities" in done.stdout
    assert "torch: not found" in done.stdout, "what could not be judged is told"


def test_a_database_that_knows_nothing_is_no_audit(tmp_path):
    done = run(tmp_path, out=json.dumps({"dependencies": [SKIPPED]}))
    assert done.returncode == 0
    assert done.stdout.startswith("Not audited: the database that can be reached here knows none")


def test_a_known_vulnerability_fails(tmp_path):
    done = run(tmp_path, out=json.dumps({"dependencies": [CLEAN, BAD]}), code=1)
    assert done.returncode == 1
    assert "pillow 1.0: CVE-1 (mended in 2.0)" in done.stdout


@pytest.mark.parametrize(
    "err", ["ConnectionError: Max retries exceeded", "Temporary failure in name resolution"]
)
def test_a_database_out_of_reach_does_not_fail_but_says_so(tmp_path, err):
    done = run(tmp_path, err=f"ERROR:pip_audit._cli:{err}", code=1)
    assert done.returncode == 0
    assert "Not audited: the database of vulnerabilities cannot be reached" in done.stdout


def test_without_the_tool(tmp_path):
    done = audit(tmp_path / "nowhere", tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("Not audited")


def test_a_defect_of_the_tool_fails(tmp_path):
    assert run(tmp_path, err="Traceback: KeyError", code=2).returncode == 2
