"""STRUCTGUARD: what the presets are."""

from __future__ import annotations

from stakes.api import unlearn
from stakes.audit.changes import forget_accuracy_under_changes, shift
from stakes.methods import StructGuard
from tinydigits import digits_model, split


def test_presets():
    paper, authors = StructGuard.configure("paper").settings, StructGuard.configure("authors").settings
    assert (paper.lr, paper.momentum, paper.weight_decay, paper.probes.epsilon) == (0.001, 0.9, 1e-4, 4.0)
    assert (paper.align, paper.align_axis, paper.importance, paper.head_l1, paper.head_l2) == (
        "cosine",
        "anchor",
        "sample",
        0.99,
        0.005,
    )
    assert (authors.lr, authors.projector_lr, authors.momentum, authors.probes.epsilon) == (
        0.005,
        0.009,
        0.0,
        3.0,
    )


def test_thorough_has_two_copies_of_every_image_and_a_longer_schedule():
    default, thorough = StructGuard.configure("default").settings, StructGuard.configure("thorough").settings
    assert [default.copies(images, batches) for images, batches in ((16, 1), (64, 1), (64, 4))] == [8, 8, 0]
    assert [thorough.copies(images, batches) for images, batches in ((16, 1), (64, 1), (64, 4))] == [
        32,
        128,
        128,
    ]
    assert [settings.schedule(4, settings.max_steps) for settings in (default, thorough)] == [200, 400]
    copies = {"variants", "variant_images", "variants_of_many"}
    changed = copies | {"del_weight", "hinge_mean", "settle"}
    assert {name for name, value in default if getattr(thorough, name) != value} == changed


def test_thorough_leaves_fewer_copies_recognised(tmp_path):
    """Of copies that no step saw; with both schedules cut short."""
    few = {"probes.inversion.batches": 1, "probes.inversion.batch": 16, "probes.inversion.iterations": 5}
    given, recognised = split(24), []
    for preset, settle in (("default", 32), ("thorough", 80)):
        result = unlearn(
            digits_model(),
            given,
            preset=preset,
            settings=few | {"probe_batch": 16, "forget_batch": 16, "settle": settle},
            cache=tmp_path,
            device="cpu",
        )
        assert result.record.forgotten
        found = forget_accuracy_under_changes(
            result.classifier, given.forget, seed=0, changes={"shift": shift}
        )
        recognised.append(found["shift"])
    assert recognised[1] < recognised[0]
