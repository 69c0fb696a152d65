"""Files that belong together: all of them or none, whatever cuts the writing off, and at whatever moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from stakes import together
from stakes.errors import OutputError
from stakes.files import read_tensors
from stakes.together import settle, write_together

FILES = {f"{name}.safetensors": {"x": torch.full((3,), float(at))} for at, name in enumerate("abcd")}


class Killed(BaseException):
    """Nothing after this moment happens, as after a kill."""


def found(folder: Path) -> dict[str, float]:
    """The files that others would see, with what is in them."""
    return {path.name: float(read_tensors(path)["x"][0]) for path in folder.glob("[!.]*")}  # type: ignore[index]


WANTED = {name: float(tensors["x"][0]) for name, tensors in FILES.items()}


def test_all_are_there_and_nothing_else(tmp_path):
    write_together(tmp_path, FILES)
    assert found(tmp_path) == WANTED
    assert len(list(tmp_path.iterdir())) == len(FILES)
    write_together(tmp_path, {"a.safetensors": {"x": torch.full((3,), 7.0)}})
    assert found(tmp_path) == WANTED | {"a.safetensors": 7.0}


@pytest.mark.parametrize("moves", range(len(FILES)))
def test_cut_off_between_two_moves_the_rest_follow(tmp_path, monkeypatch, moves):
    real, made = os.replace, iter(range(99))

    def replace(source: Path, target: Path) -> None:
        # The folder moves once, before its files do.
        if Path(target).parent == tmp_path and Path(target).suffix == ".safetensors" and next(made) == moves:
            raise Killed
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            write_together(tmp_path, FILES)
    assert len(found(tmp_path)) == moves
    settle(tmp_path)
    assert found(tmp_path) == WANTED
    assert len(list(tmp_path.iterdir())) == len(FILES)


@pytest.mark.parametrize("writes", range(len(FILES)))
def test_cut_off_between_two_writes_none_are_there(tmp_path, monkeypatch, writes):
    real, made = together.write_tensors, iter(range(99))

    def write(target: Path, tensors: dict[str, torch.Tensor]) -> None:
        if next(made) == writes:
            raise Killed
        real(target, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(together, "write_tensors", write)
        with pytest.raises(Killed):
            write_together(tmp_path, FILES)
    settle(tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_that_settle_at_once_do_not_disturb_each_other(tmp_path, monkeypatch):
    """The other one comes in before every move, and is quicker."""
    real, inside = os.replace, []

    def replace(source: Path, target: Path) -> None:
        if Path(target).parent == tmp_path and Path(target).suffix == ".safetensors" and not inside:
            inside.append(target)
            settle(tmp_path)
            inside.clear()
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_together(tmp_path, FILES)
    assert found(tmp_path) == WANTED
    assert len(list(tmp_path.iterdir())) == len(FILES)


def test_nothing_to_settle_where_there_is_no_folder(tmp_path):
    settle(tmp_path / "absent")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_moved_is_told(tmp_path, monkeypatch):
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    staged = tmp_path / ".0.staged"
    staged.mkdir()
    (staged / "a.safetensors").write_bytes(b"x")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        settle(tmp_path)
    assert (staged / "a.safetensors").read_bytes() == b"x"
