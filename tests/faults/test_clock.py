"""A clock that runs backwards: no negative seconds, and nothing is skipped."""

from __future__ import annotations

import time

import faultkit

from stakes.meter import Meter


def test_a_clock_that_runs_backwards_counts_as_one_that_stands_still():
    ticks = iter([10.0, 4.0, 100.0, 130.0])
    meter = Meter(clock=lambda: next(ticks))
    with meter.phase("probes"):
        pass
    assert meter.phases["probes"].seconds == 0.0
    with meter.phase("probes"):
        pass
    assert meter.phases["probes"].seconds == 30.0


def test_a_run_under_a_clock_that_runs_backwards(tmp_path, monkeypatch):
    """Also the clock that decides when a state is saved: then it is saved later, and the result is the same."""
    now = [1e9]

    def backwards() -> float:
        now[0] -= 3.0
        return now[0]

    faultkit.run(tmp_path)
    wanted = faultkit.contents(tmp_path / "run")
    monkeypatch.setattr(time, "time", backwards)
    monkeypatch.setattr(time, "monotonic", backwards)
    monkeypatch.setattr(time, "perf_counter", backwards)
    monkeypatch.setattr("stakes.unlearning.Meter", lambda: Meter(clock=backwards))
    result = faultkit.run(tmp_path, out=tmp_path / "other")
    assert all(phase.seconds >= 0.0 for phase in result.record.phases)
    assert faultkit.contents(tmp_path / "other") == wanted


def test_costs_of_a_resumed_run_are_those_of_all_its_calls(tmp_path):
    whole = {phase.name: phase for phase in faultkit.run(tmp_path / "whole").record.phases}
    for phase, at in (
        ("evaluate before", 1),
        ("probes", 4),
        ("unlearn", 2),
        ("unlearn", 3),
        ("evaluate after", 1),
    ):

        def progress(now: str, done: int, total: int, phase=phase, at=at, **figures: float) -> None:
            if (now, done >= at) == (phase, True):
                raise KeyboardInterrupt

        try:
            faultkit.run(tmp_path / "cut", progress=progress)
        except KeyboardInterrupt:
            continue
        raise AssertionError(f"not interrupted in {phase}")
    resumed = {phase.name: phase for phase in faultkit.run(tmp_path / "cut").record.phases}
    assert resumed.keys() == whole.keys()
    for name, cost in whole.items():
        assert resumed[name].forward_images >= cost.forward_images, name
        assert resumed[name].backward_images >= cost.backward_images, name
        assert resumed[name].seconds > 0, name
    assert resumed["probes"].forward_images == whole["probes"].forward_images, "kept, not made again"
    assert resumed["evaluate after"].forward_images > whole["evaluate after"].forward_images, "measured twice"
