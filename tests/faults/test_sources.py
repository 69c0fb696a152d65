"""Data that stalls, breaks off or is damaged half-way: tried again where that can help, named by its row elsewhere."""

from __future__ import annotations

import errno
import logging

import datasets
import pytest
from PIL import Image

from stakes.data import open_source
from stakes.errors import DataError, NetworkError, OutputError
from stakes.retry import passing, patiently


class TransportError(Exception):
    """Named like the base of what an HTTP client raises when a connection stalls or breaks."""


class ReadTimeout(TransportError):
    """A stalled one."""


class OfflineModeIsEnabled(ConnectionError):
    """Named like the hub client's."""


class Answer(Exception):
    """An HTTP status that is an error."""

    def __init__(self, status: int) -> None:
        self.response = type("Response", (), {"status_code": status})()


def wrapped(error: Exception) -> Exception:
    try:
        raise RuntimeError("in between") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [ConnectionError(), TimeoutError(), ReadTimeout(), Answer(503), Answer(429), wrapped(ReadTimeout())],
)
def test_passing_failures_are_tried_again(error, monkeypatch, caplog):
    monkeypatch.setattr("stakes.retry.PAUSES", (1.0, 3.0))
    slept: list[float] = []
    answers = iter([error, error, None])

    def call() -> str:
        if (answer := next(answers)) is not None:
            raise answer
        return "data"

    with caplog.at_level(logging.WARNING):
        assert patiently("it", call, sleep=slept.append) == "data"
    assert slept == [1.0, 3.0]
    assert "trying again in 3 s" in caplog.text


@pytest.mark.parametrize(
    "error", [ValueError("no such set"), Answer(404), OfflineModeIsEnabled(), FileNotFoundError()]
)
def test_others_are_not(error):
    calls = []

    def call() -> None:
        calls.append(1)
        raise error

    assert not passing(error)
    with pytest.raises(type(error)):
        patiently("it", call)
    assert len(calls) == 1


def test_what_fails_for_good_is_told_as_before(monkeypatch):
    calls = []

    def load(name: str) -> None:
        calls.append(name)
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(NetworkError, match=r"owner/name.*reset by peer"):
        open_source("owner/name")
    assert len(calls) == 3


def test_a_full_disk_under_the_hubs_cache(monkeypatch):
    def load(name: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(OutputError, match=r"full disk.*HF_HOME"):
        open_source("owner/name")


def folder_of_images(root, count=6):
    for row in range(count):
        place = root / "train" / "cat"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (row, 0, 0)).save(place / f"{row}.png")
    return root


def test_an_image_cut_short_is_named_by_its_row(tmp_path):
    source = open_source(folder_of_images(tmp_path))
    path = tmp_path / "train" / "cat" / "4.png"
    path.write_bytes(path.read_bytes()[:40])
    assert source.train is not None
    source.train.batch([0, 1, 2, 3])
    with pytest.raises(DataError, match=r"train row 4 \(cat/4\.png\)"):
        source.train.batch(slice(None))


def test_an_image_that_vanishes_half_way_is_named(tmp_path):
    source = open_source(folder_of_images(tmp_path))
    (tmp_path / "train" / "cat" / "5.png").unlink()
    assert source.train is not None
    with pytest.raises(DataError, match=r"train row 5 .*cannot be read"):
        source.train.hashes()
