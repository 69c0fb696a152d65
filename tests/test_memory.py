"""Out of memory: smaller passes with the same result, or a clear word."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tinydigits
from stakes.config import MethodSettings, ProbeSettings
from stakes.errors import OutOfMemoryError
from stakes.memory import Fitting, fewer_images, in_parts, out_of_memory
from stakes.metrics.accuracy import predict
from stakes.models import Classifier
from stakes.probe_store import ProbeStore

CPU = "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(CPU),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        MemoryError(),
    ],
)
def test_each_device_says_it_in_its_own_way(error):
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes cannot be multiplied"), ValueError("out of memory"), OSError(12)]
)
def test_other_errors_are_others(error):
    assert not out_of_memory(error)


class Narrow:
    """Work that fails for more than so many rows, as a full device does."""

    def __init__(self, most: int) -> None:
        self.most, self.sizes = most, []

    def __call__(self, part):
        self.sizes.append(len(part))
        if len(part) > self.most:
            raise RuntimeError(CPU)
        return part * 2


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 100])
def test_halves_until_it_fits_and_stays_there(most):
    fit, work = Fitting("eval_batch"), Narrow(most)
    rows = torch.arange(8)
    assert torch.equal(torch.cat(fit(rows, work)), rows * 2)
    failed = sum(size > most for size in work.sizes)
    assert failed <= 3
    fit(rows, work)
    assert sum(size > most for size in work.sizes) == failed, "what did not fit is not tried again"


def test_one_row_that_does_not_fit():
    with pytest.raises(OutOfMemoryError, match=r"can't allocate memory.*eval_batch"):
        Fitting("eval_batch")(torch.arange(8), Narrow(0))


def test_an_error_of_another_kind_goes_through():
    def broken(part):
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        Fitting("eval_batch")(torch.arange(8), broken)


def full_device(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Every convolution of more than so many images fails."""
    real, sizes = F.conv2d, []

    def conv2d(images, *args, **named):
        sizes.append(len(images))
        if len(images) > most:
            raise RuntimeError(CPU)
        return real(images, *args, **named)

    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d)
    return sizes


def test_measuring_gives_the_same_answers(monkeypatch):
    model, (_, test) = tinydigits.digits_model("resnet10"), tinydigits.sets()
    wanted = predict(model, test, batch=100)
    sizes = full_device(monkeypatch, 30)
    assert torch.equal(predict(model, test, batch=100), wanted)
    assert [size for size in sizes if size > 30] == [100, 50], "each fails once, and 25 fits"


def test_probes_are_the_same_up_to_rounding(monkeypatch, tmp_path):
    model, forget = tinydigits.digits_model("resnet10"), tinydigits.known().subset(range(4))
    settings = ProbeSettings(per_image=4, iterations=3, epsilon=1.0, step_size=0.3)
    wanted = ProbeStore(tmp_path / "a").build(model, forget, settings)
    full_device(monkeypatch, 6)
    made = ProbeStore(tmp_path / "b").build(model, forget, settings)
    every = torch.arange(len(wanted))
    assert made.fingerprint() == wanted.fingerprint()
    assert torch.equal(made.labels, wanted.labels)
    torch.testing.assert_close(made.batch(every), wanted.batch(every), rtol=0, atol=1e-5)


def small(norm: bool = True, drop: float = 0.0) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first: list[nn.Module] = [nn.Conv2d(1, 4, 3), *([nn.BatchNorm2d(4)] if norm else [])]
        rest = [nn.ReLU(), nn.Flatten(), nn.Dropout(drop), nn.Linear(144, 3)]
        network = nn.Sequential(*first, *rest)
        return Classifier.from_network(network, class_names="abc", input_size=(1, 8, 8))


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_a_pass_in_parts_has_the_same_gradient(most):
    """Also of a loss that is no mean over images: the features of all parts are there at once."""
    whole, parts = small().eval(), small().eval()
    pixels = torch.rand((8, 1, 8, 8), generator=torch.Generator().manual_seed(0))

    def loss(model: Classifier, limit: int | None) -> torch.Tensor:
        features = in_parts(model.features, pixels, limit)
        columns = F.normalize(features, dim=0)
        return (
            F.cross_entropy(model.head(features), torch.arange(8) % 3) + (columns.T @ columns).square().mean()
        )

    loss(whole, None).backward()
    loss(parts, most).backward()
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6, msg=name)


def test_only_one_part_is_held(monkeypatch):
    """The activations inside a part are computed again, not kept."""
    model, sizes = small().eval(), full_device(monkeypatch, 2)
    in_parts(model.features, torch.rand(8, 1, 8, 8), 2).sum().backward()
    assert sizes == [2] * 8, "four parts forward, and the same four again backward"


def test_how_far_a_step_is_cut():
    frozen = MethodSettings(batchnorm="freeze", probe_batch=64, forget_batch=8)
    error = RuntimeError(CPU)
    assert fewer_images(frozen, small(), None, error) == 32
    assert fewer_images(frozen, small(), 32, error) == 16
    assert fewer_images(MethodSettings(probe_batch=64), small(norm=False), None, error) == 32
    with pytest.raises(OutOfMemoryError, match="not even single images"):
        fewer_images(frozen, small(), 1, error)


def test_what_cannot_be_cut_says_what_to_lower():
    with pytest.raises(OutOfMemoryError) as caught:
        fewer_images(MethodSettings(probe_batch=64, forget_batch=8), small(), None, RuntimeError(CPU))
    assert "Lower forget_batch (8), probe_batch (64)" in str(caught.value)
    assert "batchnorm=freeze" in str(caught.value)
    with pytest.raises(OutOfMemoryError, match=r"dropout.*batchnorm=freeze"):
        fewer_images(MethodSettings(), small(norm=False, drop=0.1), None, RuntimeError(CPU))
    frozen = MethodSettings(batchnorm="freeze", probe_batch=64)
    assert fewer_images(frozen, small(drop=0.1), None, RuntimeError(CPU)) == 32


SETTINGS = tinydigits.FEW_PROBES | {"probe_batch": 8, "forget_batch": 3, "max_steps": 6, "lr": 0.003}


@pytest.mark.parametrize("method", ["structguard", "l2ul", "neggrad", "boundary-expand"])
def test_steps_go_on_in_parts_to_the_same_model(monkeypatch, tmp_path, method):
    from stakes.api import unlearn

    call = {"anchors": tinydigits.anchors(), "method": method, "device": "cpu", "cache": tmp_path / "cache"}
    call |= {"settings": SETTINGS | {"batchnorm": "freeze"}, "eval_batch": 32}
    call |= {"preset": "paper" if method == "structguard" else None}
    model = copy.deepcopy(tinydigits.digits_model("resnet10"))
    whole = unlearn(model, tinydigits.split(), **call)
    real, failed = Classifier.features, []

    def features(self, pixels):
        if (
            torch.is_grad_enabled()
            and next(self.parameters()).requires_grad
            and len(pixels) > 2
            and len(failed) < 9
            and whole.record.steps > 2
        ):
            failed.append(len(pixels))
            raise RuntimeError(CPU)
        return real(self, pixels)

    monkeypatch.setattr(Classifier, "features", features)
    cut = unlearn(model, tinydigits.split(), **call, out=tmp_path / "run", checkpoint_seconds=1e-9)
    assert failed, "nothing was cut"
    assert [row["step"] for row in cut.history] == [row["step"] for row in whole.history]
    for name, value in whole.classifier.exported_state().items():
        torch.testing.assert_close(
            cut.classifier.exported_state()[name], value, rtol=1e-3, atol=1e-4, msg=name
        )


def test_a_step_with_statistics_of_the_batch_is_not_cut(monkeypatch, tmp_path):
    from stakes.api import unlearn
    from stakes.runs import RunFolder

    real = Classifier.features

    def features(self, pixels):
        if self.training and RunFolder(tmp_path / "run").load() is not None:
            raise RuntimeError(CPU)
        return real(self, pixels)

    monkeypatch.setattr(Classifier, "features", features)
    with pytest.raises(OutOfMemoryError, match=r"Lower forget_batch \(3\), probe_batch \(8\)"):
        unlearn(
            tinydigits.digits_model("resnet10"),
            tinydigits.split(),
            anchors=tinydigits.anchors(),
            preset="paper",
            settings=SETTINGS,
            device="cpu",
            cache=tmp_path / "cache",
            out=tmp_path / "run",
            checkpoint_seconds=1e-9,
        )
    assert RunFolder(tmp_path / "run").load()["step"] == 1, "the last saved state is kept"
