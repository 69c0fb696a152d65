"""Settings: names, types, ranges, and what the command line may write."""

from __future__ import annotations

import pytest

from stakes.config import MethodSettings, ProbeSettings, RunSettings, build, parse_assignments
from stakes.errors import ConfigError, StakesError
from stakes.methods import find_method
from stakes.methods.structguard_settings import StructGuardSettings


def test_defaults_are_those_of_the_paper():
    probes = ProbeSettings()
    assert (probes.per_image, probes.epsilon, probes.step_size, probes.iterations) == (20, 4.0, 0.1, 100)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        ProbeSettings().epsilon = 2.0


def test_overrides_reach_nested_settings_and_leave_the_original_alone():
    before = MethodSettings()
    after = before.with_overrides({"probes.epsilon": 3, "lr": 0.5})
    assert (after.probes.epsilon, after.lr) == (3.0, 0.5)
    assert before == MethodSettings()
    assert after.probes.iterations == before.probes.iterations


def test_nested_overrides_leave_the_other_settings_of_a_preset_alone():
    kind = find_method("structguard")
    nested, flat = {"probes": {"inversion": {"iterations": 20}}}, {"probes.inversion.iterations": 20}
    assert kind.configure(None, nested).settings == kind.configure(None, flat).settings
    assert kind.configure(None, nested).settings.probes.kind == "inverted"
    both = {"probes.inversion": {"iterations": 20}, "probes": {"per_image": 3}}
    assert (
        kind.configure(None, both).settings == kind.configure(None, flat | {"probes.per_image": 3}).settings
    )
    with pytest.raises(ConfigError, match=r"'probes\.epsilonn'.*epsilon, epsilons, inversion, iterations"):
        MethodSettings().with_overrides({"probes": {"epsilonn": 3}})


def test_unknown_names_list_the_alternatives():
    with pytest.raises(ConfigError, match=r"'probes\.epsilonn'.*epsilon, epsilons, inversion, iterations"):
        MethodSettings().with_overrides({"probes.epsilonn": 3})
    with pytest.raises(ConfigError, match=r"'leaning_rate'.*batchnorm.*lr"):
        MethodSettings().with_overrides({"leaning_rate": 3})
    with pytest.raises(ConfigError, match=r"'lr\.deep'"):
        MethodSettings().with_overrides({"lr.deep": 3})
    with pytest.raises(ConfigError, match=r"'nowhere\.at\.all'"):
        MethodSettings().with_overrides({"nowhere.at.all": 3})
    with pytest.raises(ConfigError, match=r"'sed' of RunSettings.*seed"):
        build(RunSettings, {"sed": 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0),
        ("lr", "fast"),
        ("lr", float("inf")),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("probe_batch", 2.5),
        ("max_steps", 0),
        ("batchnorm", "thaw"),
        ("probes", 5),
        ("probes.epsilon", -1),
        ("probes.per_image", 0),
        ("probes.iterations", -1),
        ("probes.epsilons", [1.0, 0.0]),
        ("probes.epsilons", [-2.0]),
    ],
)
def test_wrong_values_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=key.split(".")[-1]):
        MethodSettings().with_overrides({key: value})


def test_a_wrong_value_is_told_what_the_setting_takes_and_is():
    with pytest.raises(ConfigError) as refused:
        StructGuardSettings().with_overrides({"variant_images": "none"})
    said = str(refused.value)
    assert "expected whole number, at least 1 or null, got 'none'. Images of a round" in said
    with pytest.raises(ConfigError, match=r"expected number, above 0, got -1\. Radius"):
        MethodSettings().with_overrides({"probes.epsilon": -1})


def test_where_a_few_words_would_say_nothing_the_check_speaks():
    from stakes.bench.grid import Grid

    with pytest.raises(ConfigError, match="setting 'data' of Grid: expected input should be a valid tuple"):
        build(Grid, {"name": "g", "data": 3, "k": [1], "methods": ["before"]})
    with pytest.raises(ConfigError, match=r"setting 'data\.0\.name' of Grid: .* string, got 7"):
        build(Grid, {"name": "g", "data": [{"name": 7}], "k": [1], "methods": ["before"]})
    with pytest.raises(ConfigError, match="setting 'data' of Grid: expected field required, got none"):
        build(Grid, {"name": "g", "k": [1], "methods": ["before"]})
    with pytest.raises(ConfigError, match=r"setting 'data' of Grid: expected .*, got 'y{199}…"):
        build(Grid, {"name": "g", "data": "y" * 9000, "k": [1], "methods": ["before"]})


def test_a_mistyped_name_is_told_the_one_next_to_it():
    with pytest.raises(ConfigError, match=r"Did you mean epsilon or epsilons\?"):
        MethodSettings().with_overrides({"probes.epsilonn": 1.0})
    with pytest.raises(ConfigError, match="unknown setting 'qqq'") as refused:
        MethodSettings().with_overrides({"qqq": 1.0})
    assert "Did you mean" not in str(refused.value)


def test_radii_are_taken_in_turn():
    settings = ProbeSettings(epsilons=(1.0, 2.0))
    assert [settings.radius(probe) for probe in range(5)] == [1.0, 2.0, 1.0, 2.0, 1.0]
    assert ProbeSettings(epsilon=3.0).radius(7) == 3.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr=1e-4", 1e-4),
        ("lr=0.01", 0.01),
        ("lr=.5", 0.5),
        ("n=20", 20),
        ("x=null", None),
        ("x=true", True),
        ("x=identity", "identity"),
        ("x=[0.5, 1e-1, 2]", [0.5, 0.1, 2]),
        ("x=a=b", "a=b"),
        (" probes.epsilon = 3.0 ", 3.0),
    ],
)
def test_values_are_read_as_meant(text, value):
    ((_, read),) = parse_assignments([text]).items()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["lr", "=3", " =3", "", "x=[1, 2", "x={a"])
def test_bad_assignments(text):
    with pytest.raises(ConfigError, match="--set"):
        parse_assignments([text])


def test_scientific_notation_reaches_the_setting():
    overrides = parse_assignments(["weight_decay=1e-5", "probes.epsilons=[1e-1, 2]", "max_steps=1e3"])
    settings = MethodSettings().with_overrides(overrides)
    assert settings.weight_decay == 1e-5
    assert settings.probes.epsilons == (0.1, 2.0)
    assert settings.max_steps == 1000


def test_message_says_expected_got_and_next():
    error = StakesError("row number", expected="0 to 9", got="50", fix="Rows count from 0.")
    assert str(error) == "row number: expected 0 to 9, got 50. Rows count from 0."
    assert str(StakesError("no such file")) == "no such file."
    assert str(StakesError("really?")) == "really?"


@pytest.mark.parametrize(
    "text", ["lr=yes", "lr=true", "max_steps=no", "probes.epsilons=[1, on]", "batchnorm=off"]
)
def test_yes_and_no_are_no_numbers(text):
    with pytest.raises(ConfigError, match=r"a number or a name, not yes or no"):
        MethodSettings().with_overrides(parse_assignments([text]))


def test_yes_and_no_are_taken_where_they_mean_something():
    from stakes.models.recipe import recipe

    changed = recipe("own").with_overrides(parse_assignments(["flip=no", "nesterov=yes"]))
    assert (changed.flip, changed.nesterov) == (False, True)
