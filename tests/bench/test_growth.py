"""The growth of time and memory: fits, and processes that do what they are told. No clock is judged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stakes.bench.growth import GrowthReport, bench_growth, fit, in_a_process
from stakes.bench.growth_point import peak_bytes
from stakes.errors import ConfigError

FAST = {"probes.iterations": 1, "max_steps": 2, "probe_batch": 8, "forget_batch": 4}


def machine(order: dict[str, Any]) -> dict[str, Any]:
    """A machine whose time is linear and whose memory is flat."""
    k = int(order["forget"].removeprefix("random:"))
    probes = k * order["settings"].get("probes.per_image", 1)
    return {
        "seconds": 0.01 * probes,
        "processor_seconds": 0.02 * probes,
        "peak_bytes": 2**28,
        "steps": 2,
        "passes": probes,
        "phases": {"probes": 0.005 * probes},
    }


@pytest.fixture(scope="module")
def report() -> GrowthReport:
    return bench_growth("model", "data", images=(16, 64, 256), per_image=(10, 200), repeats=2, run=machine)


def test_linear_is_one_and_flat_is_nothing(report: GrowthReport) -> None:
    slopes = {(fit.sweep, fit.quantity): fit for fit in report.fits}
    assert len(slopes) == 6
    for (_, quantity), found in slopes.items():
        assert found.slope == pytest.approx(0.0 if quantity == "peak_bytes" else 1.0, abs=1e-9)
        assert found.low is not None
        assert found.low <= found.slope <= found.high  # type: ignore[operator]
    assert len(report.points) == 2 * (3 + 2)
    assert {(p.images, p.per_image, p.probes) for p in report.points if p.sweep == "probes"} == {
        (64, 10, 640),
        (64, 200, 12_800),
    }


def test_the_interval_holds_what_ordinary_least_squares_says() -> None:
    draws = np.random.default_rng(0)
    across = [10.0, 20.0, 50.0, 100.0, 200.0]
    values = [x**1.5 * math.exp(0.05 * e) for x, e in zip(across, draws.standard_normal(5), strict=True)]
    found = fit("images", "seconds", across, values)
    matrix = np.stack([np.ones(5), np.log(across)], axis=1)
    best, residual, *_ = np.linalg.lstsq(matrix, np.log(values), rcond=None)
    variance = float(residual[0]) / 3 * np.linalg.inv(matrix.T @ matrix)[1, 1]
    reach = 3.182446305284263 * math.sqrt(variance)  # 97.5 % of Student's t, three degrees of freedom
    assert found.slope == pytest.approx(best[1], abs=1e-5)
    assert (found.low, found.high) == (
        pytest.approx(best[1] - reach, abs=1e-5),
        pytest.approx(best[1] + reach, abs=1e-5),
    )
    assert fit("images", "seconds", across[:2], values[:2]).low is None, "two points say nothing about spread"


def test_quadratic_time_does_not_pass_for_linear() -> None:
    def slow(order: dict[str, Any]) -> dict[str, Any]:
        found = machine(order)
        return found | {"seconds": found["passes"] ** 2, "peak_bytes": found["passes"] * 1000}

    worse = bench_growth("m", "d", images=(16, 64, 256), per_image=(), run=slow).fits
    assert [round(one.slope, 6) for one in worse] == [2.0, 1.0, 1.0]


def test_files_repeat(report: GrowthReport, tmp_path: Path) -> None:
    files = report.save(tmp_path / "a")
    again = report.save(tmp_path / "b")
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]
    assert GrowthReport.model_validate(json.loads(files[0].read_text())) == report
    assert "| images | seconds | 1.000 |" in files[1].read_text()


def test_processes(stakes_cli: Any, home: Path, tmp_path: Path) -> None:
    """Two real ones."""
    words = [
        "bench-growth",
        "--model",
        home / "model",
        "--data",
        home / "data",
        "--images",
        "2,4",
        "--probes",
        "",
    ]
    words += ["--anchors", home / "anchors.safetensors", "--device", "cpu", "--out", tmp_path / "growth"]
    sets = [word for key, value in FAST.items() for word in ("--set", f"{key}={value}")]
    code, found, err = stakes_cli(*words, *sets, "--json")
    assert code == 0, err
    assert [point["images"] for point in found["points"]] == [2, 4]
    for point in found["points"]:
        assert point["probes"] == point["images"] * 20
        assert point["steps"] == 2
        assert 2**25 < point["peak_bytes"] < 2**34
        assert set(point["phases"]) == {"evaluate before", "probes", "unlearn", "evaluate after"}
    assert (tmp_path / "growth" / "growth.svg").read_text().startswith("<?xml")


def test_what_is_refused(stakes_cli: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fixed number"):
        bench_growth("m", "d", spec="structguard", run=machine)
    with pytest.raises(ConfigError, match="neither"):
        bench_growth("m", "d", images=(), per_image=(), run=machine)
    words = ["bench-growth", "--model", tmp_path, "--data", "digits", "--out", tmp_path / "x"]
    for wrong in ("0", "a", "1.5"):
        assert stakes_cli(*words, "--images", wrong)[0] == 2


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    order = {"model": str(tmp_path / "none"), "data": "digits", "forget": "random:2", "budget": 1}
    with pytest.raises(ConfigError, match="allow_pickle"):
        in_a_process(order)
    with pytest.raises(ConfigError, match=r"no such|none"):
        in_a_process(order | {"allow_pickle": False})


def test_memory_is_what_it_is() -> None:
    assert 2**25 < peak_bytes() < 2**36
