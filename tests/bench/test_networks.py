"""Cells are named, counted and run with what a preset sets for a network without BatchNorm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchkit import Make, Write, digits_grid

from stakes.bench import networks, run_bench
from stakes.bench.cells import expand
from stakes.bench.cost import grid_cost
from stakes.bench.folder import BenchFolder
from stakes.bench.grid import Grid, load_grid
from stakes.bench.networks import Networks, look
from stakes.errors import ConfigError
from stakes.methods import StructGuard
from stakes.models.checkpoint import save_checkpoint
from stakes.models.classifier import Classifier

SHORT = {
    "max_steps": 12,
    "probes.per_image": 1,
    "probes.inversion.iterations": 2,
    "probes.inversion.batches": 1,
}
ROW = {"method": "structguard", "settings": SHORT}
SETS = {key: value for key, value in StructGuard.without_batchnorm["default"].items() if key not in SHORT}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small transformer of the digits, untrained."""
    transformers = pytest.importorskip("transformers")
    names = tuple("0123456789")
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(num_channels=1, image_size=8, patch_size=4, **sizes, **labels)
    network = transformers.AutoModelForImageClassification.from_config(config, attn_implementation="eager")
    folder = tmp_path_factory.mktemp("vit")
    classifier = Classifier.from_network(
        network.eval(), class_names=names, input_size=(1, 8, 8), config=config.to_dict()
    )
    save_checkpoint(classifier, folder)
    return folder


@pytest.fixture
def both(home: Path, vit: Path) -> dict[str, Any]:
    """A grid with and without BatchNorm, of few and of many images."""
    grid = digits_grid(home, methods=[ROW], k=[16, 17])
    paths = {"resnet": home / "model", "vit": vit}
    grid["data"][0]["models"] = [{"name": name, "path": str(path)} for name, path in paths.items()]
    return grid


def changed(settings: Any) -> bool:
    return all(getattr(settings, key) == value for key, value in SETS.items())


def test_networks_are_opened_where_a_row_hangs_on_them(both: dict[str, Any], vit: Path) -> None:
    grid = Grid.model_validate(both)
    assert look(grid, expand(grid)) == Networks(frozenset({str(vit)}))
    others = [{"method": "structguard", "preset": "thorough"}, "adv"]
    for changes in ({"methods": others}, {"k": [16]}):
        other = Grid.model_validate(both | changes)
        assert look(other, expand(other)) == Networks()


def test_cells_of_many_images_have_other_settings_and_names(both: dict[str, Any], vit: Path) -> None:
    grid = Grid.model_validate(both)
    blind, seen = expand(grid), expand(grid, unnormalised=frozenset({str(vit)}))
    named = {(cell.model.name, cell.k): (one.id, cell) for one, cell in zip(blind, seen, strict=True)}
    for (model, k), (before, cell) in named.items():
        other = (model, k) == ("vit", 17)
        assert (before != cell.id) == changed(cell.method.settings) == other


def test_a_bench_runs_what_its_cells_say(both: dict[str, Any], tmp_path: Path) -> None:
    grid = Grid.model_validate(both | {"k": [17]})
    report = run_bench(grid, tmp_path / "out")
    assert not report.failed
    assert set(report.cells) == {
        cell.id for cell in expand(grid, unnormalised=look(grid, expand(grid)).unnormalised)
    }
    found = BenchFolder(tmp_path / "out").records()
    resnet, transformer = (found[cell] for cell in report.cells)
    assert {key: transformer.settings[key] for key in SETS} == SETS
    assert resnet.settings["settle"] == 100
    again = run_bench(grid, tmp_path / "out", jobs=2)
    assert (again.fresh, set(again.finished)) == (0, set(report.finished))


def test_workers_name_the_cells_alike(both: dict[str, Any], tmp_path: Path) -> None:
    grid = Grid.model_validate(both | {"k": [17]})
    report = run_bench(grid, tmp_path / "out", jobs=2)
    assert (report.failed, report.fresh) == ({}, 2)


def test_a_dry_run_counts_the_longer_schedule_and_tells_what_it_did_not_see(
    both: dict[str, Any], vit: Path, write: Write, stakes_cli: Any
) -> None:
    path = write(**both | {"k": [17], "methods": ["structguard"]})
    code, found, told = stakes_cli("bench", path, "--dry-run", "--json")
    assert (code, told) == (0, "")
    grid = load_grid(path)
    seen = expand(grid, unnormalised=look(grid, expand(grid)).unnormalised)
    assert [cell["cell"] for cell in found["cells"]] == [cell.id for cell in seen]
    assert [cost.schedule for cost in grid_cost(grid, seen).cells] == [100, 250]
    assert [cost.steps for cost in grid_cost(grid, seen).cells] == [800, 2000]

    facts = {"train_images": 300, "classes": 10, "image_size": [1, 8, 8]}
    both["data"][0] |= {"models": ["of-a-hub/vit"], "facts": facts}
    code, found, told = stakes_cli("bench", write(**both | {"name": "hub"}), "--dry-run", "--json")
    assert code == 0
    assert "of-a-hub/vit" in told


def test_a_model_that_cannot_be_opened_is_left_to_its_cells(grid_of: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    data = {"name": "digits", "source": "digits", "models": [str(tmp_path / "empty")]}
    grid = grid_of(data=[data], methods=["structguard"], k=[17])
    assert look(grid, expand(grid)) == Networks(unseen=(str(tmp_path / "empty"),))


def test_unknown_methods_are_refused_before_a_model_is_opened(
    grid_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "load_checkpoint", lambda _: pytest.fail("opened"))
    with pytest.raises(ConfigError, match="structgard"):
        run_bench(grid_of(methods=["structguard", "structgard"], k=[17]), tmp_path / "out")
