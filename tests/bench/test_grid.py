"""Grid files: what they say, and what they get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchkit import Make

from stakes.bench.cells import expand
from stakes.bench.grid import Grid, load_grid
from stakes.bench.plugins import load_plugins
from stakes.errors import ConfigError, DataError, StakesError


def ids(grid: Grid) -> list[str]:
    return [cell.id for cell in expand(grid)]


def test_every_combination_once_and_readable(grid_of: Make) -> None:
    grid = grid_of(methods=["before", {"method": "structguard", "preset": "authors"}], k=[2, 4], seeds=[0, 7])
    names = [name.rsplit("-", 1)[0] for name in ids(grid)]
    rows = [f"{row}_k{k}_s{s}" for s in (0, 7) for k in (2, 4) for row in ("before", "structguard-authors")]
    assert names == rows
    assert len(set(ids(grid))) == 8
    assert [cell.id for cell in expand(grid, seed=7)] == ids(grid)[4:]


def test_a_method_narrows_k_and_seeds(grid_of: Make) -> None:
    grid = grid_of(methods=["before", {"method": "neggrad", "k": [4], "seeds": [1]}], k=[2, 4], seeds=[0, 1])
    asked = [(cell.k, cell.run.seed) for cell in expand(grid) if cell.method.name == "neggrad"]
    assert asked == [(4, 1)]


def test_the_name_follows_what_is_computed_and_nothing_else(grid_of: Make) -> None:
    def one(**settings: Any) -> Grid:
        return grid_of(methods=[{"method": "neggrad", "label": "row", "settings": settings}])

    assert ids(one()) == ids(one(lr=0.001)), "a default spelt out is the same request"
    assert ids(one()) != ids(one(lr=0.002))
    base = {"retain_sample": 40, "device": "cpu"}
    assert ids(grid_of(run=base)) == ids(grid_of(run=base | {"device": "auto", "eval_batch": 8}))
    assert ids(grid_of(run=base)) != ids(grid_of(run=base | {"retain_sample": 41}))
    assert ids(grid_of(run=base)) != ids(grid_of(run=base | {"precision": "bf16"}))
    other = [{"name": "digits", "source": "digits", "models": ["elsewhere"]}]
    assert ids(grid_of()) != ids(grid_of(data=other))


def test_unlabelled_images_name_the_rows_that_see_less_of_the_test_set(grid_of: Make) -> None:
    def names(**more: Any) -> list[str]:
        data = {"name": "digits", "source": "digits", "models": ["elsewhere"]} | more
        return ids(grid_of(data=[data], methods=["before", "adv"]))

    plain = names()
    assert names(unlabelled="traffic") == plain, "no row uses them, and nothing else is another"
    assert set(names(unlabelled="test:9")).isdisjoint(plain), "all are measured on fewer images"
    data = [{"name": "digits", "source": "digits", "models": ["elsewhere"], "unlabelled": "test:9"}]
    rows = ["adv", {"method": "adv", "unlabelled": True}]
    without, with_them = expand(grid_of(data=data, methods=rows))
    assert with_them.request["row"] == "adv-unlabelled"
    assert (without.request["held_back"], with_them.request["unlabelled"]) == ("test:9", "test:9")
    rows = ["structguard", {"method": "structguard", "preset": "thorough", "unlabelled": True}]
    cells = expand(grid_of(data=data, k=[16, 17], methods=[*rows, rows[1] | {"unlabelled": False}]))
    margins = {(cell.entry.row, cell.k): cell.method.settings.margin for cell in cells}
    assert {key for key, margin in margins.items() if margin == 2.5} == {
        ("structguard-thorough-unlabelled", 17)
    }


def test_numbers_of_yaml_are_numbers(grid_of: Make, tmp_path: Path) -> None:
    text = "data: [{name: d, source: digits, models: m}]\nk: [2]\nseeds: [0]\n"
    text += "methods: [{method: adv, settings: {lr: 1e-4}}]\n"
    (tmp_path / "g.yaml").write_text(text)
    assert expand(load_grid(tmp_path / "g.yaml"))[0].method.settings.lr == 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ["structgard"]}, ("structgard", "structguard", "--plugins")),
        ({"methods": ["noise_method.py:Noise"]}, ("noise_method.py:Noise", "--plugins")),
        ({"methods": [{"method": "structguard", "preset": "best"}]}, ("best", "authors")),
        (
            {"methods": [{"method": "neggrad", "settings": {"learning_rate": 1}}]},
            ("learning_rate", "momentum"),
        ),
        ({"methods": [{"method": "neggrad", "settings": {"lr": -1}}]}, ("lr", "-1")),
        ({"methods": ["before", "before"]}, ("before", "label")),
        ({"methods": [{"method": "adv", "label": "a/b"}]}, ("label",)),
        ({"methods": []}, ("methods",)),
        ({"methods": [{"method": "adv", "unlabelled": True}]}, ("adv-unlabelled", "digits")),
        ({"metods": []}, ("metods",)),
        ({"k": [0]}, ("k.0",)),
        ({"k": [2, 2]}, ("k: each once",)),
        ({"seeds": [-1]}, ("seeds.0",)),
        ({"run": {"seed": 3}}, ("seeds",)),
        ({"run": {"precision": "fp8"}}, ("precision", "fp8")),
        ({"data": [{"name": "digits", "source": "digits"}]}, ("models",)),
        ({"data": [{"name": "d", "source": "digits", "models": "m", "published": "mnist"}]}, ("published",)),
    ],
)
def test_what_is_wrong_is_named(grid_of: Make, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as said:
        expand(grid_of(**changes))
    assert all(word in str(said.value) for word in words), said.value
    assert "value error" not in str(said.value).lower()
    assert len(str(said.value)) < 1000, "of a grid as a whole what is wrong, not the grid"


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", None])
def test_files_that_are_no_grid(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "grid.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match="grid"):
        load_grid(path)


def test_places(grid_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = grid_of()
    (tmp_path / "beside").mkdir()
    (tmp_path / "digits").mkdir()
    monkeypatch.setenv("SOMEWHERE", "/there")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert grid.locate("${SOMEWHERE}/data") == "/there/data"
    assert grid.locate("beside") == str(tmp_path / "beside")
    assert grid.locate("./digits") == str(tmp_path / "digits")
    assert grid.locate("digits") == "digits"
    assert grid.locate("owner/set") == "owner/set"
    assert grid.locate("${NOWHERE}/x", strict=False) == "${NOWHERE}/x"
    with pytest.raises(ConfigError, match="NOWHERE"):
        grid.locate("${NOWHERE}/x")


def test_missing_files_are_named_before_work(grid_of: Make) -> None:
    data = {"name": "d", "source": "digits", "models": "./not-there"}
    with pytest.raises(DataError, match="not-there"):
        grid_of(data=[data]).check_places()
    with pytest.raises(DataError, match=r"mine\.json"):
        grid_of(data=[data | {"models": ".", "anchors": {"attributes": "./mine.json"}}]).check_places()
    with pytest.raises(DataError, match="traffic"):
        grid_of(data=[data | {"models": ".", "unlabelled": "traffic"}]).check_places()
    grid_of(data=[data | {"models": ".", "unlabelled": "test:5"}]).check_places()


def test_a_row_without_probes_has_no_use_for_unlabelled_images(grid_of: Make) -> None:
    data = {"name": "digits", "source": "digits", "models": ["m"], "unlabelled": "test:9"}
    with pytest.raises(ConfigError, match="unlabelled images of row neggrad-unlabelled"):
        expand(grid_of(data=[data], methods=[{"method": "neggrad", "unlabelled": True}]))


def test_plugins(tmp_path: Path, plugin: Path, grid_of: Make) -> None:
    registry = load_plugins([plugin])
    assert {"slow", "fails", "before"} <= registry.methods.keys()
    grid = grid_of(methods=["slow"])
    first = expand(grid, registry)[0].id
    changed = tmp_path / "mine.py"
    changed.write_text(plugin.read_text() + "\n# changed\n")
    assert expand(grid, load_plugins([changed]))[0].id != first, "other code is another cell"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "a Python file"),
        ("import not_a_module_at_all", "ModuleNotFoundError"),
        ("x = 1", "a subclass"),
        ("from stakes.methods import NegGrad\nclass Mine(NegGrad):\n    pass", "neggrad"),
    ],
)
def test_plugins_that_are_none(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "p.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StakesError, match=words):
        load_plugins([path])
