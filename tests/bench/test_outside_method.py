"""A method from outside the package: its example runs in a bench and keeps the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchkit import Write, records

from stakes.bench.plugins import load_plugins
from stakes.methods import METHODS

EXAMPLE = Path(__file__).parents[2] / "examples" / "noise_method.py"


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60


def test_it_runs_in_a_bench_where_its_file_is_named(stakes_cli: Any, write: Write, tmp_path: Path) -> None:
    path = write(methods=["before", {"method": "noise", "settings": {"scale": 0.1}}])
    code, _, err = stakes_cli("bench", path, "--out", tmp_path / "out")
    assert code == 2
    assert "--plugins" in err
    code, said, err = stakes_cli("bench", path, "--out", tmp_path / "out", "--plugins", EXAMPLE, "--json")
    assert code == 0, err
    assert said["fresh"] == 2
    found = records(tmp_path / "out")["noise"]
    assert (found.method, found.settings["scale"]) == ("noise", 0.1)
    assert found.stop_reason == "forgotten"
    assert "noise" not in METHODS, "naming a file changes nothing for others"
    code, table, _ = stakes_cli("table", tmp_path / "out")
    assert code == 0
    assert "| noise | 2 |" in table


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    contract = pytest.importorskip("contract")
    row = contract.Row(load_plugins([EXAMPLE]).find("noise"), {"scale": 0.05}, forgets=False)
    cache = tmp_path / "cache"
    first = contract.run(row, cache=cache)
    contract.check_deterministic(row, first, cache)
    contract.check_seed(row, first, cache)
    contract.check_used_again(row, cache)
    contract.check_input_untouched(row, cache)
    contract.check_stop(row, first)
    contract.check_history(row, first)
    contract.check_record(row, first)
    contract.check_reload(row, cache, tmp_path / "reload")
    contract.check_resume(row, first, cache, tmp_path / "resume")
    contract.check_architecture(row, "resnet10", cache)
    contract.check_one_image(row, cache)
    contract.check_refuses_without_retain(row, cache)
