"""STRUCTGUARD beside the text: copies, what hinges are divided by, mixed probes, spared inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from structguard_jobs import first_row, hinge, plain_logits, random_projector

from stakes.errors import ConfigError
from stakes.methods import StructGuard, structguard
from stakes.methods.anchored import AnchoredStructure
from stakes.methods.variants import cut_and_mix, everyday


@pytest.mark.parametrize("times", [1, 3])
def test_copies_are_forgotten_with_the_labels_of_their_images(make_job, times):
    method, job = make_job(
        projector_init="random", deletion="hinge", margin=40.0, variants=times, batch_weights="share"
    )
    row, forget = first_row(method, job), job.forget_batch(0)
    copies = everyday(torch.cat([forget.pixels] * times), job.generator("variants", 0))
    labels = np.tile(forget.labels.numpy(), 1 + times)
    wanted = hinge(plain_logits(job, torch.cat([forget.pixels, copies])), labels, 40.0)
    share = 3 * (1 + times) / (3 * (1 + times) + 6)
    assert row["loss_del"] == pytest.approx(share * wanted, rel=1e-4)
    alone = hinge(plain_logits(job, forget.pixels), forget.labels.numpy(), 40.0)
    assert row["loss_del"] != pytest.approx(share * alone, rel=1e-3), "the copies count"


def test_copies_of_some_images_only(make_job):
    method, job = make_job(
        projector_init="random", deletion="hinge", margin=40.0, variants=2, variant_images=3
    )
    assert job.forget_batches.per_epoch == 2
    row, forget = first_row(method, job), job.forget_batch(0)
    copies = everyday(torch.cat([forget.pixels[:2]] * 2), job.generator("variants", 0))
    labels = torch.cat([forget.labels, forget.labels[:2], forget.labels[:2]]).numpy()
    wanted = hinge(plain_logits(job, torch.cat([forget.pixels, copies])), labels, 40.0)
    assert row["loss_del"] == pytest.approx(wanted, rel=1e-4)
    assert [job.settings.copies(images, batches=1) for images in (1, 3, 9)] == [2, 6, 6]
    assert [job.settings.copies(9, batches) for batches in (1, 2, 3, 30)] == [6, 4, 2, 2]
    few = job.settings.with_overrides({"variants_of_many": False})
    assert [few.copies(9, batches) for batches in (1, 2, 30)] == [6, 0, 0]


@pytest.mark.parametrize(
    ("mean", "batches", "divisor"),
    [
        ("all", 2, 3.0),
        ("active", 1, 1.0),
        ("geometric", 1, math.sqrt(3.0)),
        ("auto", 1, 3.0),
        ("auto", 2, math.sqrt(3.0)),
    ],
)
def test_what_the_hinges_are_divided_by(mean, batches, divisor):
    hinges = torch.tensor([0.0, 2.0, 0.0])
    assert float(structguard._count(hinges, mean, batches)) == pytest.approx(divisor)
    assert float(structguard._count(torch.zeros(3), mean, batches)) >= 1


def test_other_copies_at_every_step(make_job):
    method, job = make_job(projector_init="random", variants=1, lr=1e-12, projector_lr=1e-12)
    rows = []
    for row in method.run(job):
        rows.append(row["loss_del"])
        job.step += 1
        if job.step == 4:
            break
    # Four images in batches of three: every other step has one image alone, the same one if the epoch says so.
    assert len(set(rows)) == 4


def test_mixed_probes_are_held_to_what_the_original_says_of_them(make_job):
    method, job = make_job(projector_init="random", retention="soft", probe_mixing=True)
    row, projector = first_row(method, job), random_projector(job)
    mixed = cut_and_mix(job.probe_batch(0).pixels, job.generator("mixing", 0))
    structure = AnchoredStructure(job, projector)
    with torch.no_grad():
        plain = job.original.features(mixed)
        through = projector(plain)
        now = job.original.head(through).double().numpy()
    before, now = softmax(plain_logits(job, mixed), axis=1), softmax(now, axis=1)
    assert row["loss_ret"] == pytest.approx(rel_entr(before, now).sum() / len(now), rel=1e-3)
    pairs = zip(structure.of(plain).T.numpy(), structure.of(through).T.detach().numpy(), strict=True)
    wanted = -np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs])
    assert row["loss_align"] == pytest.approx(float(wanted), rel=1e-4)


def test_on_mixed_probes_the_identity_loses_nothing(make_job):
    row = first_row(*make_job(retention="soft", probe_mixing=True, importance_after=1))
    assert row["loss_ret"] == pytest.approx(0.0, abs=1e-6)
    assert row["loss_align"] == pytest.approx(-1.0, abs=1e-5)


@pytest.mark.parametrize("order", [("probe_mixing", "retention"), ("retention", "probe_mixing")])
def test_mixed_probes_have_no_labels(order):
    wrong = {"probe_mixing": True, "retention": "hard"}
    with pytest.raises(ConfigError, match=r"setting 'probe_mixing' .*retention=hard.*got True") as refused:
        StructGuard.configure("paper", {name: wrong[name] for name in order})
    assert "{" not in str(refused.value), "it does not print all settings"
    assert StructGuard.configure("paper", wrong | {"retention": "soft"}).settings.probe_mixing


@pytest.mark.parametrize("path", ["bypass", "projector"])
def test_one_preconditioned_step(make_job, path):
    """A plain step of the same job tells the gradient G; P in NumPy, from the inputs that the probes give."""
    settings = {"projector_init": "random", "path": path, "lr": 0.1, "reg_weight": 0.0}
    method, job = make_job(**settings)
    first_row(method, job)
    steps = {
        n: (v - dict(job.original.named_parameters())[n])
        for n, v in job.model.named_parameters()
        if "projector" not in n
    }
    method, spared = make_job(**settings, precondition="patches", damping=0.05)
    first_row(method, spared)
    probes = spared.need_probes().batch(torch.arange(len(spared.need_probes())))
    flat = ((probes - job.original.mean) / job.original.std).flatten(1)
    rows = {"body.first.weight": flat, "head.weight": job.original.features(probes)}
    origin = dict(job.original.named_parameters())
    for name, value in spared.model.named_parameters():
        if "projector" in name:
            plain = dict(job.model.named_parameters())[name]
            assert torch.allclose(value, plain, atol=1e-6), "it has no inputs to spare"
        elif name in rows:
            inputs = rows[name].double().numpy()
            a = inputs.T @ inputs / len(inputs)
            a /= np.diag(a).mean()
            p = 0.05 * np.linalg.inv(a + 0.05 * np.eye(len(a)))
            wanted = steps[name].detach().double().numpy() @ p
            moved = (value - origin[name]).detach().double().numpy()
            assert np.abs(moved - wanted).max() < 1e-3 * np.abs(steps[name].detach().numpy()).max()
            assert np.linalg.norm(moved) < np.linalg.norm(steps[name].detach().numpy())
        else:
            assert torch.equal(value, origin[name]), f"{name} stays"
