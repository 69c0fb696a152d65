"""The public face: every name imports, is documented, and costs nothing until it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import stakes


@pytest.mark.parametrize("name", [name for name in stakes.__all__ if name != "__version__"])
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(stakes, name)
    assert not inspect.ismodule(value), "a module hides the public name"
    assert (inspect.getdoc(value) or "").strip()


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = stakes.nonsense  # type: ignore[attr-defined]


def test_names_stay_functions_after_everything_is_imported() -> None:
    code = (
        "import stakes, stakes.api, stakes.cli, stakes.bench\n"
        "assert callable(stakes.evaluate) and callable(stakes.unlearn)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, stakes\n"
        "heavy = {'torch', 'numpy', 'transformers', 'sentence_transformers', 'datasets', 'matplotlib', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['stakes', *sys.argv[1:]]\n"
        "from stakes.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as left:\n"
        "    assert not left.code, left.code\n"
        "heavy = {'torch', 'numpy', 'transformers', 'datasets', 'matplotlib', 'sklearn', 'accelerate', 'ray'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    for words in (["--help"], ["unlearn", "--help"]):
        subprocess.run([sys.executable, "-c", code, *words], check=True, stdout=subprocess.DEVNULL)
