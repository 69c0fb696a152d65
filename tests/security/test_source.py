"""What the source may not do: run what a file says, load pickles, or take names for paths."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stakes

SOURCES = sorted(Path(stakes.__file__).parent.rglob("*.py"))
FORBIDDEN = {
    *("eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "joblib.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.hub.load", "shelve.open", "marshal.loads"),
    *("tarfile.open", "zipfile.ZipFile", "shutil.unpack_archive", "subprocess.call", "subprocess.getoutput"),
}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the source: its file with line, and the call."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{path.name}:{node.lineno}", node


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {word.arg: word.value for word in call.keywords if word.arg}


def constant(value: ast.expr | None) -> object:
    return value.value if isinstance(value, ast.Constant) else None


def test_nothing_runs_what_a_file_says():
    assert [
        (where, ast.unparse(call.func)) for where, call in calls() if ast.unparse(call.func) in FORBIDDEN
    ] == []


def test_torch_loads_weights_only():
    found = [(where, call) for where, call in calls() if ast.unparse(call.func) == "torch.load"]
    assert len(found) >= 3
    assert [where for where, call in found if constant(keywords(call).get("weights_only")) is not True] == []


def test_no_foreign_code_is_trusted():
    given = [(where, keywords(call).get("trust_remote_code")) for where, call in calls()]
    assert [where for where, value in given if value is not None and constant(value) is not False] == []
    loads = [keywords(call) for _, call in calls() if ast.unparse(call.func).endswith("np.load")]
    assert all(constant(words.get("allow_pickle")) in (None, False) for words in loads)


def test_no_shell():
    assert [where for where, call in calls() if constant(keywords(call).get("shell")) is True] == []


@pytest.mark.parametrize(
    "bad", ["eval('1')", "torch.load(p)", "f(trust_remote_code=True)", "run(c, shell=True)"]
)
def test_these_would_be_found(bad, monkeypatch, tmp_path):
    """The control."""
    (tmp_path / "bad.py").write_text(bad)
    monkeypatch.setattr("test_source.SOURCES", [tmp_path / "bad.py"])
    checks = (
        test_nothing_runs_what_a_file_says,
        test_torch_loads_weights_only,
        test_no_foreign_code_is_trusted,
    )
    failed = 0
    for check in (*checks, test_no_shell):
        try:
            check()
        except AssertionError:
            failed += 1
    assert failed >= (2 if "torch.load" not in bad else 1)
