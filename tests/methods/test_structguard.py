"""STRUCTGUARD: whole runs, and when it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
from structguard_jobs import run

from stakes.anchors.anchors import Anchors
from stakes.api import unlearn
from stakes.errors import NumericalError
from stakes.methods import StructGuard
from stakes.models import Projector
from tinydigits import FEW_PROBES, anchors, digits_model, split


@pytest.mark.parametrize("model", ["small", "resnet10"])
@pytest.mark.parametrize("importance", ["sample", "batch"])
def test_an_identity_projector_has_no_importance_at_first(tmp_path, model, importance):
    with pytest.raises(
        NumericalError, match=r"importance_after higher.*projector_init to random.*reg_weight to 0"
    ):
        run(tmp_path, model, importance=importance, align_axis="instance", importance_after=0)


@pytest.mark.parametrize(
    "settings",
    [{"importance_after": 1}, {"projector_init": "random"}, {"reg_weight": 0.0}],
    ids=["after 1", "random", "no regularisation"],
)
def test_each_way_out_that_the_refusal_names_works(tmp_path, settings):
    result = run(tmp_path, **settings)
    assert result.record.steps > 0
    assert all(math.isfinite(value) for row in result.history for value in row.values())


@pytest.mark.parametrize("align", ["cosine", "mse", "mmd", "kl", "wasserstein"])
@pytest.mark.parametrize("importance", ["sample", "batch"])
def test_every_alignment_gives_an_importance(tmp_path, align, importance):
    result = run(tmp_path, align=align, importance=importance, importance_after=1, max_steps=3)
    assert "loss_reg" in result.history[-1] or result.record.stop_reason == "forgotten"


def test_forgets_on_the_deployed_path(tmp_path):
    result = run(tmp_path, importance_after=1, max_steps=200)
    assert result.record.forgotten
    forget = split().forget
    predicted = result.classifier(forget.batch(slice(None))).argmax(1)
    assert bool((predicted != forget.labels).all())
    assert isinstance(result.classifier.projector, Projector)


def test_anchors_are_needed_where_the_loss_has_affinities():
    """The preset for models to ship has none, and asks for none."""
    for changes, needs in (
        ({}, {"probes"}),
        ({"align_weight": 1.0}, {"probes", "anchors"}),
        ({"reg_weight": 1.0}, {"probes", "anchors"}),
    ):
        assert StructGuard.configure(overrides=changes).needs == needs
    for preset in ("paper", "authors"):
        assert StructGuard.configure(preset).needs == {"probes", "anchors"}


@pytest.mark.parametrize("mixing", [True, False])
def test_anchors_that_have_no_part_change_nothing_and_are_kept(tmp_path, mixing):
    """Given to a method that has no use for them: same weights, and in the run folder for analyses."""
    settings = {"retention": "soft", "probe_mixing": mixing, "align_weight": 0.0, "reg_weight": 0.0}

    def call(name: str, **more: Any):
        return unlearn(
            digits_model(),
            split(),
            preset="paper",
            settings=FEW_PROBES | settings | {"max_steps": 5},
            cache=tmp_path / "cache",
            device="cpu",
            out=tmp_path / name,
            **more,
        )

    without, given = call("without"), call("given", anchors=anchors())
    assert without.record.hashes.model_after == given.record.hashes.model_after
    assert without.record.hashes.anchors is None
    assert given.record.hashes.anchors is None
    assert not (tmp_path / "without" / "anchors.safetensors").exists()
    assert Anchors.load(tmp_path / "given" / "anchors.safetensors").fingerprint() == anchors().fingerprint()


def test_the_bypass_ships_no_projector(tmp_path):
    for settings in ({"path": "bypass"}, {"projector": "none", "reg_weight": 0.0}):
        result = run(tmp_path, importance_after=1, max_steps=200, **settings)
        assert result.record.forgotten
        assert result.classifier.projector is None
        assert not [name for name in result.classifier.exported_state() if name.startswith("projector")]


def test_a_projector_that_starts_at_random_must_learn_before_the_stop_test_counts(tmp_path):
    hasty = run(tmp_path, projector_init="random", max_steps=60)
    patient = run(tmp_path, projector_init="random", stop_probe_accuracy=0.9, max_steps=60)
    assert hasty.record.stop_reason == "forgotten"
    assert patient.record.steps > hasty.record.steps
    assert patient.record.stop_reason == "forgotten"
    assert patient.history[-1]["loss_ret"] < 0.5 * hasty.history[-1]["loss_ret"], "it knows its probes"


def test_the_importance_costs_one_pass_each_way_for_every_probe(tmp_path):
    few = {"projector_init": "random", "max_steps": 1}
    costs = []
    for settings in ({"reg_weight": 0.0}, {}, {"importance_probes": 4}):
        phases = run(tmp_path, **few, **settings).record.phases
        phase = next(phase for phase in phases if phase.name == "unlearn")
        costs.append((phase.forward_images, phase.backward_images))
    assert [b - costs[0][1] for _, b in costs] == [0, 9, 4]
    assert [f - costs[0][0] for f, _ in costs] == [0, 9, 4]


def test_the_stop_test_does_not_count_before_the_schedule_is_over(tmp_path):
    hasty = run(tmp_path, importance_after=1, max_steps=100)
    assert hasty.record.stop_reason == "forgotten"
    settle = hasty.record.steps + 10
    settled = run(tmp_path, importance_after=1, max_steps=100, settle=settle, deletion="hinge")
    assert settled.record.stop_reason == "forgotten"
    assert settled.record.steps >= settle
    forgotten = [row["forget_accuracy"] for row in settled.history if "forget_accuracy" in row]
    assert 0.0 in forgotten[:-1], "it was forgotten long before"
    most = hasty.record.steps + 8
    cut = run(tmp_path, importance_after=1, max_steps=most, settle=settle)
    assert cut.record.stop_reason == "forgotten", (
        "a schedule that the limit cuts short leaves a quarter of it"
    )
    assert most * 3 // 4 <= cut.record.steps < most


def test_costs_of_all_that_is_sent(tmp_path):
    """Copies, mixed probes through the original instead of its answers made before, and probes for the curvature."""
    few = {"max_steps": 2, "reg_weight": 0.0, "retention": "soft", "lr": 1e-9}
    costs = []
    for settings in ({}, {"variants": 2}, {"probe_mixing": True}, {"precondition": "channels"}):
        phases = run(tmp_path, **few, **settings).record.phases
        phase = next(phase for phase in phases if phase.name == "unlearn")
        costs.append((phase.forward_images, phase.backward_images))
    # Two steps with 6 and 3 of the 9 probes and 3 images each; whether it is forgotten is seen three times.
    assert costs == [(9 + 15 + 9, 15), (9 + 27 + 9, 27), (9 + 15 + 9, 15), (9 + 9 + 15 + 9, 15)]
