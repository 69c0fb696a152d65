"""Inverted probes on disk: made once, batch by batch, the same whoever asks and however many are wanted."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from stakes import files
from stakes.config import ProbeSettings
from stakes.data.images import ImageSet
from stakes.errors import DataError, NumericalError
from stakes.inverted_store import build_inverted, inverted_present
from stakes.models import Classifier
from stakes.probe_store import ProbeSet, ProbeStore
from tinydigits import SIZE, digits_model, known


def wanting(**inversion: float) -> ProbeSettings:
    return ProbeSettings(kind="inverted", inversion={"batches": 3, "batch": 8, "iterations": 2} | inversion)


SETTINGS = wanting()


class Passes:
    """Counts image passes."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: int) -> None:
        self.images += images


def build(
    root: Path, forget: ImageSet | None = None, settings: ProbeSettings = SETTINGS, **call
) -> tuple[ProbeSet, int]:
    passes = Passes()
    forget = known().subset(range(4)) if forget is None else forget
    model = call.pop("model", None) or digits_model()
    return build_inverted(root, model, forget, settings, on_pass=passes, **call), passes.images


def shards(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.safetensors")}


def pixels(probes: ProbeSet) -> torch.Tensor:
    return probes.batch(torch.arange(len(probes)))


def test_what_a_probe_set_holds(tmp_path):
    probes, passes = build(tmp_path)
    assert passes == SETTINGS.passes(4) == 3 * 8 * 2
    assert len(probes) == SETTINGS.number(4) == 24
    assert SETTINGS.number(4) == SETTINGS.number(400), "whatever the size of the forget set"
    assert probes.shape == SIZE
    assert probes.labels.tolist() == [n % 10 for n in range(24)], "every class in turn"
    made = pixels(probes)
    assert made.dtype == torch.float32
    assert made.shape == (24, *SIZE)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    some = torch.tensor([17, 0, 17])
    assert torch.equal(probes.batch(some), made[some])


def test_the_second_time_makes_no_pass(tmp_path):
    first, _ = build(tmp_path)
    before = shards(tmp_path)
    again, passes = build(tmp_path)
    assert passes == 0
    assert shards(tmp_path) == before
    assert torch.equal(pixels(first), pixels(again))
    assert torch.equal(first.labels, again.labels)
    assert first.fingerprint() == again.fingerprint()
    build(tmp_path / "anew")
    assert shards(tmp_path / "anew") == before, "elsewhere the same bytes"


def test_a_batch_is_the_same_whatever_their_number(tmp_path):
    one, passes = build(tmp_path, settings=wanting(batches=1))
    assert passes == 8 * 2
    three, passes = build(tmp_path)
    assert passes == 2 * 8 * 2, "only what is missing"
    assert torch.equal(pixels(three)[:8], pixels(one))
    assert torch.equal(three.labels[:8], one.labels)
    assert one.fingerprint() != three.fingerprint()
    whole, _ = build(tmp_path / "whole")
    assert torch.equal(pixels(whole), pixels(three))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(pixels(three)[8 * a : 8 * a + 8], pixels(three)[8 * b : 8 * b + 8])


def test_what_is_here_is_counted(tmp_path):
    model, forget = digits_model(), known().subset(range(4))
    assert inverted_present(tmp_path, model, forget, SETTINGS) == 0
    build(tmp_path, settings=wanting(batches=2))
    assert inverted_present(tmp_path, model, forget, SETTINGS) == 16
    assert inverted_present(tmp_path, model, forget, wanting(batches=1)) == 8
    assert inverted_present(tmp_path, model, forget, SETTINGS, seed=1) == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "metadata", "another length", "other names"])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    probes, _ = build(tmp_path)
    before = shards(tmp_path)
    path = sorted(tmp_path.rglob("*.safetensors"))[1]
    raw = bytearray(path.read_bytes())
    if damage == "another length":
        short = {"images": torch.zeros(1, *SIZE), "targets": torch.zeros(1, dtype=torch.int64)}
        files.write_tensors(path, short)
    elif damage == "other names":
        files.write_tensors(path, {"images": torch.zeros(8, *SIZE)})
    else:
        if damage == "flip":
            raw[-3] ^= 1
        elif damage == "metadata":
            raw[12] ^= 1
        path.write_bytes(bytes(raw[: {"cut": len(raw) - 9, "empty": 0}.get(damage, len(raw))]))
    again, passes = build(tmp_path)
    assert passes == 8 * 2
    assert shards(tmp_path) == before
    assert torch.equal(pixels(probes), pixels(again))


def test_what_decides_a_probe_has_a_folder_of_its_own(tmp_path):
    other = digits_model().clone()
    other.head.bias.data[0] += 1e-6
    shifted = digits_model().clone()
    shifted.mean.data += 0.01
    variants = [
        {},
        {"seed": 1},
        {"precision": "bf16"},
        {"model": other},
        {"model": shifted},
        {"forget": known().subset(range(3))},
        {"forget": known().subset([1, 0, 2, 3])},
        *(
            {"settings": wanting(batches=1, **change)}
            for change in (
                {"batch": 6},
                {"iterations": 1},
                {"lr": 0.1},
                {"statistics_weight": 1.0},
                {"smoothness": 0.1},
            )
        ),
    ]
    seen = []
    for count, variant in enumerate(variants, start=1):
        probes, passes = build(tmp_path, **{"settings": wanting(batches=1)} | variant)
        assert passes > 0, variant
        assert len(list((tmp_path / "probes").iterdir())) == count
        seen.append(pixels(probes))
    # The other model, at number 3, hardly differs.
    assert all(not torch.equal(seen[0], found) for at, found in enumerate(seen) if at not in (0, 3))


def test_images_of_another_size_have_a_folder_of_their_own(tmp_path):
    """A network that takes any size has one set of weights for all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    for side in (8, 6):
        model = Classifier.from_network(layers, class_names=list("0123456789"), input_size=(1, side, side))
        forget = known().subset(range(2)).with_size((1, side, side))
        probes, _ = build(tmp_path, forget, model=model)
        assert pixels(probes).shape == (24, 1, side, side)


def test_settings_of_the_other_kind_do_not_matter(tmp_path):
    build(tmp_path)
    assert build(tmp_path, settings=SETTINGS.with_overrides({"epsilon": 9.0, "per_image": 3}))[1] == 0


def test_both_kinds_lie_side_by_side(tmp_path):
    build(tmp_path)
    before = shards(tmp_path)
    few = ProbeSettings(per_image=2, iterations=1)
    ProbeStore(tmp_path).build(digits_model(), known().subset(range(2)), few)
    build(tmp_path)
    assert before.items() < shards(tmp_path).items()


@pytest.mark.parametrize("passes", [0, 1, 2, 3, 5])
def test_stopped_it_keeps_finished_batches_and_goes_on_to_the_same_bytes(tmp_path, passes):
    build(tmp_path / "whole")
    asked = iter(range(1000))
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cut", stop=lambda: next(asked) >= passes)
    kept = shards(tmp_path / "cut")
    assert len(kept) == passes // 2, "two passes a batch"
    assert kept.items() <= shards(tmp_path / "whole").items()
    _, made = build(tmp_path / "cut")
    assert made == (3 - len(kept)) * 8 * 2
    assert shards(tmp_path / "cut") == shards(tmp_path / "whole")


def test_progress_counts_probes(tmp_path):
    told: list[tuple[str, int, int]] = []
    build(tmp_path, progress=lambda phase, done, total: told.append((phase, done, total)))
    assert told == [("probes", done, 24) for done in (0, 8, 16, 24)]


@pytest.mark.skipif(sys.platform == "win32", reason="folders there have no modes")
def test_probes_are_private(tmp_path):
    before = os.umask(0)
    try:
        build(tmp_path)
    finally:
        os.umask(before)
    (folder,) = (tmp_path / "probes").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_a_killed_write_left_is_swept(tmp_path):
    build(tmp_path, settings=wanting(batches=1))
    (folder,) = (tmp_path / "probes").iterdir()
    left = folder / ".00001.safetensors.abcd1234"
    left.mkdir()
    os.utime(left, (time.time() - 2 * files.LEFTOVER_SECONDS,) * 2)
    build(tmp_path)
    assert not left.exists()


def test_the_model_is_not_changed(tmp_path):
    model = digits_model("resnet10").clone().requires_grad_(True).train()
    before, state = model.fingerprint(), torch.random.get_rng_state()
    build(tmp_path, model=model)
    assert model.fingerprint() == before
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    assert build(tmp_path, model=model.eval())[1] == 0, "training mode does not matter"


@pytest.mark.parametrize("forget", [1, 40])
def test_few_and_many_images_to_forget(tmp_path, forget):
    """One image mixes with itself; of many, as many as two batches are drawn."""
    probes, _ = build(tmp_path, known().subset(range(forget)))
    assert len(probes) == 24
    assert bool(torch.isfinite(pixels(probes)).all())


def constant(value: float, classes: int) -> Classifier:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    nn.init.constant_(layers[1].weight, value)
    return Classifier.from_network(
        layers, class_names=[str(n) for n in range(classes)], input_size=SIZE, std=(1e-3,)
    )


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: constant(1.0, 1), DataError, "two classes"),
        (lambda: constant(3e38, 10), NumericalError, "finite pixels"),
    ],
)
def test_what_cannot_be_inverted_is_refused(
    tmp_path: Path, make: Callable[[], Classifier], error: type[Exception], words: str
) -> None:
    model = make()
    forget = ImageSet.from_tensors(torch.full((2, *SIZE), 0.5), [0, 0], model.class_names)
    with pytest.raises(error, match=words):
        build(tmp_path, forget, model=model)
    assert shards(tmp_path) == {}
