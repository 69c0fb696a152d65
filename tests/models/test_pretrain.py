from __future__ import annotations

import pytest
import torch

from stakes.data.images import ImageSet
from stakes.errors import DataError, NumericalError, RunFolderError
from stakes.models import PretrainSettings, channel_statistics, load_checkpoint, pretrain, save_checkpoint

NAMES = ("bar", "cross", "dot")
QUICK = PretrainSettings(epochs=4, batch_size=16, crop_padding=1, padding="zeros", flip=False, plain_epochs=1)


def shapes(count: int, seed: int) -> ImageSet:
    """Three noisy shapes on 8×8 pixels."""
    draws = torch.Generator().manual_seed(seed)
    patterns = torch.zeros(3, 8, 8)
    patterns[0, 3:5] = 1
    patterns[1] = torch.eye(8).maximum(torch.eye(8).flip(1))
    patterns[2, 3:5, 3:5] = 1
    labels = torch.randint(0, 3, (count,), generator=draws)
    noise = torch.rand(count, 1, 8, 8, generator=draws)
    return ImageSet.from_tensors(0.7 * patterns[labels][:, None] + 0.3 * noise, labels, NAMES)


def run(train: ImageSet | None = None, test: ImageSet | None = None, **changes):
    arguments = {"architecture": "resnet10", "options": {"width": 4}, "settings": QUICK, "seed": 1}
    return pretrain(train if train is not None else shapes(97, 0), test, **(arguments | changes))


def test_learns_and_tells(tmp_path):
    told = []
    model, rows = run(
        shapes(300, 0),
        test=shapes(60, 1),
        progress=lambda phase, done, total, **figures: told.append((phase, done, total, figures)),
    )
    assert [row.epoch for row in rows] == [1, 2, 3, 4]
    assert rows[-1].loss < 0.5 * rows[0].loss
    assert rows[-1].test_accuracy is not None
    assert rows[-1].test_accuracy > 90
    assert rows[-1].train_accuracy > rows[0].train_accuracy
    assert rows[0].learning_rate > 0
    assert [(phase, done, total) for phase, done, total, _ in told] == [
        ("pretrain", i, 4) for i in (1, 2, 3, 4)
    ]
    assert told[-1][3]["loss"] == rows[-1].loss
    assert not model.training
    assert model.class_names == NAMES
    save_checkpoint(model, tmp_path / "before")
    pixels = shapes(5, 2).batch(slice(None))
    assert torch.equal(load_checkpoint(tmp_path / "before")(pixels), model(pixels))


def test_same_seed_same_bytes_and_the_global_generator_is_left():
    before = torch.get_rng_state()
    first, rows = run()
    second, again = run()
    other, _ = run(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.fingerprint() == second.fingerprint() != other.fingerprint()
    assert rows == again
    assert rows[0].test_accuracy is None


def test_measuring_the_test_set_changes_nothing():
    assert run()[0].fingerprint() == run(test=shapes(20, 1))[0].fingerprint()


@pytest.mark.parametrize("stop_after", [1, 3])
def test_interrupted_and_resumed_is_the_same(stop_after, tmp_path):
    whole, rows = run(state_path=tmp_path / "whole.pt")

    def interrupt(_phase, done, _total, **_figures):
        if done == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(state_path=tmp_path / "state.pt", progress=interrupt)
    resumed, resumed_rows = run(state_path=tmp_path / "state.pt")
    assert resumed.fingerprint() == whole.fingerprint()
    assert resumed_rows == rows
    assert (tmp_path / "state.pt").read_bytes() == (tmp_path / "whole.pt").read_bytes()
    told = []
    finished, _ = run(state_path=tmp_path / "state.pt", progress=lambda *a, **_k: told.append(a))
    assert finished.fingerprint() == whole.fingerprint()
    assert told == []


def test_state_of_another_request_is_refused(tmp_path):
    one = QUICK.model_copy(update={"epochs": 1})
    run(settings=one, state_path=tmp_path / "state.pt")
    kept = (tmp_path / "state.pt").read_bytes()
    for changes in ({"seed": 3}, {"settings": QUICK}, {"train": shapes(96, 0)}, {"options": {"width": 2}}):
        with pytest.raises(RunFolderError, match="another request"):
            run(**({"settings": one, "state_path": tmp_path / "state.pt"} | changes))
    assert (tmp_path / "state.pt").read_bytes() == kept
    (tmp_path / "state.pt").write_bytes(kept[:100])
    with pytest.raises(RunFolderError, match="not a training state"):
        run(settings=one, state_path=tmp_path / "state.pt")


def test_divergence_is_an_error_and_keeps_the_state(tmp_path):
    wild = QUICK.model_copy(update={"learning_rate": 1e30, "schedule": "cosine"})
    with pytest.raises(NumericalError, match="loss of epoch 1"):
        run(settings=wild, state_path=tmp_path / "state.pt")
    assert not (tmp_path / "state.pt").exists()


def test_too_few_images():
    with pytest.raises(DataError, match="at least 2"):
        run(shapes(1, 0))


def test_decay_only_on_matrices_spares_the_rest():
    from stakes.models.pretrain import _groups

    model, _ = run(settings=QUICK.model_copy(update={"epochs": 1}))
    decayed, free = _groups(model, QUICK)
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() < 2 for p in free["params"])
    assert (decayed["weight_decay"], free["weight_decay"]) == (5e-4, 0)
    (everything,) = _groups(model, QUICK.model_copy(update={"decay": "all"}))
    assert len(everything["params"]) == len(list(model.parameters()))


def test_channel_statistics(generator):
    pixels = torch.rand(30, 3, 5, 4, generator=generator) * torch.tensor([1, 0.5, 0]).view(1, 3, 1, 1)
    images = ImageSet.from_tensors(pixels, [0] * 30, ["only"])
    mean, std = channel_statistics(images, batch_size=7)
    read = images.batch(slice(None)).double()
    assert mean == pytest.approx(read.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std[:2] == pytest.approx(read.std((0, 2, 3), correction=0).tolist()[:2], abs=1e-6)
    assert std[2] == pytest.approx(1 / 255, abs=1e-6)
