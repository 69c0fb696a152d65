"""The notebook runs from top to bottom, shows what it says, and is kept with the outputs of such a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parents[1] / "examples" / "stakes_on_digits.ipynb"
nbformat = pytest.importorskip("nbformat", reason="extra 'test' is not installed")


def said(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def figures(text: str) -> dict[str, tuple[float, float]]:
    found = re.findall(r"^(test|retain|forget) +([\d.]+)% +([\d.]+)%$", text, re.MULTILINE)
    return {name: (float(before), float(after)) for name, before, after in found}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook, executed in an empty folder."""
    client = pytest.importorskip("nbclient", reason="extra 'test' is not installed")
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(PATH, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        resources = {"metadata": {"path": str(folder)}}
        client.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    return notebook


def test_it_forgets_and_keeps(run: Any) -> None:
    text = said(run)
    assert "Forgotten: all 16 images" in text
    found = figures(text)
    assert found["forget"] == (100.0, 0.0)
    assert found["test"][1] > 85
    assert found["retain"][1] > 90
    pictures = [o for c in run.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 6


def test_it_is_kept_with_the_outputs_of_such_a_run() -> None:
    kept = nbformat.read(PATH, as_version=4)
    nbformat.validate(kept)
    assert figures(said(kept))["forget"] == (100.0, 0.0)
    text = PATH.read_text()
    assert "/home/" not in text
    assert "/work" not in text
    assert "Traceback" not in text
