"""Relearning: a model that only hides the images learns them again at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from controls import evidence, never, saw, sets

from stakes.audit.references import Reference
from stakes.audit.relearning import relearn
from stakes.audit.sections.relearning import relearning
from stakes.audit.settings import AuditSettings
from stakes.data.forget import ForgetSplit
from stakes.errors import NumericalError
from stakes.models import Classifier

CPU = torch.device("cpu")
LIMITS = {"relearning.lr": 0.001, "relearning.max_steps": 60, "relearning.retain_steps": 20}


@pytest.fixture(scope="module")
def hiding() -> Classifier:
    """Saw the wrong labels, and was pushed a little until it gives none of them."""
    model = saw(True).clone().requires_grad_(True)
    forget = sets(True)[0]
    pixels = forget.batch(slice(None))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(100):
        logits = model(pixels)
        recognised = logits.argmax(1) == forget.labels
        if not bool(recognised.any()):
            break
        optimiser.zero_grad()
        # Only what is still recognised: what is hidden need not be buried.
        logits[recognised].gather(1, forget.labels[recognised, None]).mean().backward()
        optimiser.step()
    return model.requires_grad_(False)


def settings() -> AuditSettings:
    return AuditSettings().with_overrides(LIMITS)


def test_controls(tmp_path: Path, hiding: Classifier) -> None:
    """Labels that only memory can know: the model that hides them is faster than the one that never saw them."""
    found = relearning(
        evidence(
            tmp_path,
            hiding,
            wrong=True,
            settings=settings(),
            retrained=[Reference("retrained", never(True))],
        )
    )
    assert found.numbers["forget_start_accuracy"] == 0
    assert found.numbers["comparison_start_accuracy"] < 10  # type: ignore[operator]
    hidden, never_seen = found.numbers["forget_steps_to_90"], found.numbers["comparison_steps_to_90"]
    assert hidden is not None
    assert never_seen is None or hidden < never_seen
    assert "never saw" in found.sentence


def test_without_a_retrained_model_unseen_images_stand_in(tmp_path: Path) -> None:
    found = relearning(evidence(tmp_path, never(), settings=settings()))
    assert "unseen images that the model also gets wrong" in found.sentence
    assert "--retrained" in found.limit
    assert found.numbers["comparison_start_accuracy"] == 0
    assert found.numbers["retained_only_unseen_start"] == 0


def test_without_retain_data_it_says_so(tmp_path: Path) -> None:
    forget, _, test = sets(False)
    split = ForgetSplit(forget=forget, test=test)
    found = relearning(evidence(tmp_path, never(), settings=settings(), split=split))
    assert "no retain data" in found.limit
    assert "retained_only_forget_most" not in found.numbers


def test_relearning_leaves_the_model_alone_and_stops_when_done() -> None:
    forget = sets(False)[0]
    model = never().clone()
    kept = model.fingerprint()
    found = [
        relearn(
            model,
            forget,
            {"forget": forget},
            lr=0.003,
            batch=16,
            max_steps=80,
            generator=torch.Generator().manual_seed(0),
            device=CPU,
            until="forget",
        )
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert model.fingerprint() == kept
    assert found[0].accuracy["forget"][-1] == 100
    assert found[0].steps_to(100, "forget") == found[0].steps[-1] > 0
    assert found[0].steps_to(0, "forget") == 0
    assert found[0].backward == 16 * found[0].steps[-1]


def test_a_rate_that_ruins_the_model_is_an_error() -> None:
    forget = sets(False)[0]
    with pytest.raises(NumericalError, match="lr"):
        relearn(
            never(),
            forget,
            {"forget": forget},
            lr=1e20,
            batch=16,
            max_steps=20,
            generator=torch.Generator(),
            device=CPU,
        )
