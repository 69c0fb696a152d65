"""Images that requests name: twice, with twins, moved, gone, kept or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import NAMES
from ledgerkit import (
    ASKED,
    ask,
    asked_and_done,
    carry_out,
    kinds,
    new_ledger,
    recognised_rows,
    source,
)

from stakes.data.images import ImageSet
from stakes.data.sources import Source
from stakes.errors import DataError
from stakes.evaluator import sampled
from stakes.ledger import Ledger, verify_ledger
from stakes.records import Record


def test_the_same_image_twice(ledger: Ledger) -> None:
    assert ask(ledger, (0, 1)).again == {}
    added = ask(ledger, (1, 3, 1))
    assert added.images == 2
    assert added.again == {1: 1}
    assert carry_out(ledger).done
    assert ask(ledger, (0, 1)).again == {1: 2, 2: 1}
    report = carry_out(ledger)
    assert report.done
    finished = ledger.view().attempts[3].finished
    assert finished is not None
    assert finished.body.stop_reason == "already forgotten"
    assert not {0, 1, 3} & set(recognised_rows(ledger))


def test_a_twin_of_a_forgotten_image_is_not_retained(tmp_path: Path) -> None:
    train = source().train
    assert train is not None
    twice = train.subset([*range(36), 0])
    ledger = new_ledger(tmp_path / "ledger")
    ask(ledger, (0,))
    carry_out(ledger, data=Source(twice, None, NAMES, "twins"))
    assert Record.load(ledger.run(1) / "record.json").before.retain_images == 35


def test_with_a_sample_no_other_retained_image_is_hashed(tmp_path: Path) -> None:
    """Nor is a twin of a forgotten image in the sample, wherever it lies; and the sample is that of a plain run."""
    train = source().train
    assert train is not None
    hashed: set[int] = set()

    class Watched(ImageSet):
        def hashes(self) -> list[str]:
            hashed.update(self._rows.tolist())
            return super().hashes()

        def _view(self, rows: torch.Tensor, labels: torch.Tensor, *more: Any) -> ImageSet:
            return Watched(self._store, labels, *more, rows=rows)

    def watched(images: ImageSet) -> ImageSet:
        return Watched(images._store, images.labels, images.class_names, images.size, rows=images._rows)

    retained = train.subset(range(1, 36))
    ledger = new_ledger(tmp_path / "ledger")
    ask(ledger, (0,))
    data = Source(watched(train), None, NAMES, "large")
    assert carry_out(ledger, data=data, retain_sample=4, seed=5).done
    record = Record.load(ledger.run(1) / "record.json")
    assert record.hashes.retain_set == sampled(retained, 4, 5).fingerprint()
    assert len(hashed) == 5

    twice = train.subset([0, 0, 0, 0, 7, 0])
    second = new_ledger(tmp_path / "second")
    ask(second, (0,))
    carry_out(second, data=Source(twice, None, NAMES, "twins"), retain_sample=5)
    only = Record.load(second.run(1) / "record.json")
    assert only.before.retain_images == 1
    assert only.hashes.retain_set == train.subset([7]).fingerprint()


def test_an_image_that_the_data_lack_is_named_before_anything_starts(ledger: Ledger) -> None:
    asked_and_done(ledger)
    ask(ledger, (9,))
    train = source().train
    assert train is not None
    lost = train.hashes()[1]
    fewer = Source(train.subset([row for row in range(36) if row != 1]), None, NAMES, "fewer")
    before = kinds(ledger)
    for call in (lambda: carry_out(ledger, data=fewer), lambda: verify_ledger(ledger, data=fewer)):
        with pytest.raises(DataError, match="1 images of requests cannot be found") as caught:
            call()
        assert f"{lost[:12]}… of request 1 (once row 1 of the training split)" in str(caught.value)
    assert kinds(ledger) == before


def test_moved_rows_are_found_by_their_hash(ledger: Ledger) -> None:
    asked_and_done(ledger)
    train = source().train
    assert train is not None
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    assert verify_ledger(ledger, data=Source(train.subset(order), None, NAMES, "moved")).ok
    # The class is part of the hash: the same pixels under another name are another image.
    other = ImageSet.from_tensors(train.batch(slice(None)), (train.labels + 1) % 3, NAMES)
    with pytest.raises(DataError, match="cannot be found"):
        verify_ledger(ledger, data=Source(other, None, NAMES, "other labels"))


def test_kept_images_need_no_data(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "ledger", keep_images=True)
    asked_and_done(ledger)
    assert len(list(ledger.images.iterdir())) == len(ASKED)
    if os.name == "posix":
        modes = {
            path.stat().st_mode & 0o077 for path in (ledger.path, ledger.images, *ledger.images.iterdir())
        }
        assert modes == {0}
    assert verify_ledger(ledger).ok
    assert verify_ledger(ledger, model=ledger.states.load(*original(ledger))).recognised.keys() == {1, 2, 3}
    damaged = next(ledger.images.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=damaged.stem[:12]):
        verify_ledger(ledger)
    assert verify_ledger(ledger, data=source()).ok


def original(ledger: Ledger) -> tuple[str, str]:
    made = ledger.view().created.body
    return made.model, made.config


def test_without_kept_images_no_pixel_is_in_the_ledger(ledger: Ledger) -> None:
    asked_and_done(ledger)
    train = source().train
    assert train is not None
    pieces = [train.batch([row]).numpy().tobytes()[:64] for row in ASKED]
    for path in ledger.path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(piece in content for piece in pieces), path
