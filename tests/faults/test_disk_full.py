"""A disk that fills up while any of the files is written: said so, nothing half-written stays, and it goes on."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import faultkit
import pytest

from stakes.errors import OutputError
from stakes.report.page import write_page


class FullDisk:
    """Writes to files of one name end half-way with "no space left"; ``name`` ending in ``*`` matches the rest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, suffix: str | tuple[str, ...]) -> None:
        self.suffix, self.hits = suffix, 0
        real_write, real_open = Path.write_bytes, Path.open

        def write_bytes(path: Path, data: Any) -> int:
            if str(path).endswith(self.suffix):
                self.hits += 1
                real_write(path, bytes(data)[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return real_write(path, data)

        def opened(path: Path, mode: str = "r", *args: Any, **named: Any) -> Any:
            if mode == "a" and str(path).endswith(self.suffix):
                self.hits += 1
                raise OSError(errno.ENOSPC, "No space left on device")
            return real_open(path, mode, *args, **named)

        monkeypatch.setattr(Path, "write_bytes", write_bytes)
        monkeypatch.setattr(Path, "open", opened)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with room enough."""
    folder = tmp_path_factory.mktemp("whole")
    faultkit.run(folder)
    return faultkit.contents(folder)


PREDICTION, PROBE = "predictions/*.safetensors", "probes/*.safetensors"
EVERY = (
    *("config.yaml", "anchors.safetensors", PREDICTION, "costs", PROBE, "structure.safetensors"),
    *("importance.safetensors", "job.pt", "history.jsonl", "config.json", "model.safetensors", "record.json"),
)


def names_of(kind: str, whole: dict[str, str]) -> tuple[str, ...]:
    """The ends of the paths of that kind; of probes the first to be written meets the full disk, whichever it is."""
    if kind in (PREDICTION, PROBE):
        return tuple(Path(name).name for name in whole if f"cache/{kind.partition('/')[0]}" in name)
    return (kind,)


@pytest.mark.parametrize("kind", EVERY)
def test_full_while_this_file_is_written(whole, tmp_path, kind):
    with pytest.MonkeyPatch.context() as patch:
        disk = FullDisk(patch, names_of(kind, whole))
        with pytest.raises(OutputError, match=r"a full disk.*run the same command again") as caught:
            faultkit.run(tmp_path)
    assert caught.value.exit_code == 4
    assert disk.hits >= 1
    assert any(name in str(caught.value) for name in names_of(kind, whole)), "the file is named"
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()], "nothing half-written stays"
    assert not (tmp_path / "run" / "record.json").exists(), (
        "an unfinished run does not pass for a finished one"
    )
    faultkit.run(tmp_path)
    assert faultkit.contents(tmp_path) == whole


def test_every_file_of_a_run_is_among_them(whole):
    """What is written and not in the list above would go untested."""
    tested = {name for kind in EVERY for name in names_of(kind, whole)}
    assert {Path(name).name for name in whole} <= tested


def test_full_while_the_page_is_written(tmp_path):
    faultkit.run(tmp_path)
    before = faultkit.contents(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, "report.html")
        with pytest.raises(OutputError, match="a full disk"):
            write_page(tmp_path / "run")
    assert faultkit.contents(tmp_path / "run") == before
    assert write_page(tmp_path / "run").is_file()
