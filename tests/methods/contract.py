"""The contract that every method keeps: one row a method, or more with other settings, and one function a promise.

A method from outside the package checks itself the same way: ``check_resume(Row(MyMethod), tmp_path)``.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import problem, same
from torch import Tensor

from stakes.api import unlearn
from stakes.errors import DataError
from stakes.methods import METHODS, Method
from stakes.models import load_checkpoint
from stakes.records import Record
from stakes.unlearning import Unlearned

_PROBES = {"probes.per_image": 3, "probes.iterations": 4, "probes.epsilon": 1.0, "probes.step_size": 0.3}


@dataclass(frozen=True)
class Row:
    """What the contract expects of a method.

    Attributes:
        method: its name, or a class that is not registered.
        settings: what makes it take three steps or more, and few, on the tiny problem.
        draws: whether another seed gives other weights; the order of a batch is enough.
        forgets: whether it promises to end with forget accuracy 0 on a problem this easy.
        steps: whether it takes steps at all.
        label: tells a further row of a method, with other settings, from its first one.
        preset: None: the method's own.
    """

    method: str | type[Method[Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    draws: bool = True
    forgets: bool = True
    steps: bool = True
    label: str = ""
    preset: str | None = None

    @property
    def name(self) -> str:
        """Of the method."""
        return self.method if isinstance(self.method, str) else self.method.name

    @property
    def id(self) -> str:
        """Of the row."""
        return f"{self.name}, {self.label}" if self.label else self.name

    def configured(self, **changes: Any) -> Method[Any]:
        kind = METHODS[self.method] if isinstance(self.method, str) else self.method
        overrides = {**_PROBES, "max_steps": 300, **self.settings, **changes}
        return kind.configure(self.preset, overrides)


EVERYTHING = {
    "probes.kind": "inverted",
    "probes.inversion.batches": 2,
    "probes.inversion.batch": 6,
    "probes.inversion.iterations": 2,
    "deletion": "hinge",
    "retention": "soft",
    "probe_mixing": True,
    "del_weight": 2.0,
    "hinge_mean": "all",  # the last images pushed harder is too much for this lr
    "variants": 2,
    "variant_images": None,
    "precondition": "patches",
    "batchnorm": "freeze",
    "recalibrate": True,
    "settle": 6,
    "path": "projector",
    "projector": "learned",
    "reg_weight": 0.01,
    "head_weight": 0.001,
    "ret_weight": 0.1,
    "align_weight": 0.1,
    "damping": 1.0,
    "lr": 0.02,
    "probe_batch": 5,
    "forget_batch": 3,
}
"""All that STRUCTGUARD can do, at once, with weights that let go of images of noise within a few steps."""

ROWS = [
    Row("structguard", {"lr": 0.01, "probe_batch": 4, "importance_after": 1}, preset="paper"),
    Row("structguard", EVERYTHING, label="everything"),
    Row("before", draws=False, forgets=False, steps=False),
    Row("oracle", {"max_epochs": 3, "retain_batch": 16, "crop_padding": 1}, forgets=False),
    Row("oracle-finetune", {"lr": 0.01, "retain_batch": 16}),
    Row("fisher", {"retain_batch": 8, "alpha": 1e-3}, forgets=False),
    Row("neggrad", {"lr": 0.005}),
    Row("rawp", {"gamma": 0.03}),
    Row("adv", {"lr": 0.01, "probe_batch": 4}),
    Row("l2ul", {"lr": 0.01, "probe_batch": 4}),
    Row(
        "unsir",
        {"noise_images": 4, "noise_repeats": 2, "noise_steps": 3, "forget_batch": 16, "lr": 0.01},
        forgets=False,
    ),
    Row("boundary-shrink", {"lr": 0.02, "forget_batch": 2, "max_epochs": 100}),
    Row("boundary-expand", {"lr": 0.05, "forget_batch": 2, "max_epochs": 100}, forgets=False),
    Row("lotus", {"forget_batch": 8, "max_epochs": 3}, forgets=False),
    Row("amun", {"forget_batch": 4, "max_epochs": 3}, forgets=False),
    Row("random-label", {"lr": 0.02, "forget_batch": 2}),
    Row("salun", {"lr": 0.02, "forget_batch": 2}),
]


DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
_on = DEVICES[0]


@contextlib.contextmanager
def on(device: str) -> Iterator[None]:
    """Everything inside runs on this device."""
    global _on
    before, _on = _on, device
    try:
        yield
    finally:
        _on = before


def run(row: Row, network: str = "cnn", forget: int = 4, **call: Any) -> Unlearned:
    """One unlearning of the tiny problem by the method of a row."""
    tiny = problem(network, forget)
    given = {"anchors": tiny.anchors, "device": _on, "seed": 0, "measure_every": 2} | call
    return unlearn(tiny.model, tiny.split, **({"method": row.configured()} | given))


def weights(result: Unlearned) -> dict[str, Tensor]:
    """What the result would export."""
    return {name: value.cpu() for name, value in result.classifier.exported_state().items()}


def _global_state() -> tuple[Tensor, Any, Any]:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _set_global_state(state: tuple[Tensor, Any, Any]) -> None:
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])


def check_deterministic(row: Row, first: Unlearned, cache: Path) -> None:
    """Twice the same call, twice the same bytes, whatever the global generators hold; and these stay as they are."""
    kept = _global_state()
    torch.manual_seed(12345)
    random.seed(12345)
    np.random.seed(12345)
    before = _global_state()
    second = run(row, cache=cache)
    after = _global_state()
    _set_global_state(kept)
    assert same(weights(first), weights(second)), "two runs of one seed differ"
    assert first.history == second.history, "two runs of one seed have different histories"
    assert first.record.digest() == second.record.digest()
    assert torch.equal(before[0], after[0]), "torch's global generator was moved"
    assert repr(before[1:]) == repr(after[1:]), "a global generator was moved"


def check_seed(row: Row, first: Unlearned, cache: Path) -> None:
    """Another seed gives other weights exactly where the method draws anything."""
    other = run(row, seed=1, cache=cache)
    differs = not same(weights(first), weights(other))
    assert differs == row.draws, f"another seed {'changes' if differs else 'does not change'} the weights"


def check_used_again(row: Row, cache: Path) -> None:
    """An object that has been at work on another request gives what a fresh one does."""
    used = row.configured()
    run(row, forget=3, method=used, seed=2, cache=cache)
    again, fresh = run(row, "resnet10", method=used, cache=cache), run(row, "resnet10", cache=cache)
    assert same(weights(again), weights(fresh)), "what it remembers of the run before changes the next"
    assert again.history == fresh.history


def check_input_untouched(row: Row, cache: Path) -> None:
    """The model given in keeps its weights, modes, gradients and flags; so does a plain network of the user."""
    model = problem("resnet10").model
    model.train()
    model.head.bias.requires_grad_(False)
    try:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        flags = [p.requires_grad for p in model.parameters()]
        run(row, "resnet10", cache=cache)
        assert same(state, model.state_dict()), "the input model's weights changed"
        assert all(module.training for module in model.modules()), "the input model's mode changed"
        assert flags == [p.requires_grad for p in model.parameters()], (
            "requires_grad of the input model changed"
        )
        assert all(p.grad is None for p in model.parameters()), "the input model was left with gradients"
    finally:
        model.head.bias.requires_grad_(True)
        model.eval()


def check_stop(row: Row, result: Unlearned) -> None:
    """The stop reason says what happened, on the deployed path."""
    record, method = result.record, row.configured().for_images(4)
    assert record.before.forget_accuracy == 100.0
    reasons = {"forgotten", "step limit"} if method.stops_when_forgotten else {"finished"}
    assert record.stop_reason in reasons
    if record.stop_reason == "forgotten":
        assert record.forgotten, "stopped as forgotten, but it is not"
    if row.forgets:
        assert record.forget_accuracy == 0.0, f"not forgotten after {record.steps} steps"
    assert (record.steps > 0) == row.steps
    assert record.forgotten == (record.forget_accuracy == 0.0)


def check_history(row: Row, result: Unlearned) -> None:
    """One finite row a step, in order, with losses; forget accuracy where it was measured."""
    history = result.history
    assert [entry["step"] for entry in history] == list(range(1, result.record.steps + 1))
    for entry in history:
        assert all(isinstance(value, float) and math.isfinite(value) for value in entry.values()), entry
        assert len(entry.keys() - {"step", "forget_accuracy"}) >= 1, "a row without anything of the method"
        if entry["step"] % 2 == 0:
            assert 0.0 <= entry["forget_accuracy"] <= 100.0
    if result.record.stop_reason == "forgotten":
        assert history[-1]["forget_accuracy"] == 0.0


def check_record(row: Row, result: Unlearned) -> None:
    """The record is whole, passes through JSON unchanged, and is about this classifier."""
    record, method = result.record, row.configured().for_images(4)
    assert Record.model_validate_json(record.model_dump_json()) == record
    assert Record.model_validate(json.loads(json.dumps(record.model_dump(mode="json")))) == record
    assert record.method == row.name
    assert type(method).settings_type.model_validate(record.settings) == method.settings
    for figures in (record.before, record.after):
        assert (figures.forget_images, figures.retain_images, figures.test_images) == (4, 32, 12)
        assert figures.test_accuracy is not None
        assert figures.retain_accuracy is not None
    assert record.hashes.model_after == result.classifier.fingerprint()
    assert record.hashes.model_before == problem("cnn").model.fingerprint(), "job.original was changed"
    assert (record.hashes.probes is not None) == ("probes" in method.needs)
    assert (record.hashes.anchors is not None) == ("anchors" in method.needs)
    phases = {phase.name: phase for phase in record.phases}
    assert {"evaluate before", "unlearn", "evaluate after"} <= phases.keys()
    if row.steps:
        assert phases["unlearn"].forward_images > 0, "passes through the network were not counted"


def check_reload(row: Row, cache: Path, folder: Path) -> None:
    """What lies in the run folder gives the logits of what was measured, bit for bit; the call again reads it back."""
    result = run(row, "resnet10", cache=cache, out=folder)
    pixels = problem("resnet10").split.test.batch(slice(None)).to(_on)
    loaded = load_checkpoint(folder).to(_on)
    assert torch.equal(loaded(pixels), result.classifier(pixels))
    assert same(loaded.cpu().exported_state(), weights(result))
    assert not result.classifier.training
    assert Record.load(folder / "record.json") == result.record
    again = run(row, "resnet10", cache=cache, out=folder)
    assert again.record == result.record
    assert again.history == result.history
    assert same(weights(again), weights(result))


class Interrupting:
    """A progress display that presses Ctrl-C after some steps of unlearning."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, phase: str, done: int, total: int, **figures: float) -> None:
        assert 0 <= done <= total, f"{phase}: {done} of {total}"
        if phase == "unlearn" and done == self.after:
            signal.raise_signal(signal.SIGINT)


def check_resume(row: Row, first: Unlearned, cache: Path, folder: Path, **call: Any) -> None:
    """Interrupted after some steps, the same call goes on to the same bytes and history."""
    steps = first.record.steps
    assert steps >= 3, f"only {steps} steps: nothing to interrupt; choose gentler settings for this row"
    for after in sorted({1, steps // 2, steps - 1}):
        out = folder / str(after)
        with pytest.raises(KeyboardInterrupt):
            run(row, cache=cache, out=out, progress=Interrupting(after), **call)
        assert not (out / "record.json").exists()
        resumed = run(row, cache=cache, out=out, **call)
        assert same(weights(resumed), weights(first)), f"resumed after step {after}: other weights"
        assert resumed.history == first.history, f"resumed after step {after}: another history"
        assert resumed.record.digest() == first.record.digest()


def check_architecture(row: Row, network: str, cache: Path) -> None:
    """It runs on this network, and changes it where it takes steps."""
    result = run(row, network, cache=cache)
    assert all(torch.isfinite(value).all() for value in weights(result).values() if value.is_floating_point())
    if row.steps:
        assert not same(weights(result), problem(network).model.exported_state())
    assert result.classifier(torch.rand(2, 3, 8, 8).to(_on)).shape == (2, 3)


def check_half_precision(row: Row, precision: str, cache: Path) -> None:
    """With passes in half precision it does what it promises, and no weight is lost to overflow."""
    result = run(row, cache=cache, precision=precision)
    assert all(torch.isfinite(value).all() for value in weights(result).values() if value.is_floating_point())
    assert result.record.run["precision"] == precision
    if row.steps:
        assert not same(weights(result), problem().model.exported_state())
    if row.forgets:
        assert result.record.forgotten


def check_one_image(row: Row, cache: Path) -> None:
    """k = 1, on a network with BatchNorm whose last feature maps are single pixels."""
    for network in ("cnn", "resnet18"):
        result = run(row, network, 1, cache=cache)
        assert result.record.after.forget_images == 1
        if row.forgets:
            assert result.record.forgotten


def check_refuses_without_retain(row: Row, cache: Path) -> None:
    """A method that needs the retain set says so before it works, and one that does not never sees it."""
    tiny = problem("cnn")
    method = row.configured()

    def call() -> Unlearned:
        return unlearn(
            tiny.model, tiny.split.forget, method=method, anchors=tiny.anchors, cache=cache, device=_on
        )

    if "retain" in method.needs:
        with pytest.raises(DataError, match="retain"):
            call()
    else:
        assert same(weights(call()), weights(run(row, cache=cache)))
