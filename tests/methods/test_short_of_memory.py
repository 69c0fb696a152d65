"""What methods compute beside their steps, where memory is short: less at a time, to the same result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from doubles import job_of, problem, steps_of

from stakes.errors import OutOfMemoryError
from stakes.methods import BoundaryShrink, Fisher, Job, StructGuard
from stakes.methods.anchored import AnchoredStructure
from stakes.methods.fisher import fisher_sum
from stakes.models import Classifier, Projector

SAID = "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."


def few_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Features of more than two images at once do not fit; the sizes that were tried."""
    real, tried = Classifier.features, list[int]()

    def features(self: Classifier, pixels: torch.Tensor) -> torch.Tensor:
        tried.append(len(pixels))
        if len(pixels) > 2:
            raise RuntimeError(SAID)
        return real(self, pixels)

    monkeypatch.setattr(Classifier, "features", features)
    return tried


def few_gradients(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gradients of more than two samples at once do not fit; the numbers that were tried."""
    real, tried = torch.func.vmap, list[int]()

    def vmap(function: Any, **named: Any) -> Any:
        many = real(function, **named)

        def limited(parameters: Any, samples: torch.Tensor, others: torch.Tensor) -> Any:
            tried.append(len(samples))
            if len(samples) > 2:
                raise RuntimeError(SAID)
            return many(parameters, samples, others)

        return limited

    monkeypatch.setattr(torch.func, "vmap", vmap)
    return tried


def structure(importance: str, most: int | None = None) -> tuple[Job[Any], AnchoredStructure]:
    settings = {"importance": importance, "importance_after": 0, "projector_init": "random"}
    job = job_of(StructGuard.configure("paper", settings), "cnn")
    job.anchors, job.most_images = problem("cnn").anchors, most
    projector = Projector(job.model.feature_width, init="random", generator=job.generator("projector"))
    return job, AnchoredStructure(job, projector)


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_the_nearest_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(BoundaryShrink.configure(), "cnn")
    with job.meter.phase("whole") as whole:
        wanted = BoundaryShrink.nearest(job)
    tried = few_images(monkeypatch)
    with job.meter.phase("parts") as parts:
        assert torch.equal(BoundaryShrink.nearest(job), wanted)
    assert tried[0] == 4, "all at once did not fit"
    assert (parts.forward, parts.backward) == (whole.forward, whole.backward) == (8, 4), "counted once"


def test_answers_of_the_original_on_all_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = structure("sample")[1].affinities
    tried = few_images(monkeypatch)
    torch.testing.assert_close(structure("sample")[1].affinities, wanted)
    assert tried[0] == 6, "all at once did not fit"


def test_importance_from_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient is that of the whole batch, so it is cut like a step, as far as the run says."""
    wanted = structure("batch")[1].importance()
    few_images(monkeypatch)
    with pytest.raises(RuntimeError, match="allocate memory"):
        structure("batch")[1].importance()
    same(structure("batch", most=2)[1].importance(), wanted)


def test_importance_from_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = structure("sample")[1].importance()
    tried = few_gradients(monkeypatch)
    same(structure("sample")[1].importance(), wanted)
    assert tried == [6, 3, 1, 1, 1, 1, 1, 1]


def test_fisher_information(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(Fisher.configure(), "cnn")
    pixels = job.retain.batch(slice(0, 4))
    wanted = fisher_sum(job.original, pixels)
    few_images(monkeypatch)
    tried = few_gradients(monkeypatch)
    same(fisher_sum(job.original, pixels), wanted)
    assert tried[:4] == [8, 4, 2, 2], "3 classes of 4 images, 8 at once"


def test_what_did_not_fit_in_one_step_of_fisher_is_not_tried_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = Fisher.configure(overrides={"retain_batch": 8, "max_steps": 3})
    job = job_of(method, "cnn")
    few_images(monkeypatch)
    tried = few_gradients(monkeypatch)
    assert len(steps_of(method, job)) == 3
    assert tried[:3] == [8, 4, 2]
    assert set(tried[3:]) == {2}


def test_not_even_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def features(self: Classifier, pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(SAID)

    monkeypatch.setattr(Classifier, "features", features)
    with pytest.raises(OutOfMemoryError, match="forget_batch cannot go lower"):
        BoundaryShrink.nearest(job_of(BoundaryShrink.configure(), "cnn"))
