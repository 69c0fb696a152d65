"""Files damaged between two calls: noticed by their hash, named, and made again or refused; never used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import faultkit
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stakes.anchors import Anchors
from stakes.data.forget import split_forget
from stakes.errors import AnchorError, CheckpointError, RunFolderError
from stakes.models import load_checkpoint, save_checkpoint
from stakes.opened import open_run
from stakes.runs import RunFolder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run whose files nobody touched."""
    folder = tmp_path_factory.mktemp("whole")
    faultkit.run(folder)
    return faultkit.contents(folder)


def flip(path: Path, at: float = 0.9) -> None:
    """Turn one bit over."""
    raw = bytearray(path.read_bytes())
    raw[int(at * len(raw))] ^= 0x10
    path.write_bytes(bytes(raw))


def cut(path: Path) -> None:
    """Lose the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class Stop(Exception):
    """The end of a call that is to be resumed."""


def interrupted(folder: Path, phase: str, at: int) -> None:
    """A run that ends in the middle of a phase."""

    def progress(now: str, done: int, total: int, **figures: float) -> None:
        if now == phase and done >= at:
            raise Stop

    with pytest.raises(Stop):
        faultkit.run(folder, progress=progress)


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize(
    ("phase", "at", "pattern"),
    [
        ("unlearn", 1, "cache/probes/*/*.safetensors"),
        ("unlearn", 1, "cache/predictions/*.safetensors"),
        ("unlearn", 1, "run/state/structure.safetensors"),
        ("unlearn", 1, "run/state/job.pt"),
        ("unlearn", 3, "run/state/job.pt"),
        ("unlearn", 3, "run/state/costs"),
    ],
)
def test_made_again(
    whole, tmp_path, caplog, phase: str, at: int, pattern: str, damage: Callable[[Path], None]
) -> None:
    interrupted(tmp_path, phase, at + 1)
    paths = sorted(tmp_path.glob(pattern))
    for path in paths:
        damage(path)
    with caplog.at_level(logging.WARNING):
        faultkit.run(tmp_path)
    for path in paths:
        assert any(str(path) in line and "damaged" in line for line in caplog.messages), caplog.messages
    assert faultkit.contents(tmp_path) == whole


def test_probes_of_one_image_are_made_again_alone(tmp_path):
    """In a smaller pass than at first, whose kernels may round otherwise; those of the others are left as they are."""
    interrupted(tmp_path, "unlearn", 2)
    paths = sorted(tmp_path.glob("cache/probes/*/*.safetensors"))
    before, bytes_of_others = load_file(paths[0]), [path.read_bytes() for path in paths[1:]]
    flip(paths[0])
    assert faultkit.run(tmp_path).record.steps
    after = load_file(paths[0])
    assert torch.equal(after["targets"], before["targets"])
    assert torch.allclose(after["images"], before["images"], rtol=0, atol=1e-3)
    assert bytes_of_others
    assert [path.read_bytes() for path in paths[1:]] == bytes_of_others


def test_nothing_is_said_where_nothing_is_damaged(whole, tmp_path, caplog):
    interrupted(tmp_path, "unlearn", 2)
    with caplog.at_level(logging.WARNING):
        faultkit.run(tmp_path)
    assert not caplog.messages
    assert faultkit.contents(tmp_path) == whole


def test_what_cannot_be_made_again_is_refused(tmp_path):
    """The structural importance belongs to weights that the steps since have changed."""
    interrupted(tmp_path, "unlearn", 3)
    flip(tmp_path / "run" / "state" / "importance.safetensors")
    with pytest.raises(RunFolderError, match=r"structural importance.*Delete the run folder"):
        faultkit.run(tmp_path)


@pytest.mark.parametrize("at", [0.3, 0.6, 0.99])
def test_a_flipped_bit_in_a_checkpoint_is_refused(tmp_path, at):
    save_checkpoint(faultkit.model(), tmp_path / "model")
    load_checkpoint(tmp_path / "model")
    flip(tmp_path / "model" / "model.safetensors", at)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path / "model")


def test_the_model_of_a_finished_run_is_refused(tmp_path):
    faultkit.run(tmp_path)
    flip(tmp_path / "run" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"run/model\.safetensors is damaged or was changed"):
        faultkit.run(tmp_path)


def test_a_checkpoint_that_states_no_hash_is_taken(tmp_path):
    """Other libraries write none: what they have damaged in transit only their own hash can tell."""
    from safetensors.torch import load_file, save_file

    save_checkpoint(faultkit.model(), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt"})
    assert load_checkpoint(tmp_path / "model").fingerprint() == faultkit.model().fingerprint()


def test_anchors_of_a_run_that_were_changed_are_refused(tmp_path):
    save_checkpoint(faultkit.model(), tmp_path / "model")
    write_images(tmp_path / "images")
    request = {"model": str(tmp_path / "model"), "forget": f"images:{tmp_path / 'images'}"}
    split = split_forget(request["forget"], None, class_names=faultkit.NAMES, size=(3, 8, 8))
    faultkit.run(tmp_path, request=request, forget=split)
    kept = tmp_path / "run" / "anchors.safetensors"
    assert open_run(tmp_path / "run", device="cpu").anchors.fingerprint() == faultkit.anchors().fingerprint()
    Anchors(faultkit.anchors().matrix.roll(1, 1), faultkit.NAMES).save(kept)
    with pytest.raises(RunFolderError, match="anchors of the run"):
        open_run(tmp_path / "run", device="cpu")
    kept.write_bytes(kept.read_bytes()[:-3])
    with pytest.raises(AnchorError, match="damaged"):
        open_run(tmp_path / "run", device="cpu")


def write_images(folder: Path) -> None:
    """The forget set as files."""
    forget = faultkit.split().forget
    for number, label in enumerate(forget.labels.tolist()):
        place = folder / faultkit.NAMES[label]
        place.mkdir(parents=True, exist_ok=True)
        pixels = (forget.batch([number])[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(place / f"{number}.png")


def test_a_damaged_record_is_refused(tmp_path):
    faultkit.run(tmp_path)
    cut(tmp_path / "run" / "record.json")
    with pytest.raises(RunFolderError, match=r"record .*record\.json"):
        faultkit.run(tmp_path)


def test_a_damaged_request_is_refused(tmp_path):
    faultkit.run(tmp_path)
    config = tmp_path / "run" / "config.yaml"
    config.write_bytes(b"method: [" + config.read_bytes())
    with pytest.raises(RunFolderError, match=r"config\.yaml cannot be read"):
        faultkit.run(tmp_path)
    assert RunFolder(tmp_path / "run").history()
