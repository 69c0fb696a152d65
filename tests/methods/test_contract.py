"""Every registered method keeps the contract, and the contract notices methods that do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import contract
import numpy as np
import pytest
import torch
from contract import ROWS, Row
from doubles import problem

from stakes.config import MethodSettings
from stakes.methods import METHODS, Method
from stakes.unlearning import Unlearned

BY_ID = {row.id: row for row in ROWS}


@pytest.fixture(scope="module", params=contract.DEVICES, autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The contract is kept on every device at hand."""
    with contract.on(request.param):
        yield request.param


def test_there_is_a_gpu() -> None:
    """Where there is none, the contract was kept on the CPU alone."""
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here: the contract is tested on the CPU alone")
    assert "cuda" in contract.DEVICES


@pytest.fixture(scope="module")
def cache(device: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=list(BY_ID))
def row(request: pytest.FixtureRequest) -> Row:
    return BY_ID[request.param]


@pytest.fixture(scope="module")
def first(row: Row, cache: Path) -> Unlearned:
    return contract.run(row, cache=cache)


def test_every_method_has_one_row() -> None:
    """And further ones have labels."""
    assert sorted(row.name for row in ROWS if not row.label) == sorted(METHODS)
    assert {row.name for row in ROWS} == METHODS.keys()
    assert len(BY_ID) == len(ROWS), "no two rows of a method have one label"
    assert all(kind.name == name for name, kind in METHODS.items())


def test_deterministic(row: Row, first: Unlearned, cache: Path) -> None:
    contract.check_deterministic(row, first, cache)


def test_seed(row: Row, first: Unlearned, cache: Path) -> None:
    contract.check_seed(row, first, cache)


def test_used_again(row: Row, cache: Path) -> None:
    contract.check_used_again(row, cache)


def test_input_untouched(row: Row, cache: Path) -> None:
    contract.check_input_untouched(row, cache)


def test_stop(row: Row, first: Unlearned) -> None:
    contract.check_stop(row, first)


def test_history(row: Row, first: Unlearned) -> None:
    contract.check_history(row, first)


def test_record(row: Row, first: Unlearned) -> None:
    contract.check_record(row, first)


def test_reload(row: Row, cache: Path, tmp_path: Path) -> None:
    contract.check_reload(row, cache, tmp_path / "run")


def test_resume(row: Row, first: Unlearned, cache: Path, tmp_path: Path) -> None:
    if not row.steps:
        assert first.record.steps == 0
        return
    contract.check_resume(row, first, cache, tmp_path)


@pytest.mark.parametrize("network", ["mlp", "resnet10", "resnet18", "vit"])
def test_architecture(row: Row, network: str, cache: Path) -> None:
    contract.check_architecture(row, network, cache)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(row: Row, precision: str, cache: Path) -> None:
    contract.check_half_precision(row, precision, cache)


def test_one_image(row: Row, cache: Path) -> None:
    contract.check_one_image(row, cache)


def test_refuses_without_retain(row: Row, cache: Path) -> None:
    contract.check_refuses_without_retain(row, cache)


def test_docstring_says_what_a_reader_needs(row: Row) -> None:
    text = METHODS[row.name].__doc__ or ""
    for words in ("Publication", "Needs:", "ot guaranteed", "Example:"):
        assert words in text, f"the docstring of {row.name} lacks {words!r}"


class _Honest(Method[MethodSettings]):
    """A toy that keeps the contract, on which the broken ones below are built; torch's own draws are seeded."""

    name = "honest"
    settings_type = MethodSettings

    def run(self, job):
        for step in job.steps(1):
            draw = (torch.rand((), generator=job.generator(step)) + torch.rand(())).to(job.device)
            with torch.no_grad():
                job.model.head.bias[job.forget.labels] -= 0.2 + 0.1 * draw
                job.model.head.weight.mul_(0.9)
                job.model.features(job.forget.batch(slice(None)))
                self.harm(job)
            yield self.row(draw)

    def row(self, draw):
        return {"draw": float(draw)}

    def harm(self, job) -> None:
        """Nothing here."""


HONEST = Row(_Honest)


class _GlobalDraws(_Honest):
    def harm(self, job) -> None:
        job.model.head.bias += float(np.random.rand())


class _ChangesInput(_Honest):
    def harm(self, job) -> None:
        problem("resnet10").model.head.bias += 1.0


class _ChangesOriginal(_Honest):
    def harm(self, job) -> None:
        job.original.head.bias += 1.0


class _Forgetful(_Honest):
    """Keeps momentum that the saved state does not know."""

    def run(self, job):
        speed = 0.0
        for row in super().run(job):
            speed = 0.5 * speed + 0.1
            with torch.no_grad():
                job.model.head.bias[2] += speed
            yield row


class _Remembers(_Honest):
    """Keeps a thing of a run where every copy of the object finds it."""

    def __init__(self, settings):
        super().__init__(settings)
        self.speeds = []

    def run(self, job):
        for row in super().run(job):
            self.speeds.append(0.1)
            with torch.no_grad():
                job.model.head.bias[2] += sum(self.speeds)
            yield row


class _Silent(_Honest):
    def row(self, draw):
        return {}


class _Idle(_Honest):
    """Promises to forget, and changes nothing that matters."""

    def run(self, job):
        for _ in job.steps(1):
            yield {"loss": 0.0}


def test_the_honest_toy_passes(cache: Path, tmp_path: Path) -> None:
    first = contract.run(HONEST, cache=cache)
    contract.check_deterministic(HONEST, first, cache)
    contract.check_seed(HONEST, first, cache)
    contract.check_used_again(HONEST, cache)
    contract.check_input_untouched(HONEST, cache)
    contract.check_stop(HONEST, first)
    contract.check_history(HONEST, first)
    contract.check_record(HONEST, first)
    contract.check_reload(HONEST, cache, tmp_path / "reload")
    contract.check_resume(HONEST, first, cache, tmp_path / "resume")
    contract.check_architecture(HONEST, "resnet10", cache)
    contract.check_one_image(HONEST, cache)
    contract.check_refuses_without_retain(HONEST, cache)


def test_notices_global_draws(cache: Path) -> None:
    broken = Row(_GlobalDraws)
    with pytest.raises(AssertionError, match="two runs of one seed differ"):
        contract.check_deterministic(broken, contract.run(broken, cache=cache), cache)


def test_notices_what_is_left_of_a_run_before(cache: Path) -> None:
    with pytest.raises(AssertionError, match="what it remembers"):
        contract.check_used_again(Row(_Remembers), cache)


def test_notices_a_changed_input(cache: Path) -> None:
    model = problem("resnet10").model
    bias = model.head.bias.detach().clone()
    try:
        with pytest.raises(AssertionError, match="weights changed"):
            contract.check_input_untouched(Row(_ChangesInput), cache)
    finally:
        model.head.bias.data.copy_(bias)


def test_notices_a_changed_original(cache: Path) -> None:
    broken = Row(_ChangesOriginal)
    with pytest.raises(AssertionError, match="original was changed"):
        contract.check_record(broken, contract.run(broken, cache=cache))


def test_notices_state_that_is_not_saved(cache: Path, tmp_path: Path) -> None:
    broken = Row(_Forgetful)
    with pytest.raises(AssertionError, match="resumed after step"):
        contract.check_resume(broken, contract.run(broken, cache=cache), cache, tmp_path)


@pytest.mark.parametrize(
    ("broken", "check", "message"),
    [
        (Row(_Silent), contract.check_history, "without anything"),
        (Row(_Idle, {"max_steps": 3}), contract.check_stop, "not forgotten after 3 steps"),
    ],
)
def test_notices_a_wrong_result(broken: Row, check, message: str, cache: Path) -> None:
    with pytest.raises(AssertionError, match=message):
        check(broken, contract.run(broken, cache=cache))


def test_notices_a_wrong_claim_about_draws(cache: Path) -> None:
    with pytest.raises(AssertionError, match="another seed changes"):
        contract.check_seed(Row(_Honest, draws=False), contract.run(HONEST, cache=cache), cache)
