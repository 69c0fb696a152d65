"""The command ``methods``: what a user finds there is what the classes say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from stakes import cli
from stakes.methods import METHODS, find_method
from stakes.methods.catalogue import about, changed_by, settings_of

NOISE = Path(__file__).parents[1] / "examples" / "noise_method.py"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Exit code, standard output and standard error of ``stakes methods``."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stakes", "methods", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as left:
            cli.main()
        heard = capsys.readouterr()
        return int(left.value.code or 0), heard.out, heard.err

    return run


def test_every_method_is_listed_with_its_presets(said):
    code, out, _ = said()
    assert code == 0
    for name, kind in METHODS.items():
        assert f" {name} " in out
        assert all(preset in out for preset in kind.presets)
    assert "default*" in out, "the one that is taken is marked"
    listed = json.loads(said("--json")[1])
    assert [one["name"] for one in listed] == list(METHODS)
    needs = {one["name"]: one["needs"] for one in listed}
    assert needs["structguard"]["paper"] == ["anchors", "probes"]
    assert needs["structguard"]["default"] == ["probes"]
    assert needs["random-label"] == {"": [], "retain": ["retain"]}


@pytest.mark.parametrize("name", METHODS)
def test_what_is_shown_of_a_method_makes_the_method(said, name):
    """Each value that is shown, set by hand on a method without a preset, gives what the preset gives."""
    kind = find_method(name)
    for preset in kind.presets or (None,):
        words = (name, "--json", *(("--preset", preset) if preset else ()))
        shown = json.loads(said(*words)[1])
        values = {one["name"]: one["value"] for one in shown["settings"]}
        wanted = kind.configure(preset).settings
        assert kind.configure(overrides=values).settings == wanted


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_says_what_it_is_and_takes(name):
    kind = find_method(name)
    for one in settings_of(kind):
        assert one.text, one.name
        assert one.accepts, one.name
    told = about(kind)
    assert told.publication, "each names its source, or says that there is none"
    assert "Example:" not in told.text


def test_ranges_are_those_that_are_refused():
    accepts = {one.name: one.accepts for one in settings_of(find_method("structguard"))}
    assert accepts["momentum"] == "number, at least 0, below 1"
    assert accepts["variant_images"] == "whole number, at least 1 or null"
    assert accepts["hinge_mean"] == "all, active, geometric, auto"
    assert accepts["recalibrate"] == "true or false"
    assert accepts["probes.epsilons"] == "list of: number, above 0"


def test_what_a_preset_changes_makes_it(said):
    kind = find_method("structguard")
    for preset, changes in changed_by(kind).items():
        assert kind.configure("default", changes).settings == kind.configure(preset).settings
        assert f"--preset {preset}: " in said("structguard")[1]


def test_a_method_of_ones_own(said):
    code, out, _ = said("noise", "--plugins", NOISE)
    assert code == 0
    assert "scale" in out
    assert "noise" in said("--plugins", NOISE)[1]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("nope",), "structguard"),
        (("structguard", "--preset", "best"), "thorough"),
        (("--preset", "paper"), "name of a method"),
    ],
)
def test_what_is_not_there(said, words, wanted):
    code, out, err = said(*words)
    assert code == 2
    assert wanted in err
    assert not out
    assert "Traceback" not in err


def test_what_depends_on_the_request_and_the_network_is_told(said):
    lines = said("structguard")[1].splitlines()
    small = next(line for line in lines if line.startswith("--preset default, at most 16 images to forget: "))
    assert "variants=2" in small
    other = "--preset default, other requests of a network without BatchNorm: "
    assert f"{other}pressure=0.05, pressure_from=0.0, settle=250, max_steps=2000" in lines
    assert json.loads(said("structguard", "--json")[1])["without_batchnorm"]["default"]["settle"] == 250
