"""Structure against NumPy and SciPy, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from stakes.errors import ConfigError
from stakes.models import Projector
from stakes.structure import (
    affinity,
    alignment_loss,
    all_zero,
    batch_importance,
    elastic_net,
    regularisation,
    sample_importance,
    scale_importance,
    structural_collapse,
)
from tinydigits import digits_model, known

KINDS = ("cosine", "mse", "mmd", "kl", "wasserstein")


def matrices(seed: int, n: int = 7, b: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.rand((n, b), generator=drawn) - 1 for _ in range(2))  # type: ignore[return-value]


# -- affinity --------------------------------------------------------------------------------------------------


def test_affinity_is_the_cosine():
    features, anchors = matrices(0)
    anchors = F.normalize(anchors, dim=1)
    v, a = features.double().numpy(), anchors.double().numpy()
    wanted = (v @ a.T) / np.linalg.norm(v, axis=1, keepdims=True)
    assert np.allclose(affinity(features, anchors), wanted, atol=1e-6)
    assert torch.allclose(affinity(17.0 * features, anchors), affinity(features, anchors), atol=1e-6)
    assert float(affinity(features, anchors).abs().max()) <= 1 + 1e-6
    assert not torch.allclose(affinity(features, anchors.roll(1, 0)), affinity(features, anchors), atol=0.1)


def test_affinity_of_nothing_is_zero_not_nan():
    assert affinity(torch.zeros(2, 3), torch.eye(3)).abs().sum() == 0


# -- alignment -------------------------------------------------------------------------------------------------


def cosine(x, y, axis):
    rows = zip(x, y, strict=True) if axis == "instance" else zip(x.T, y.T, strict=True)
    return -np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in rows])


def mmd(x, y):
    def distances(p, q):
        return np.array([[((a - b) ** 2).sum() for b in q] for a in p])

    within = distances(x, x)
    pairs = np.sort(within[np.triu_indices(len(x), 1)])
    width = pairs[(len(pairs) - 1) // 2]
    k = [np.exp(-d / width).mean() for d in (within, distances(y, y), distances(x, y))]
    return k[0] + k[1] - 2 * k[2]


REFERENCES = {
    "cosine": lambda x, y: cosine(x, y, "anchor"),
    "mse": lambda x, y: ((x - y) ** 2).mean(),
    "kl": lambda x, y: (
        scipy.special.rel_entr(scipy.special.softmax(x, axis=1), scipy.special.softmax(y, axis=1)).sum()
        / len(x)
    ),
    "wasserstein": lambda x, y: np.mean(
        [scipy.stats.wasserstein_distance(a, b) for a, b in zip(x.T, y.T, strict=True)]
    ),
    "mmd": mmd,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 3, 7])
def test_alignment_agrees_with_an_independent_reference(kind, n):
    first, second = matrices(n, n)
    wanted = REFERENCES[kind](first.double().numpy(), second.double().numpy())
    assert float(alignment_loss(first, second, kind)) == pytest.approx(float(wanted), rel=1e-4, abs=1e-6)


def test_cosine_of_rows():
    first, second = matrices(1)
    wanted = cosine(first.double().numpy(), second.double().numpy(), "instance")
    assert float(alignment_loss(first, second, "cosine", "instance")) == pytest.approx(wanted, rel=1e-5)
    columns = alignment_loss(first, second, "cosine", "anchor")
    assert float(columns) != pytest.approx(wanted, rel=1e-2)
    assert float(alignment_loss(first.T, second.T, "cosine", "instance")) == pytest.approx(
        float(columns), rel=1e-5
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.integers(2, 8), st.integers(2, 6))
def test_equality_is_the_minimum(seed, kind, n, b):
    first, second = matrices(seed, n, b)
    least = -1.0 if kind == "cosine" else 0.0
    at_equality = float(alignment_loss(first, first.clone(), kind))
    assert at_equality == pytest.approx(least, abs=1e-6)
    assert float(alignment_loss(first, second, kind)) >= at_equality - 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_down_the_gradient_brings_structures_closer(kind):
    first, second = matrices(3)
    second.requires_grad_()
    loss = alignment_loss(first, second, kind)
    (gradient,) = torch.autograd.grad(loss, second)
    assert float(gradient.norm()) > 1e-4
    closer = (second - 0.01 * gradient / gradient.norm()).detach()
    assert alignment_loss(first, closer, kind) < loss.detach()


def test_only_the_cosine_ignores_scale():
    first, second = matrices(4)
    for axis in ("anchor", "instance"):
        value = alignment_loss(first, second, "cosine", axis)
        assert float(alignment_loss(first, 3 * second, "cosine", axis)) == pytest.approx(
            float(value), abs=1e-6
        )
    for kind in set(KINDS) - {"cosine"}:
        value = float(alignment_loss(first, second, kind))
        assert float(alignment_loss(first, 3 * second, kind)) != pytest.approx(value, rel=1e-2)


@pytest.mark.parametrize("kind", ["mmd", "wasserstein"])
def test_distributions_ignore_the_order_of_instances(kind):
    first, second = matrices(5)
    value = float(alignment_loss(first, second, kind))
    assert float(alignment_loss(first, second.flip(0), kind)) == pytest.approx(value, abs=1e-6)
    assert float(alignment_loss(first, second.flip(0), "mse")) != pytest.approx(
        float(alignment_loss(first, second, "mse")), rel=1e-2
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_instance(kind):
    """Columns of one entry have cosine ±1 and no gradient; every other form has one."""
    first, second = matrices(6, 1)
    second.requires_grad_()
    for axis in ("anchor", "instance"):
        (gradient,) = torch.autograd.grad(alignment_loss(first, second, kind, axis), second)
        degenerate = (kind, axis) == ("cosine", "anchor")
        assert (float(gradient.abs().max()) < 1e-6) == degenerate


def test_wrong_alignments_are_refused():
    first, second = matrices(0)
    with pytest.raises(ConfigError, match="one shape"):
        alignment_loss(first, second[:3])
    with pytest.raises(ConfigError, match="one shape"):
        alignment_loss(first[0], second[0])
    with pytest.raises(ConfigError, match=r"wasserstein.*'l7'"):
        alignment_loss(first, second, "l7")
    with pytest.raises(ConfigError, match="instance or anchor"):
        alignment_loss(first, second, "cosine", "diagonal")


# -- collapse --------------------------------------------------------------------------------------------------


def test_collapse():
    first, second = matrices(7)
    wanted = np.abs(first.double().numpy() - second.double().numpy()).mean()
    assert float(structural_collapse(first, second)) == pytest.approx(wanted, rel=1e-6)
    assert structural_collapse(first, second) == structural_collapse(second, first)
    assert structural_collapse(first, first) == 0
    assert structural_collapse(torch.ones(3, 2), -torch.ones(3, 2)) == 2


def test_collapse_sees_a_shuffle_of_anchors():
    model, pixels = digits_model(), known().batch(slice(0, 20))
    anchors = F.normalize(torch.randn(10, 256, generator=torch.Generator().manual_seed(0)), dim=1)
    before = affinity(model.features(pixels), anchors)
    assert structural_collapse(before, affinity(model.features(pixels), anchors)) == 0
    assert structural_collapse(before, affinity(model.features(pixels), anchors.roll(1, 0))) > 0.01


# -- importance ------------------------------------------------------------------------------------------------


class Case:
    """Structural importance of the digits model behind a projector."""

    def __init__(self, kind="resnet10", init="random", images=12):
        self.model = digits_model(kind).clone().requires_grad_(True)
        self.projector = Projector(self.model.feature_width, init=init)
        drawn = torch.Generator().manual_seed(0)
        self.anchors = F.normalize(torch.randn(10, self.model.feature_width, generator=drawn), dim=1)
        self.pixels = known().batch(slice(0, images))
        with torch.no_grad():
            self.rows = affinity(self.model.features(self.pixels), self.anchors)
        self.parameters = dict(self.model.body.named_parameters())

    def loss(self, pixels, rows):
        return alignment_loss(
            rows, affinity(self.projector(self.model.features(pixels)), self.anchors), axis="instance"
        )

    def functional(self, parameters, pixels, row):
        named = {f"model.body.{name}": value for name, value in parameters.items()}
        projected = functional_call(self.view(), named, (pixels.unsqueeze(0),))
        return alignment_loss(row.unsqueeze(0), affinity(projected, self.anchors), axis="instance")

    def view(self):
        case = self

        class Projected(nn.Module):
            def __init__(self):
                super().__init__()
                self.model = case.model

            def forward(self, pixels):
                return case.projector(self.model.features(pixels))

        return Projected()

    def batches(self, *sizes):
        return list(zip(self.pixels.split(list(sizes)), self.rows.split(list(sizes)), strict=True))


def test_sample_importance_is_a_loop_over_probes():
    case = Case()
    wanted = {name: torch.zeros_like(value) for name, value in case.parameters.items()}
    for pixels, row in zip(case.pixels, case.rows, strict=True):
        gradients = torch.autograd.grad(case.loss(pixels[None], row[None]), list(case.parameters.values()))
        for name, gradient in zip(wanted, gradients, strict=True):
            wanted[name] += gradient.abs() / len(case.pixels)
    for sizes, chunk in (((12,), 8), ((5, 7), 3), ((12,), 100)):
        found = sample_importance(case.functional, case.parameters, case.batches(*sizes), chunk=chunk)
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            assert torch.allclose(value, wanted[name], rtol=1e-3, atol=1e-5), name
            assert bool((value >= 0).all())
            assert not value.requires_grad
    assert all(parameter.grad is None for parameter in case.parameters.values())


def test_batches_cancel():
    case = Case()
    by_sample = sample_importance(case.functional, case.parameters, case.batches(12))
    by_batch = batch_importance(case.loss, case.parameters, case.batches(5, 7))
    alone = batch_importance(case.loss, case.parameters, case.batches(*[1] * 12))
    smaller = 0.0
    for name, value in by_sample.items():
        assert bool((by_batch[name] <= value + 1e-5).all()), name
        assert torch.allclose(alone[name], value, rtol=1e-3, atol=1e-5), "batches of one are samples"
        smaller = max(smaller, float((value - by_batch[name]).max()))
    assert smaller > 1e-3, "nothing cancelled: the comparison says nothing"


def test_batch_importance_weighs_batches_by_their_size():
    weight = torch.tensor([2.0], requires_grad=True)
    batches = [(torch.full((3, 1), 1.0), torch.zeros(3, 1)), (torch.full((1, 1), 5.0), torch.zeros(1, 1))]
    found = batch_importance(lambda x, _: (weight * x).mean(), {"w": weight}, batches)
    assert found["w"].item() == pytest.approx((3 * 1 + 1 * 5) / 4)


def test_parameters_the_loss_does_not_see_have_none():
    weight, idle = torch.ones(1, requires_grad=True), torch.ones(2, requires_grad=True)
    batches = [(torch.ones(3, 1), torch.zeros(3, 1))]
    assert batch_importance(lambda x, _: (weight * x).sum(), {"w": weight, "i": idle}, batches)[
        "i"
    ].tolist() == [0, 0]
    found = sample_importance(lambda p, x, _: (p["w"] * x).sum(), {"w": weight, "i": idle}, batches)
    assert found["i"].tolist() == [0, 0]
    assert found["w"].item() == 1


@pytest.mark.parametrize("kind", ["small", "resnet10"])
def test_the_identity_projector_leaves_nothing_but_rounding(kind):
    still, moved = Case(kind, "identity", 60), Case(kind, "random", 60)
    rounding = sample_importance(still.functional, still.parameters, still.batches(60))
    real = sample_importance(moved.functional, moved.parameters, moved.batches(60))
    largest = [max(float(value.max()) for value in found.values()) for found in (rounding, real)]
    assert largest[0] < 5e-7, "all_zero takes 1e-6 and less for rounding"
    assert largest[1] > 1e-2
    assert all_zero(rounding)
    assert not all_zero(real)


def test_all_zero():
    assert all_zero({})
    assert all_zero({"a": torch.zeros(2)})
    assert not all_zero({"a": torch.zeros(2), "b": torch.tensor([-1.0])})
    assert not all_zero({"a": torch.tensor([float("nan")])})


def test_scales():
    importance = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([[5.0], [5.0]])}
    assert scale_importance(importance) == importance
    ranged = scale_importance(importance, "minmax")
    assert ranged["a"].tolist() == [0, 1]
    assert ranged["b"].flatten().tolist() == [0, 0]
    mean = scale_importance(importance, "mean")
    assert torch.cat([v.flatten() for v in mean.values()]).mean().item() == pytest.approx(1.0)
    assert torch.allclose(mean["a"] / mean["a"][0], importance["a"] / importance["a"][0])


# -- closed forms ----------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_regularisation_and_its_gradient(seed):
    drawn = torch.Generator().manual_seed(seed)
    names = {"a": (2, 3), "b": (4,)}
    importance, now, origin = (
        {n: torch.rand(s, generator=drawn, dtype=torch.float64) for n, s in names.items()} for _ in range(3)
    )
    for value in now.values():
        value.requires_grad_()
    value = regularisation(importance, now, origin)
    wanted = 0.5 * sum(
        (importance[n].numpy() * (now[n].detach().numpy() - origin[n].numpy()) ** 2).sum() for n in names
    )
    assert float(value.detach()) == pytest.approx(float(wanted))
    for name, gradient in zip(names, torch.autograd.grad(value, list(now.values())), strict=True):
        assert torch.allclose(gradient, importance[name] * (now[name] - origin[name]).detach())
    assert float(regularisation(importance, origin, origin)) == 0


def test_elastic_net_and_its_gradient():
    weight = torch.tensor([[1.0, -2.0], [0.5, 0.0]], requires_grad=True)
    value = elastic_net(weight, 0.99, 0.005)
    assert value.item() == pytest.approx(0.99 * 3.5 + 0.005 * 5.25)
    (gradient,) = torch.autograd.grad(value, weight)
    assert torch.allclose(gradient, (0.99 * weight.sign() + 0.01 * weight).detach())
    assert elastic_net(torch.ones(2), 0.0, 0.5).item() == 1.0
