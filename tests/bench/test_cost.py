"""What a dry run says is never less than what a run costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchkit import ADV, PROBES, STRUCTGUARD, Make, Write, digits_grid, records

from stakes.bench.cells import expand
from stakes.bench.cost import Passes, grid_cost
from stakes.bench.engine import run_bench
from stakes.bench.folder import BenchFolder
from stakes.errors import DataError
from stakes.methods import METHODS

# Every method, with settings for a few steps on a few images.
FEW: dict[str, dict[str, Any]] = {
    "before": {},
    "oracle": {"max_steps": 2, "retain_batch": 16},
    "oracle-finetune": {"max_steps": 2, "retain_batch": 16},
    "fisher": {"max_steps": 2, "retain_batch": 4},
    "neggrad": {"max_steps": 3, "lr": 1e-5},
    "rawp": {"max_steps": 3, "gamma": 1e-5},
    "adv": ADV | {"max_steps": 3, "probe_batch": 12},
    "l2ul": ADV | {"max_steps": 3, "probe_batch": 12},
    "structguard": ADV | {"probes.kind": "adversarial", "max_steps": 3, "probe_batch": 12},
    "unsir": {"max_steps": 3, "noise_images": 2, "noise_repeats": 1, "noise_steps": 2, "forget_batch": 16},
    "boundary-shrink": {"max_steps": 3},
    "boundary-expand": {"max_steps": 3},
    "lotus": {"max_steps": 3, "forget_batch": 8},
    "amun": {"max_steps": 3, "forget_batch": 4},
    "random-label": {"max_steps": 3, "lr": 1e-5},
    "salun": {"max_steps": 3, "lr": 1e-5},
}
INVERTED: dict[str, Any] = {
    "method": "structguard",
    "settings": {
        "probes.kind": "inverted",
        "probes.inversion.batches": 2,
        "probes.inversion.batch": 6,
        "probes.inversion.iterations": 4,
    },
}
# Where nothing stops before the limit and no attack ends early, the bound is met in backward passes.
EXACT = {
    "before",
    "oracle",
    "oracle-finetune",
    "fisher",
    "neggrad",
    "rawp",
    "adv",
    "l2ul",
    "structguard",
    "unsir",
}


def test_every_method_stays_within_its_bound(grid_of: Make, tmp_path: Path) -> None:
    assert FEW.keys() == METHODS.keys()
    rows = [{"method": name, "settings": settings} for name, settings in FEW.items()]
    grid = grid_of(methods=rows, k=[3])
    cells = expand(grid)
    costs = {cell.entry.row: cost for cell, cost in zip(cells, grid_cost(grid, cells).cells, strict=True)}
    report = run_bench(grid, tmp_path / "out")
    assert not report.failed
    for row, record in records(tmp_path / "out").items():
        phases = {phase.name: phase for phase in record.phases}
        bound, spent = costs[row], phases["unlearn"]
        assert record.steps <= bound.steps, row
        assert spent.forward_images <= bound.unlearn.forward, row
        assert spent.backward_images <= bound.unlearn.backward, row
        if row in EXACT and record.steps == bound.steps:
            assert spent.backward_images == bound.unlearn.backward, row
        assert phases["evaluate after"].forward_images == bound.evaluate.forward == 60 + 40 + 3


EVERYTHING = INVERTED | {
    "preset": "paper",
    "settings": INVERTED["settings"]
    | {
        "retention": "soft",
        "probe_mixing": True,
        "variants": 2,
        "precondition": "patches",
        "settle": 9,
        "importance_after": 1,
        "lr": 1e-5,
        "max_steps": 3,
        "probe_batch": 12,
    },
}


def test_inverted_probes_and_all_that_goes_with_them(grid_of: Make, tmp_path: Path) -> None:
    grid = grid_of(methods=[EVERYTHING], k=[2, 3])
    cells = expand(grid)
    cost = grid_cost(grid, cells)
    probes = [passes for name, passes in cost.shared.items() if name.startswith("probes")]
    assert probes == [Passes(2 * 6 * 4, 2 * 6 * 4)] * 2, "for each k its own, of one size"
    report = run_bench(grid, tmp_path / "out")
    assert not report.failed
    found = {record.request["k"]: record for record in BenchFolder(tmp_path / "out").records().values()}
    for cell, bound in zip(cells, cost.cells, strict=True):
        phases = {phase.name: phase for phase in found[cell.k].phases}
        spent = phases["unlearn"]
        assert found[cell.k].steps == bound.steps == 3
        assert spent.backward_images == bound.unlearn.backward == 12 + 3 * (12 + 3 * cell.k)
        assert spent.forward_images <= bound.unlearn.forward
        # 12 probes for S_ori, their importance and the curvature, and in each step what the original says of them.
        most = 3 * 12 + 3 * (12 + 12 + 3 * cell.k)
        assert most <= spent.forward_images <= most + 4 * 2 * cell.k
        assert phases["probes"].forward_images == 0, "they were made before"
    assert len(list((tmp_path / "out").glob("cache/probes/*/*.safetensors"))) == 2 * 2, "and no others"


def test_inverted_probes_are_shared_by_rows(grid_of: Make) -> None:
    rows: list[Any] = [INVERTED | {"method": "adv", "label": label} for label in ("one", "other")]
    grid = grid_of(methods=[*rows, {"method": "l2ul", "settings": PROBES}], k=[2, 8], seeds=[0, 1])
    shared = grid_cost(grid, expand(grid)).shared
    probes = sorted(passes.forward for name, passes in shared.items() if name.startswith("probes"))
    assert probes == [2 * 6 * 4] * 4 + [8 * 4 * 3] * 2


def test_a_dry_run_of_inverted_probes(write: Write, stakes_cli: Any) -> None:
    code, found, err = stakes_cli("bench", write(methods=[EVERYTHING], k=[2, 3]), "--dry-run", "--json")
    assert code == 0, err
    assert [cell["most_steps"] for cell in found["cells"]] == [3, 3]
    shared = sum(forward for name, (forward, _) in found["shared"].items() if name.startswith("probes"))
    assert shared == 2 * 2 * 6 * 4


def test_probes_are_counted_once_at_the_largest_k(grid_of: Make) -> None:
    rows: list[Any] = [
        {"method": "adv", "settings": PROBES},
        {"method": "l2ul", "settings": PROBES},
        {"method": "l2ul", "label": "wider", "settings": PROBES | {"probes.epsilon": 2.0}},
        "neggrad",
    ]
    grid = grid_of(methods=rows, k=[2, 8], seeds=[0, 1])
    shared = grid_cost(grid, expand(grid)).shared
    probes = [passes for name, passes in shared.items() if name.startswith("probes")]
    assert probes == [Passes(8 * 4 * 3, 8 * 4 * 3)] * 4, "two settings, two seeds"
    assert sum(name.startswith("original") for name in shared) == 1 + 4, "all test images, and four samples"


def test_unlabelled_images_are_counted_where_a_row_trains_on_them(grid_of: Make, home: Path) -> None:
    data = digits_grid(home)["data"][0] | {"unlabelled": "test:20"}
    rows = [STRUCTGUARD, STRUCTGUARD | {"unlabelled": True}]
    grid = grid_of(data=[data], methods=rows)
    without, with_them = grid_cost(grid, expand(grid)).cells
    assert without.evaluate == with_them.evaluate == Passes(60 - 20 + 2 + 40)
    assert with_them.unlearn.forward - without.unlearn.forward >= 20
    facts = {"train_images": 300, "test_images": 60, "classes": 10, "image_size": [1, 8, 8]}
    told = grid_of(data=[data | {"source": "./nowhere", "facts": facts}], methods=rows)
    nowhere = data | {"source": "./nowhere", "facts": facts, "unlabelled": "./not-there"}
    missing = grid_of(data=[nowhere], methods=rows)
    with pytest.raises(DataError, match=r"unlabelled images of digits .*facts: \{…, unlabelled: N\}"):
        grid_cost(missing, expand(missing))
    known = grid_of(data=[nowhere | {"facts": facts | {"unlabelled": 20}}], methods=rows)
    assert grid_cost(known, expand(known)).cells[1].unlearn == with_them.unlearn
    assert [one.unlearn for one in grid_cost(told, expand(told)).cells] == [
        without.unlearn,
        with_them.unlearn,
    ]


def test_how_many_unlabelled_images_are_taken_can_be_said_for_a_bench(
    write: Write, home: Path, stakes_cli: Any
) -> None:
    data = digits_grid(home)["data"][0] | {"unlabelled": "test:20"}
    path = write(data=[data], methods=[STRUCTGUARD, STRUCTGUARD | {"unlabelled": True}])
    runs = [
        stakes_cli("bench", path, "--dry-run", "--json", *more) for more in ((), ("--unlabelled-most", 5))
    ]
    assert [code for code, _, _ in runs] == [0, 0]
    whole, few = ({cell["cell"].split("_")[0]: cell for cell in found["cells"]} for _, found, _ in runs)
    assert few["structguard-paper"] == whole["structguard-paper"]
    row = "structguard-paper-unlabelled"
    assert whole[row]["unlearn"][0] - few[row]["unlearn"][0] >= 15
    assert whole[row]["cell"] != few[row]["cell"]


def test_facts_stand_in_for_data(grid_of: Make, home: Path) -> None:
    facts = {"train_images": 1437, "test_images": 360, "classes": 10, "image_size": [1, 8, 8]}
    entry = {"name": "digits", "source": "digits", "models": [str(home / "model")]}
    looked = grid_of(data=[entry], methods=["before", "lotus", "amun"])
    told = grid_of(
        data=[entry | {"source": "./nowhere", "facts": facts}], methods=["before", "lotus", "amun"]
    )
    one, two = (grid_cost(grid, expand(grid)) for grid in (looked, told))
    assert one.total == two.total
    assert one.total.forward > 0


@pytest.mark.parametrize("sample", [None, 100])
def test_retained_images_measured(grid_of: Make, sample: int | None) -> None:
    grid = grid_of(run={"device": "cpu", "retain_sample": sample}, k=[5])
    (cost,) = grid_cost(grid, expand(grid)).cells
    assert cost.evaluate == Passes(60 + 5 + (295 if sample is None else 100))
