"""ADV: its loss in NumPy, its shares, and its two readings of a pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubles import arrays, job_of, steps_of
from scipy.special import log_softmax

from stakes.methods import Adv
from stakes.methods.job import Batch
from stakes.methods.opposing import opposing_losses


@pytest.mark.parametrize("passes", ["separate", "joint"])
def test_loss_is_the_publications(passes: str) -> None:
    method = Adv.configure(overrides={"max_steps": 1, "passes": passes})
    job = job_of(method)

    def mean_ce(images) -> float:
        x, weight, bias = arrays(job, images.batch(slice(None)))
        return -log_softmax(x @ weight.T + bias, axis=1)[np.arange(len(x)), images.labels.numpy()].mean()

    gone, kept = mean_ce(job.forget), mean_ce(job.probes)
    row = steps_of(method, job)[0]
    assert row["loss_del"] == pytest.approx(-gone * 4 / 10, rel=1e-4)
    assert row["loss_ret"] == pytest.approx(kept * 6 / 10, rel=1e-4)
    assert row["loss"] == pytest.approx(-gone * 4 / 10 + kept * 6 / 10, rel=1e-4)


def test_passes_differ_where_there_is_batchnorm_and_only_there() -> None:
    def losses(network: str, passes: str) -> list[float]:
        method = Adv.configure(overrides={"max_steps": 1, "passes": passes})
        return [steps_of(method, job_of(method, network))[0]["loss"]]

    assert losses("mlp", "separate") == pytest.approx(losses("mlp", "joint"), rel=1e-5)
    assert losses("resnet10", "separate") != pytest.approx(losses("resnet10", "joint"), rel=1e-3)


def test_ceiling_stops_the_push_image_by_image() -> None:
    job = job_of(Adv.configure())
    label = job.forget.labels[:1]
    kept = Batch(job.forget.batch([0]), label, torch.tensor([0]))
    # The right label costs next to nothing, a wrong one a lot: only the first image still pushes.
    gone = Batch(job.forget.batch([0, 0]), torch.cat([label, (label + 1) % 3]), torch.tensor([0, 0]))
    with torch.no_grad():
        logits = job.original(gone.pixels).double()
        right, wrong = torch.nn.functional.cross_entropy(logits, gone.labels, reduction="none").tolist()
    assert right < 1.0 < wrong

    def deletion(**options) -> float:
        return opposing_losses(job, kept, gone, weights="sum", **options)["loss_del"].item()

    assert deletion() == pytest.approx(-(right + wrong) / 2, rel=1e-4)
    assert deletion(ceiling=1.0) == pytest.approx(-(right + 1.0) / 2, rel=1e-4)
    loss = opposing_losses(job, kept, Batch(gone.pixels[1:], gone.labels[1:], kept.indices), ceiling=1.0)
    loss["loss_del"].backward()
    assert not job.model.head.weight.grad.any()


def test_published_settings() -> None:
    settings = Adv.configure().settings
    assert (settings.lr, settings.momentum, settings.weight_decay) == (0.001, 0.9, 1e-4)
    assert (settings.probe_batch, settings.forget_batch, settings.max_epochs) == (256, 32, 1000)
    probes = settings.probes
    assert (probes.per_image, probes.epsilon, probes.step_size, probes.iterations) == (20, 4.0, 0.1, 100)
