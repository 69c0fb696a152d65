"""The grids that ship can all be read and counted, without data, without a machine's paths."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stakes.bench.ablations import PUBLISHED_ROWS
from stakes.bench.cells import configured, expand
from stakes.bench.grid import load_grid
from stakes.bench.plugins import Registry
from stakes.bench.published import PUBLISHED, WHOLE
from stakes.methods import METHODS
from stakes.tune.plan import load_plan, space_of

HERE = Path(__file__).parents[2] / "experiments"
PLANS = sorted(HERE.glob("tune-*.yaml"))
GRIDS = sorted(set(HERE.glob("*.yaml")) - set(PLANS))
TABLES = [path for path in GRIDS if path.name.startswith(("table2", "table3"))]
VARIANTS = [path for path in GRIDS if path.name.startswith(("table4", "table5", "table6"))]


def test_they_are_there() -> None:
    names = {
        "table2-cifar10",
        "table2-cifar100",
        "table2-imagenet",
        "table3-lacuna10",
        "table3-faces10",
        "table4-cifar10",
        "table5-cifar10",
        "table6-cifar10",
        "smoke",
    }
    assert names <= {path.stem for path in GRIDS}


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_dry_run(path: Path, stakes_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STAKES_SHARED", "STAKES_DIGITS_MODEL", "CHARACTERS", "FASHION"):
        monkeypatch.delenv(name, raising=False)
    code, found, err = stakes_cli("bench", path, "--dry-run", "--json")
    assert code == 0, err
    assert found["total"][0] > 0
    assert len({cell["cell"] for cell in found["cells"]}) == len(found["cells"])
    for cell in found["cells"]:
        assert (cell["most_steps"] == 0) == cell["cell"].startswith("before_")
        assert cell["evaluate"][0] > 0


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_grids_of_the_tables_ask_for_what_the_tables_show(path: Path) -> None:
    grid = load_grid(path)
    published = PUBLISHED[str(grid.data[0].published)]
    assert path.stem.startswith(published.table)
    assert grid.k == published.k
    assert len(grid.seeds) >= 3
    cells = expand(grid)
    assert {cell.method.name for cell in cells} == set(METHODS)
    assert {cell.preset for cell in cells if cell.method.name == "structguard"} >= {"paper", "authors"}


REPORTED = {"cifar10": "table2-cifar10", "faces10": "table3-faces10", "digits": "small-digits"}


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_plans_tune_what_the_tables_show_on_other_requests(path: Path) -> None:
    plan = load_plan(path)
    (data,) = plan.data
    reported = load_grid(HERE / f"{REPORTED[data.name]}.yaml")
    assert not set(plan.seeds) & set(reported.seeds)
    for entry in plan.methods:
        assert space_of(entry, configured(plan, entry, Registry()))


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_the_grids_of_variants_have_the_published_rows(path: Path) -> None:
    grid = load_grid(path)
    published = PUBLISHED_ROWS[path.stem.partition("-")[0]][str(grid.data[0].published)]
    rows = {cell.entry.row for cell in expand(grid)}
    *others, last = published.values["test"]
    assert rows == {"before", *others, WHOLE}, "the last row is the whole method"
    assert published.value("test", last, 256) == published.value("test", WHOLE, 256)
    assert (grid.k, grid.seeds) == (published.k, (0, 1, 2))


def test_variants_differ_in_what_their_names_say() -> None:
    def settings(table: str) -> dict[str, Any]:
        cells = expand(load_grid(HERE / f"{table}-cifar10.yaml"), seed=0)
        return {cell.entry.row: cell.method.settings.model_dump() for cell in cells}

    def changed(table: str) -> dict[str, dict[str, Any]]:
        found = settings(table)
        rest = {row: one for row, one in found.items() if row not in ("before", WHOLE, "l2ul")}
        return {row: {k: v for k, v in one.items() if v != found[WHOLE][k]} for row, one in rest.items()}

    assert changed("table5") == {
        "no-alignment": {"align_weight": 0.0},
        "no-regularisation": {"reg_weight": 0.0},
        "no-head-penalty": {"head_weight": 0.0},
    }
    losses = changed("table6")
    assert losses.pop("kl") == {"align": "kl", "importance_after": 3}, (
        "later, for the reason that the grid tells"
    )
    assert losses == {name: {"align": name} for name in ("mse", "mmd", "wasserstein")}
    assert changed("table4") == {"visual": {}}
    anchors = {
        cell.entry.row: cell.request.get("anchors")
        for cell in expand(load_grid(HERE / "table4-cifar10.yaml"), seed=0)
    }
    assert anchors["visual"] == "prototypes"
    assert str(anchors[WHOLE]).endswith("clip-vit-b-32.safetensors")


def test_a_dry_run_is_for_people_too(stakes_cli: Any) -> None:
    code, said, _ = stakes_cli("bench", HERE / "table3-faces10.yaml", "--dry-run", "--seed", 1)
    assert code == 0
    assert "structguard-authors_k64_s1-" in said
    assert "_s0-" not in said
    # The largest forget set's 64 images, 300 probes each, 100 steps.
    assert f"{64 * 300 * 100:,}" in said


def test_running_without_data_says_what_is_missing(
    stakes_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STAKES_SHARED", raising=False)
    code, _, err = stakes_cli("bench", HERE / "table2-cifar100.yaml", "--out", tmp_path / "out")
    assert code == 2
    assert "STAKES_SHARED" in err
    monkeypatch.setenv("STAKES_SHARED", str(tmp_path))
    code, _, err = stakes_cli("bench", HERE / "table2-cifar100.yaml", "--out", tmp_path / "out")
    assert code == 2
    assert "data/cifar100" in err
    assert not (tmp_path / "out").exists()
    code, _, err = stakes_cli("bench", HERE / "table2-cifar100.yaml")
    assert (code, "--out" in err) == (2, True)


def test_the_tables_of_the_documentation_are_those_of_the_records() -> None:
    """Every figure in them is made from a committed record by the script that the page names."""
    done = subprocess.run(
        [sys.executable, HERE / "render_tables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"run experiments/render_tables.py: {done.stdout}{done.stderr}"


def test_a_changed_figure_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    render_tables = importlib.import_module("render_tables")
    page = (HERE.parent / "README.md").read_text(encoding="utf-8")
    assert render_tables.filled(page) == page
    changed = re.sub(r"(?<=\| `paper` \| 16 \| 3 \| )\d+\.\d+", "84.38", page, count=1)
    assert changed != page
    assert render_tables.filled(changed) == page
    first, second = (f"<!-- table {name} -->\n<!-- /table -->\n" for name in ("speed", "milestones"))
    empty = f"before\n{first}between\n{second}after\n"
    made = render_tables.filled(empty)
    assert made.startswith("before\n<!-- table speed -->\n| phase |")
    assert "<!-- /table -->\nbetween\n<!-- table milestones -->\n| k |" in made
    assert made.endswith("<!-- /table -->\nafter\n")
    with pytest.raises(SystemExit, match="table speed: its end"):
        render_tables.filled(empty.replace("<!-- /table -->", "", 1))
