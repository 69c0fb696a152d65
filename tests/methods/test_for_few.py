"""A preset that sets otherwise for a small request, without BatchNorm, or given unlabelled images: where, and alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from stakes import unlearn
from stakes.bench.cells import expand
from stakes.bench.cost import cell_cost
from stakes.bench.grid import Grid
from stakes.bench.speed import SpeedSettings, bench_speed, variant
from stakes.config import MethodSettings, RunSettings
from stakes.errors import ConfigError
from stakes.estimate import estimate
from stakes.layer_statistics import keeps_statistics
from stakes.methods import METHODS, ForFew, NegGrad, StructGuard
from tinydigits import digits_model, split

FEW = StructGuard.for_few["default"]
QUICK = {"probes.inversion.batches": 1, "probes.inversion.batch": 16, "probes.inversion.iterations": 2}


def changed(images: int, **overrides: Any) -> dict[str, Any]:
    """What a request of so many images is given otherwise than the preset says."""
    usual = StructGuard.configure("default").settings
    given = StructGuard.configure("default", overrides).for_images(images).settings
    return {name: value for name, value in given if value != getattr(usual, name)}


def test_up_to_sixteen_images_are_few() -> None:
    wanted = {
        "variants": 2,
        "variant_images": None,
        "del_weight": 3.0,
        "settle": 250,
        "retention": "soft",
        "lr": 0.0025,
        "max_steps": 400,
    }
    assert changed(1) == changed(16) == FEW.changes == wanted
    assert changed(17) == {}


def test_settings_of_ones_own_go_before_it() -> None:
    assert changed(16, settle=40, lr=0.1) == {**FEW.changes, "settle": 40, "lr": 0.1}
    # Also one that is the preset's own value.
    assert changed(16, settle=100) == {key: to for key, to in FEW.changes.items() if key != "settle"}


def test_asked_twice_it_is_the_same_and_the_first_is_not_changed() -> None:
    first = StructGuard.configure("default")
    few = first.for_images(3)
    assert few.for_images(3).settings == few.settings
    assert few.for_images(64).settings == first.settings == StructGuard.configure("default").settings


def test_all_copies_of_few_and_a_schedule_that_ends_before_the_limit() -> None:
    settings = StructGuard.configure("default").for_images(16).settings
    assert settings.copies(16, 1) == 32
    assert settings.schedule(1, settings.max_steps) == 250 < settings.max_steps


@pytest.mark.parametrize("name", METHODS)
def test_everything_else_takes_any_number_of_images(name: str) -> None:
    kind = METHODS[name]
    for preset in {*kind.presets, kind.default_preset} - set(kind.for_few):
        method = kind.configure(preset)
        assert method.for_images(1) is method


def test_one_made_without_configure_is_as_it_is() -> None:
    method = NegGrad(MethodSettings())
    assert method.for_images(1) is method


def test_what_few_are_given_is_checked_with_what_was_asked() -> None:
    class Strict(NegGrad):
        presets = {"own": {}}  # noqa: RUF012
        for_few = {"own": ForFew(2, {"lr": -1.0})}  # noqa: RUF012

    method = Strict.configure("own")
    assert method.for_images(3).settings.lr > 0
    with pytest.raises(ConfigError, match="lr"):
        method.for_images(2)


def test_a_run_a_cell_and_an_estimate_agree(tmp_path) -> None:
    given, method = split(5), StructGuard.configure("default", {**QUICK, "max_steps": 60})
    record = unlearn(digits_model(), given, method=method, preset="default", device="cpu").record
    wanted = method.for_images(5).settings.model_dump(mode="json")
    assert record.settings == wanted
    assert record.settings["variants"] == 2
    assert record.steps >= method.for_images(5).settings.schedule(1, 60) == 45
    grid = Grid.model_validate(
        {
            "name": "few",
            "data": [{"name": "digits", "source": "digits", "models": {"name": "m", "path": "m"}}],
            "methods": [{"method": "structguard", "settings": {**QUICK, "max_steps": 60}}],
            "k": [5, 17],
            "seeds": [0],
        }
    )
    few, many = expand(grid)
    assert few.method.settings.model_dump(mode="json") == wanted
    assert many.method.settings == method.settings
    found = estimate(digits_model(), given, method, RunSettings(), out=tmp_path, cache=tmp_path)
    # 16 probes, 5 images and 2 copies of each, in 60 steps at most.
    assert found.phases["unlearn"].backward == 60 * (16 + 15)


def test_speed_is_that_of_the_request() -> None:
    quick = variant("structguard", settings={**QUICK, "max_steps": 60}, steps=60)
    slices = SpeedSettings(rounds=1)
    report = bench_speed(digits_model(), split(5), [quick], speed=slices, device="cpu")
    assert report.variants[0].settings["variants"] == 2


UNNORMALISED = {"pressure": 0.05, "pressure_from": 0.0, "settle": 250, "max_steps": 2000}


def test_without_batchnorm_weights_rise_within_a_longer_schedule() -> None:
    usual = StructGuard.configure("default")
    assert StructGuard.without_batchnorm == {"default": UNNORMALISED}
    found = dict(usual.for_images(64, batchnorm=False).settings)
    assert {name: to for name, to in found.items() if to != getattr(usual.settings, name)} == UNNORMALISED
    assert usual.for_images(64) is usual
    assert usual.for_images(64, batchnorm=keeps_statistics(torch.nn.BatchNorm2d(2))) is usual
    forgetful = keeps_statistics(torch.nn.BatchNorm2d(2, track_running_stats=False))
    assert usual.for_images(64, batchnorm=forgetful).settings.settle == 250, "it keeps no statistics"
    # Few images have settings of their own, whatever the network; so has another preset.
    assert usual.for_images(16, batchnorm=False).settings == usual.for_images(16).settings
    thorough = StructGuard.configure("thorough")
    assert thorough.for_images(64, batchnorm=False) is thorough
    given = StructGuard.configure("default", {"settle": 9})
    assert given.for_images(64, batchnorm=False).settings.settle == 9


def test_a_run_and_an_estimate_see_the_network(tmp_path) -> None:
    given, model = split(17), digits_model().clone()
    model.body.norm = torch.nn.Identity()
    method = StructGuard.configure("default", {**QUICK, "max_steps": 12})
    record = unlearn(model, given, method=method, preset="default", device="cpu").record
    assert {name: record.settings[name] for name in UNNORMALISED} == {**UNNORMALISED, "max_steps": 12}
    found = estimate(model, given, method, RunSettings(), out=tmp_path, cache=tmp_path)
    assert found.schedule == method.for_images(17, batchnorm=False).settings.schedule(1, 12) == 9


def test_with_unlabelled_images_the_margin_of_thorough_is_wider() -> None:
    usual, thorough = (StructGuard.configure(preset) for preset in ("default", "thorough"))
    assert StructGuard.with_unlabelled == {"thorough": {"margin": 2.5}}
    many = thorough.for_images(17, unlabelled=True).settings
    assert many == thorough.settings.with_overrides({"margin": 2.5})
    assert thorough.for_images(17) is thorough
    assert thorough.for_images(17, unlabelled=True, batchnorm=False).settings == many
    assert thorough.for_images(16, unlabelled=True).settings == thorough.for_images(16).settings
    assert usual.for_images(17, unlabelled=True) is usual
    given = StructGuard.configure("thorough", {"margin": 0.7})
    assert given.for_images(17, unlabelled=True) is given


def test_a_run_and_an_estimate_see_the_unlabelled_images(tmp_path, monkeypatch) -> None:
    method, seen = StructGuard.configure("thorough", {**QUICK, "max_steps": 3}), []
    given = replace(split(17), unlabelled=split().retain)
    record = unlearn(digits_model(), given, method=method, preset="thorough", device="cpu").record
    assert record.settings["margin"] == 2.5

    def spy(request: Any, facts: Any) -> Any:
        seen.append(request.method.settings.margin)
        return cell_cost(request, facts)

    monkeypatch.setattr("stakes.estimate.cell_cost", spy)
    estimate(digits_model(), given, method, RunSettings(), out=tmp_path, cache=tmp_path)
    assert seen == [2.5]


def test_in_a_sequence_small_requests_are_as_others_and_without_copies() -> None:
    usual, thorough = (StructGuard.configure(preset) for preset in ("default", "thorough"))
    assert StructGuard.in_sequence == {"default": {"variants": 0}}
    found = usual.one_of_many()
    without = usual.settings.with_overrides({"variants": 0})
    assert found.for_images(1).settings == found.for_images(64).settings == without
    assert found.for_images(1).for_images(64).settings == without
    unnormalised = usual.for_images(64, batchnorm=False).settings.with_overrides({"variants": 0})
    assert found.for_images(64, batchnorm=False).settings == unnormalised
    assert found.for_images(16, batchnorm=False).settings == without
    assert usual.for_images(16).settings.variants == 2, "the method itself is as it was"
    assert thorough.one_of_many().for_images(16).settings == thorough.for_images(16).settings
    given = StructGuard.configure("default", {"variants": 1, "lr": 0.1}).one_of_many()
    assert given.for_images(16).settings == usual.settings.with_overrides({"variants": 1, "lr": 0.1})
    assert NegGrad.configure().one_of_many().for_images(1).settings == NegGrad.configure().settings


def test_what_came_later_is_told_where_it_is_not_at_its_default() -> None:
    """Cells and runs made before have the same names."""
    usual = StructGuard.configure("default")
    for kind, key in ((type(usual.settings), "pressure_from"), (RunSettings, "milestones")):
        assert key in kind.later
        assert key not in kind().model_dump(mode="json")
    found = usual.for_images(64, batchnorm=False).settings
    told = found.model_dump(mode="json")
    assert told["pressure_from"] == 0.0
    assert type(found)(**told) == found
    assert type(found)(**usual.settings.model_dump(mode="json")) == usual.settings


@pytest.mark.parametrize("name", METHODS)
def test_no_preset_names_what_is_left_out_of_records(name: str) -> None:
    kind = METHODS[name]
    small = [few.changes for few in kind.for_few.values()]
    named = {key for changes in [*kind.presets.values(), *small] for key in changes}
    assert not named & kind.settings_type.later


def test_nothing_is_made_anew_where_nothing_changes() -> None:
    method = StructGuard.configure("default", {"variants": 2, "variant_images": None})
    many = method.for_images(64)
    assert many is method
    assert method.for_images(3).for_images(64).settings == method.settings
