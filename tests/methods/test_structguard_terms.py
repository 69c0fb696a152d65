"""STRUCTGUARD: each term against an independent form, and which path it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from structguard_jobs import first_row, random_projector

from stakes.errors import RunFolderError
from stakes.methods import Job, StructGuard, structguard
from stakes.methods.anchored import AnchoredStructure
from stakes.models import Projector


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
