"""No command reaches for a network unless it was asked for something that lies there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tinydigits
from stakes.cli import app
from stakes.errors import NetworkError
from stakes.models import save_checkpoint


class Reached(BaseException):
    """Somebody opened a socket; no library may swallow that."""


@pytest.fixture
def closed(monkeypatch) -> list[str]:
    """Every way to a network ends here, and is noted."""
    reached: list[str] = []

    def refuse(*args, **named):
        reached.append(repr(args))
        raise Reached(repr(args))

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname", "socketpair"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return reached


def stakes(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in (0, 3), done.output
    return done.output


def test_unlearn_show_and_evaluate_with_sockets_closed(closed, tmp_path):
    """With the encoder that is there by default, and the attributes that come along."""
    save_checkpoint(tinydigits.digits_model("resnet10"), tmp_path / "model")
    common = ("--model", tmp_path / "model", "--data", "digits", "--forget", "random:2", "--device", "cpu")
    few = [part for pair in tinydigits.FEW_INVERTED.items() for part in ("--set", "=".join(map(str, pair)))]
    few += ["--set", "max_steps=2", "--retain-sample", "20"]
    stakes("unlearn", *common, "--out", tmp_path / "run", "--cache", tmp_path / "cache", *few)
    assert "accuracy" in stakes("show", tmp_path / "run")
    assert "accuracy" in stakes("evaluate", *common, "--retain-sample", "20")
    assert closed == []
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_closed_sockets_are_noticed(closed):
    """The control: what does ask for a network runs into them."""
    from stakes.data import open_source

    with pytest.raises((Reached, NetworkError)):
        open_source("owner/name")
    assert closed


def test_importing_opens_no_socket(closed):
    import importlib

    import stakes

    importlib.reload(stakes)
    assert closed == []
