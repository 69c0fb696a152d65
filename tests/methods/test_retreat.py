"""The way back: points on the line, what decides, and whole runs that go it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from doubles import problem
from scipy.special import softmax
from torch import nn

from stakes.api import unlearn
from stakes.methods import Job, StructGuard
from stakes.methods.retreat import Way, surest_label
from stakes.unlearning import Unlearned

# Small steps far past the boundary of images of noise, whose copies are soon forgotten too.
SETTINGS = {
    "probes.inversion.batches": 1,
    "probes.inversion.batch": 6,
    "probes.inversion.iterations": 2,
    "settle": 30,
    "variants": 1,
    "variant_images": 8,
    "del_weight": 2.0,
    "lr": 0.001,
    "ret_weight": 0.1,
    "margin": 3.0,
    "recalibrate": False,
    "retreat": None,
}


def run(**settings: Any) -> Unlearned:
    tiny = problem("resnet18")
    return unlearn(tiny.model, tiny.split, anchors=tiny.anchors, settings=SETTINGS | settings)


def moved_by(result: Unlearned) -> dict[str, torch.Tensor]:
    before = problem("resnet18").model.state_dict()
    after = result.classifier.state_dict()
    return {name: after[name] - value for name, value in before.items() if value.is_floating_point()}


def size(moves: dict[str, torch.Tensor]) -> float:
    return sum(float(move.square().sum()) for move in moves.values()) ** 0.5


def test_points_of_the_line_and_what_has_no_beginning():
    first = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    first[1].running_mean.fill_(1.0), network[1].running_mean.fill_(3.0)
    first[1].num_batches_tracked.fill_(4)
    start, end = first[0].weight.detach().clone(), network[0].weight.detach().clone()
    last, told = network[2].weight.detach().clone(), []
    way = Way(first, network, lambda: told.append(1))
    way.go(0.25)
    assert torch.allclose(network[0].weight, 0.75 * start + 0.25 * end)
    assert torch.equal(network[1].running_mean, torch.full((3,), 1.5))
    assert int(network[1].num_batches_tracked) == 0, "a count has no middle"
    way.go(1.0)
    assert torch.equal(network[0].weight, end)
    way.go(0.0)
    assert torch.equal(network[0].weight, start)
    assert torch.equal(first[0].weight, start)
    assert torch.equal(network[2].weight, last)
    assert len(told) == 3


@pytest.mark.parametrize(("needed", "found"), [(0.0, 1 / 64), (0.3, 0.3125), (0.99, 1.0), (2.0, 1.0)])
def test_the_least_share_that_is_enough(needed, found):
    first, network = nn.Linear(1, 1), nn.Linear(1, 1)
    first.weight.data.zero_(), network.weight.data.fill_(1.0)
    assert Way(first, network).least(lambda: network.weight.item() >= needed) == found
    assert network.weight.item() == found


def test_a_run_ends_forgotten_on_the_line_and_nearer():
    plain, back = run(), run(retreat=1.0)
    assert plain.record.forgotten
    assert back.record.forgotten
    assert back.record.steps == plain.record.steps
    whole, part = moved_by(plain), moved_by(back)
    share = size(part) / size(whole)
    assert 0 < share < 0.95
    assert back.history[-1]["way"] == pytest.approx(share, abs=1e-4)
    assert "way" not in plain.history[-1]
    for name, move in part.items():
        assert torch.allclose(move, share * whole[name], atol=1e-5), name


def test_a_label_may_get_no_more_than_the_probability_that_is_allowed():
    forget = problem("resnet18").split.forget

    def surest(result: Unlearned) -> float:
        with torch.no_grad():
            said = result.classifier(forget.batch(torch.arange(4))).softmax(dim=1).numpy()
        return float(said[range(4), forget.labels].max())

    plain, free = run(), run(retreat=1.0)
    allowed = (surest(plain) + surest(free)) / 2
    held = run(retreat=allowed)
    assert surest(plain) < surest(held) <= allowed < surest(free) < 0.5
    assert size(moved_by(free)) < size(moved_by(held)) < size(moved_by(plain))
    stays = run(retreat=surest(plain) / 2)
    assert stays.history[-1]["way"] == 1.0
    assert size(moved_by(stays)) == size(moved_by(plain))


def test_the_first_model_and_not_the_reference_is_the_other_end():
    tiny = problem("resnet18")
    start = tiny.model.clone()
    with torch.no_grad():
        for value in start.parameters():
            value.mul_(1.01)
    made = [
        unlearn(
            start, tiny.split, reference=tiny.model, anchors=tiny.anchors, settings=SETTINGS | {"retreat": r}
        )
        for r in (None, 1.0)
    ]
    assert all(result.record.forgotten for result in made)
    before, end, here = start.state_dict(), *(result.classifier.state_dict() for result in made)
    share = made[1].history[-1]["way"]
    assert 0 < share < 1
    for name, value in before.items():
        if value.is_floating_point():
            wanted = value + share * (end[name] - value)
            assert torch.allclose(here[name], wanted, atol=1e-6), name


def test_the_surest_label_in_numpy():
    tiny = problem("resnet18")
    settings = StructGuard.configure("default", SETTINGS | {"forget_batch": 3}).settings
    model = tiny.model.clone()
    job = Job(original=tiny.model, model=model, forget=tiny.split.forget, settings=settings)
    model.train()
    found = surest_label(job)
    assert model.training
    with torch.no_grad():
        logits = model.eval()(tiny.split.forget.batch(torch.arange(4))).double().numpy()
    wanted = softmax(logits, axis=1)[range(4), tiny.split.forget.labels].max()
    assert found == pytest.approx(wanted, rel=1e-5)
