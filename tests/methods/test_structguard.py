"""STRUCTGUARD: each term against an independent form, which path it takes, and when it refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import problem
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor

from stakes.anchors.anchors import Anchors
from stakes.api import unlearn
from stakes.audit.changes import forget_accuracy_under_changes, shift
from stakes.errors import ConfigError, NumericalError, RunFolderError
from stakes.methods import Job, StructGuard, structguard
from stakes.methods.anchored import AnchoredStructure
from stakes.methods.job import NoStore
from stakes.methods.variants import cut_and_mix, everyday
from stakes.models import Projector
from stakes.probe_store import ProbeStore
from tinydigits import FEW_PROBES, anchors, digits_model, split

# The reading of the open points that the formulas below are written for, whatever the presets choose.
READING = {
    "path": "projector",
    "batch_weights": "sum",
    "passes": "joint",
    "importance_after": 0,
    "importance_probes": None,
}
QUICK = FEW_PROBES | READING | {"probe_batch": 6, "forget_batch": 3, "max_steps": 40, "lr": 0.01}


@pytest.fixture
def make_job(tmp_path: Path):
    """A job on the tiny problem whose network has neither BatchNorm nor dropout: training mode changes nothing."""

    def make(**settings: Any) -> tuple[StructGuard, Job[Any]]:
        tiny = problem("mlp")
        overrides = {**QUICK, "weight_decay": 0.0, "momentum": 0.0, **settings}
        method = StructGuard.configure("paper", overrides)
        original = tiny.model.clone().eval().requires_grad_(False)
        probes = ProbeStore(tmp_path).build(original, tiny.split.forget, method.settings.probes)
        job = Job(
            original=original,
            model=original.clone().requires_grad_(True),
            forget=tiny.split.forget,
            settings=method.settings,
            probes=probes,
            anchors=tiny.anchors,
        )
        return method, job

    return make


def first_row(method: StructGuard, job: Job[Any]) -> dict[str, float]:
    return next(iter(method.run(job)))


def random_projector(job: Job[Any]) -> Projector:
    return Projector(job.model.feature_width, init="random", generator=job.generator("projector"))


class Reference:
    """The terms of the first step in float64, written out in NumPy."""

    def __init__(self, job: Job[Any], projector: torch.nn.Module | None) -> None:
        probes, forget = job.probe_batch(0), job.forget_batch(0)
        w, c = (
            value.detach().double().numpy() for value in (job.original.head.weight, job.original.head.bias)
        )
        with torch.no_grad():
            plain = job.original.features(probes.pixels)
            through = plain if projector is None else projector(plain)
            gone = job.original.features(forget.pixels)
        self.head = w
        self.gone = gone.double().numpy() @ w.T + c
        self.kept = through.double().numpy() @ w.T + c
        self.before = plain.double().numpy() @ w.T + c
        self.probe_labels, self.forget_labels = probes.labels.numpy(), forget.labels.numpy()
        structure = AnchoredStructure(job, torch.nn.Identity())
        self.s_ori, self.s_unl = (structure.of(v).double().numpy() for v in (plain, through))
        self.share = len(forget) / (len(forget) + len(probes))

    @staticmethod
    def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
        return -float(log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())

    def columns(self) -> float:
        pairs = zip(self.s_ori.T, self.s_unl.T, strict=True)
        return -float(np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]))

    def rows(self) -> float:
        pairs = zip(self.s_ori, self.s_unl, strict=True)
        return -float(np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]))


def test_the_terms_of_the_first_step(make_job):
    settings = {"projector_init": "random", "del_weight": 2.0, "ret_weight": 3.0, "align_weight": 4.0}
    method, job = make_job(**settings)
    row, wanted = first_row(method, job), Reference(job, random_projector(job))
    assert row["loss_del"] == pytest.approx(
        -2 * wanted.cross_entropy(wanted.gone, wanted.forget_labels), rel=1e-4
    )
    assert row["loss_ret"] == pytest.approx(
        3 * wanted.cross_entropy(wanted.kept, wanted.probe_labels), rel=1e-4
    )
    assert row["loss_align"] == pytest.approx(4 * wanted.columns(), rel=1e-4)
    assert row["loss_reg"] == 0.0, "nothing has moved yet"
    assert row["loss_head"] == pytest.approx(
        0.001 * (0.99 * np.abs(wanted.head).sum() + 0.005 * (wanted.head**2).sum()), rel=1e-4
    )
    assert row["loss"] == pytest.approx(sum(value for name, value in row.items() if name != "loss"), rel=1e-5)


def test_weights_by_share_of_the_batch(make_job):
    method, job = make_job(projector_init="random", batch_weights="share", align_axis="instance")
    row, wanted = first_row(method, job), Reference(job, random_projector(job))
    assert wanted.share == pytest.approx(3 / 9)
    assert row["loss_del"] == pytest.approx(
        -wanted.share * wanted.cross_entropy(wanted.gone, wanted.forget_labels), rel=1e-4
    )
    assert row["loss_ret"] == pytest.approx(
        (1 - wanted.share) * wanted.cross_entropy(wanted.kept, wanted.probe_labels), rel=1e-4
    )
    assert row["loss_align"] == pytest.approx(wanted.rows(), rel=1e-4)


def test_hinge_of_the_margin(make_job):
    method, job = make_job(projector_init="random", deletion="hinge", margin=0.7)
    row, wanted = first_row(method, job), Reference(job, None)
    losses = []
    for logits, label in zip(wanted.gone, wanted.forget_labels, strict=True):
        losses.append(max(0.0, 0.7 + logits[label] - np.delete(logits, label).max()))
    assert row["loss_del"] == pytest.approx(float(np.mean(losses)), rel=1e-4)


def test_soft_retention(make_job):
    method, job = make_job(projector_init="random", retention="soft")
    row, wanted = first_row(method, job), Reference(job, random_projector(job))
    before, now = softmax(wanted.before, axis=1), softmax(wanted.kept, axis=1)
    assert row["loss_ret"] == pytest.approx(rel_entr(before, now).sum() / len(now), rel=1e-3)
    method, job = make_job(retention="soft", importance_after=1)
    assert first_row(method, job)["loss_ret"] == pytest.approx(0.0, abs=1e-6)


def test_retention_of_logits(make_job):
    method, job = make_job(projector_init="random", retention="logits")
    row, wanted = first_row(method, job), Reference(job, random_projector(job))
    change = wanted.kept - wanted.before
    assert row["loss_ret"] == pytest.approx(change.var(axis=1).mean(), rel=1e-3)
    method, job = make_job(retention="logits", importance_after=1)
    assert first_row(method, job)["loss_ret"] == pytest.approx(0.0, abs=1e-6)


def test_retention_of_logits_sees_a_sure_answer_grow_less_sure():
    before = torch.tensor([[20.0, 0.0, 0.0]])
    kept = structguard._Kept(torch.zeros(1, 1, 2, 2), before.argmax(dim=1), {"logits": before})

    def loss(kind: str, logits: list[float]) -> float:
        settings = StructGuard.configure("paper", {"retention": kind}).settings
        return float(structguard._retention(torch.tensor([logits]), kept, settings))

    assert loss("soft", [14.0, 0.0, 0.0]) < 1e-5
    assert loss("logits", [14.0, 0.0, 0.0]) == pytest.approx(8.0)  # (4² + 2² + 2²) / 3
    assert loss("logits", [25.0, 5.0, 5.0]) == pytest.approx(0.0, abs=1e-9), "the same answer"


def test_of_many_classes_the_ten_likeliest_before_or_now_are_held():
    draws = np.random.default_rng(0)
    before, now = draws.normal(0, 3, (2, 6, 40))
    now[0, before[0].argmin()] = before[0].max() + 9.0  # from the last to the first place

    held = np.argsort(np.maximum(log_softmax(before, axis=1), log_softmax(now, axis=1)), axis=1)[:, -10:]
    assert before[0].argmin() in held[0]
    change = np.take_along_axis(now - before, held, axis=1)
    settings = StructGuard.configure("paper", {"retention": "logits"}).settings
    answers = {"logits": torch.tensor(before, dtype=torch.float32)}
    kept = structguard._Kept(torch.zeros(6, 1, 2, 2), torch.zeros(6, dtype=torch.int64), answers)
    logits = torch.tensor(now, dtype=torch.float32, requires_grad=True)
    loss = structguard._retention(logits, kept, settings)
    assert loss.item() == pytest.approx(change.var(axis=1).mean(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert [set(row.nonzero().flatten().tolist()) for row in gradient] == [set(row) for row in held.tolist()]


def test_the_identity_projector_starts_on_the_original_structure(make_job):
    method, job = make_job(importance_after=1)
    row, wanted = first_row(method, job), Reference(job, None)
    assert row["loss_align"] == pytest.approx(-1.0, abs=1e-5)
    assert row["loss_ret"] == pytest.approx(
        wanted.cross_entropy(wanted.before, wanted.probe_labels), rel=1e-4
    )
    assert "loss_reg" not in row


@pytest.mark.parametrize(
    ("weight", "term"),
    [("align_weight", "loss_align"), ("reg_weight", "loss_reg"), ("head_weight", "loss_head")],
)
def test_a_weight_of_zero_leaves_the_term_out(make_job, weight, term):
    assert term in first_row(*make_job(projector_init="random"))
    assert term not in first_row(*make_job(projector_init="random", **{weight: 0.0}))


def test_one_step_of_sgd_with_two_learning_rates(make_job):
    method, job = make_job(projector_init="random", lr=0.1, projector_lr=0.02, reg_weight=0.0)
    start = random_projector(job)
    model = job.original.clone().requires_grad_(True)
    probes, forget = job.probe_batch(0), job.forget_batch(0)
    structure = AnchoredStructure(job, start)
    projected = start(model.features(probes.pixels))
    ce = torch.nn.functional.cross_entropy
    loss = -ce(model.head(model.features(forget.pixels)), forget.labels)
    loss = loss + ce(model.head(projected), probes.labels)
    cosine = torch.nn.functional.cosine_similarity(
        structure.affinities[probes.indices], structure.of(projected), dim=0
    )
    loss = loss - cosine.mean()
    loss = loss + 0.001 * (0.99 * model.head.weight.abs().sum() + 0.005 * model.head.weight.square().sum())
    loss.backward()
    first_row(method, job)
    for (name, moved), (_, origin) in zip(
        job.model.body.named_parameters(), model.body.named_parameters(), strict=True
    ):
        assert torch.allclose(moved, origin.detach() - 0.1 * origin.grad, atol=1e-6), name
    assert torch.allclose(
        job.model.head.weight, model.head.weight.detach() - 0.1 * model.head.weight.grad, atol=1e-6
    )
    assert job.model.projector is not None
    for moved, origin in zip(job.model.projector.parameters(), start.parameters(), strict=True):
        assert torch.allclose(moved, origin.detach() - 0.02 * origin.grad, atol=1e-6)


def test_deletion_does_not_reach_the_projector(make_job):
    quiet = {"ret_weight": 0.0, "align_weight": 0.0, "reg_weight": 0.0}
    method, job = make_job(projector_init="random", **quiet)
    first_row(method, job)
    assert job.model.projector is not None
    start = random_projector(job)
    assert all(
        torch.equal(a, b) for a, b in zip(job.model.projector.parameters(), start.parameters(), strict=True)
    )
    assert not torch.equal(job.model.head.weight, job.original.head.weight)


def test_retention_reaches_it(make_job):
    method, job = make_job(projector_init="random", align_weight=0.0, reg_weight=0.0)
    first_row(method, job)
    assert job.model.projector is not None
    assert not torch.equal(job.model.projector.fc1.weight, random_projector(job).fc1.weight)


def test_regularisation_grows_from_zero_and_holds_parameters_back(make_job):
    moved = {}
    for weight in (0.01, 30.0):
        method, job = make_job(projector_init="random", reg_weight=weight)
        rows = []
        for row in method.run(job):
            job.step += 1
            rows.append(row)
            if job.step == 15:
                break
        assert rows[0]["loss_reg"] == 0.0
        assert rows[1]["loss_reg"] > 0
        distance = sum(
            float((a - b).detach().square().sum())
            for a, b in zip(job.model.body.parameters(), job.original.body.parameters(), strict=True)
        )
        moved[weight] = distance
    assert moved[30.0] < moved[0.01]


def test_importance_is_only_made_from_the_weights_of_its_step(make_job):
    _, job = make_job(projector_init="random")
    structure = AnchoredStructure(job, random_projector(job))
    job.step = 3
    with pytest.raises(RunFolderError, match="cannot be made again"):
        structure.importance()
    job.step = 0
    assert all(bool((value >= 0).all()) for value in structure.importance().values())


@pytest.mark.parametrize("path", ["projector", "bypass"])
def test_a_model_that_came_with_a_projector_goes_on_with_it(make_job, path):
    method, job = make_job(path=path, reg_weight=0.0, lr=1e-9)
    for model in (job.original, job.model):
        model.projector = Projector(
            model.feature_width, init="random", generator=torch.Generator().manual_seed(1)
        )
    pixels = job.forget.batch(slice(None))
    before = job.original(pixels).detach()
    row = first_row(method, job)
    assert torch.allclose(method.deploy(job)(pixels), before, atol=1e-4)
    # Both losses go through the one path there is.
    assert row["loss_del"] == pytest.approx(
        -float(
            torch.nn.functional.cross_entropy(before[job.forget_batch(0).indices], job.forget_batch(0).labels)
        ),
        rel=1e-4,
    )
    assert row["loss_align"] == pytest.approx(-1.0, abs=1e-5), "the structure is that behind the projector"


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


# -- beside the text -------------------------------------------------------------------------------------------


def hinge(logits: np.ndarray, labels: np.ndarray, margin: float) -> float:
    losses = [max(0.0, margin + z[y] - np.delete(z, y).max()) for z, y in zip(logits, labels, strict=True)]
    return float(np.mean(losses))


def plain_logits(job: Job[Any], pixels: Tensor) -> np.ndarray:
    """Those of the original, head and all in float64."""
    head = job.original.head
    features = job.original.features(pixels).double().numpy()
    return features @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()


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


@pytest.mark.parametrize("path", ["bypass", "projector"])
def test_the_lr_falls_along_half_a_cosine_to_a_tenth(make_job, path):
    method, job = make_job(path=path, settle=6, lr=0.01, projector_lr=0.002, reg_weight=0.0, forget_batch=4)
    seen = []
    for _ in method.run(job):
        seen.append([group["lr"] for group in job._tracked["optimizer"].param_groups])
        job.step += 1
        if job.step == 9:
            break
    shares = [max(0.1, (1 + math.cos(math.pi * step / 6)) / 2) for step in range(6)] + [0.1] * 3
    assert shares[0] == 1
    assert seen == [[pytest.approx(0.01 * share), pytest.approx(0.002 * share)] for share in shares]


def test_four_batches_of_forget_images_take_a_schedule_twice_as_long(make_job):
    method, job = make_job(settle=6, reg_weight=0.0, forget_batch=1)
    job.step = 11
    assert not method.may_stop(job)
    job.step = 12
    assert method.may_stop(job)


def test_the_weight_of_an_image_grows_while_it_is_recognised(make_job):
    method, job = make_job(
        deletion="hinge",
        margin=0.5,
        pressure=0.25,
        reg_weight=0.0,
        variants=1,
        settle=3,
        lr=1e-6,
        forget_batch=4,
    )
    weights = [job._tracked["pressure"].weights.clone() for _ in _steps(method, job, 6)]
    assert bool((weights[2] == 1).all()), "not before the schedule is over"
    weights = weights[3:]
    assert all(bool((later >= earlier).all()) for earlier, later in itertools.pairwise(weights))
    assert float(weights[0].max()) == 1.25, "known by heart, so above the margin at first"
    assert set((weights[0] * 4).tolist()) <= {4.0, 5.0}


def _steps(method: StructGuard, job: Job[Any], count: int) -> Iterator[None]:
    for _ in method.run(job):
        yield
        job.step += 1
        if job.step == count:
            return


def test_without_a_schedule_the_lr_stays(make_job):
    method, job = make_job(reg_weight=0.0, lr=0.01)
    for _ in method.run(job):
        assert {group["lr"] for group in job._tracked["optimizer"].param_groups} == {0.01}
        job.step += 1
        if job.step == 5:
            break


class Kept(NoStore):
    """A store that gives back one state."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def load(self) -> dict[str, Any]:
        return self.state


def test_a_resumed_schedule_goes_on_from_the_whole_lr(make_job):
    """What the optimiser saved is the lr of a later step, of which another share would be taken."""
    method, job = make_job(settle=6, lr=0.01, reg_weight=0.0, forget_batch=4)
    for _ in method.run(job):
        job.step += 1
        if job.step == 4:
            break
    again = Job(
        **{
            name: getattr(job, name)
            for name in ("original", "model", "forget", "settings", "probes", "anchors")
        },
        store=Kept(job.state()),
    )
    assert again.step == 4
    next(iter(method.run(again)))
    lr = 0.01 * (1 + math.cos(math.pi * 4 / 6)) / 2
    assert [group["lr"] for group in again._tracked["optimizer"].param_groups] == [pytest.approx(lr)] * 2


# -- whole runs ------------------------------------------------------------------------------------------------


def run(cache: Path, model: str = "small", **settings: Any):
    return unlearn(
        digits_model(model),  # type: ignore[arg-type]
        split(),
        anchors=anchors(),
        preset="paper",
        settings=QUICK | settings,
        cache=cache,
        device="cpu",
    )


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
