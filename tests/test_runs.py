"""The run folder: claimed, resumed, refused, and mended after a crash."""

from __future__ import annotations

import stat

import pytest
import torch

from stakes.errors import RunFolderError
from stakes.runs import RunFolder
from test_records import record  # noqa: F401

REQUEST = {"method": "neggrad", "settings": {"lr": 1e-5, "probes": {"epsilons": (0.5, 1.0)}, "max": None}}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


# -- claim -----------------------------------------------------------------------------------------------------


def test_a_new_folder_is_made_private(folder):
    assert folder.claim(REQUEST) is None
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]


def test_an_empty_folder_is_taken(folder):
    folder.path.mkdir()
    assert folder.claim(REQUEST) is None


def test_the_same_request_resumes(folder):
    folder.claim(REQUEST)
    before = (folder.path / "config.yaml").read_bytes()
    assert RunFolder(folder.path).claim(dict(reversed(REQUEST.items()))) is None
    assert (folder.path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    "value",
    ["yes", "1e5", "1e-4", "null", "été", "a: b", "# x", "", "1_0", "2026-01-01", "~", 1e-7, 1e22, True, 3],
)
def test_any_value_comes_back_as_it_was(folder, value):
    folder.claim({"a": {"b": [value, value]}, "c": value})
    assert folder.claim({"a": {"b": [value, value]}, "c": value}) is None


def test_a_finished_one_gives_its_record(folder, record):  # noqa: F811
    folder.claim(REQUEST)
    folder.save({"step": 3})
    folder.finish(record)
    assert not folder.state.exists()
    assert folder.claim(REQUEST) == record


def test_state_that_a_killed_run_left_beside_its_record_goes(folder, record):  # noqa: F811
    """It holds weights and what was made from the images to forget."""
    folder.claim(REQUEST)
    folder.save({"step": 3})
    record.save(folder.record_path)
    with folder.alone():
        assert folder.claim(REQUEST) == record
    assert not folder.state.exists()
    assert folder.claim(REQUEST) == record


def test_another_request_is_refused_with_the_differences(folder):
    folder.claim(REQUEST)
    other = {"method": "salun", "settings": REQUEST["settings"] | {"lr": 0.1, "new": None}}
    with pytest.raises(RunFolderError) as caught:
        folder.claim(other)
    message = str(caught.value)
    assert "3 differences" in message
    assert "method: 'neggrad' there, 'salun' now" in message
    assert "settings.lr: 1e-05 there, 0.1 now" in message
    assert "settings.new" in message
    assert "Choose another --out" in message
    assert "max" not in message


def test_foreign_folders_and_files_are_refused(folder, tmp_path):
    folder.path.mkdir()
    (folder.path / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match="not a run folder"):
        folder.claim(REQUEST)
    assert [path.name for path in folder.path.iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="not a run folder"):
        RunFolder(tmp_path / "file").claim(REQUEST)


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xff", b"!!python/object:os.system {}"])
def test_an_unreadable_request(folder, content):
    folder.path.mkdir()
    (folder.path / "config.yaml").write_bytes(content)
    with pytest.raises(RunFolderError, match="cannot be read"):
        folder.claim(REQUEST)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"defaults: [x]"])
def test_another_programs_request(folder, content):
    folder.path.mkdir()
    (folder.path / "config.yaml").write_bytes(content)
    with pytest.raises(RunFolderError, match="another request"):
        folder.claim(REQUEST)


def test_killed_in_the_very_first_write(folder):
    (folder.path / ".config.yaml.abc").mkdir(parents=True)
    assert folder.claim(REQUEST) is None


# -- state -----------------------------------------------------------------------------------------------------


def state() -> dict:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {"step": 3, "layer": layer.state_dict(), "optimizer": optimizer.state_dict()}


def test_state_round_trip(folder):
    assert folder.load() is None
    kept = state()
    folder.save(kept)
    read = folder.load()
    assert read is not None
    assert read["step"] == 3
    assert torch.equal(read["layer"]["weight"], kept["layer"]["weight"])
    moments = [s["state"][0]["momentum_buffer"] for s in (read["optimizer"], kept["optimizer"])]
    assert torch.equal(*moments)
    folder.save(kept | {"step": 4})
    assert folder.load()["step"] == 4
    assert [path.name for path in folder.state.iterdir()] == ["job.pt"]


def test_damaged_state_counts_as_none(folder):
    folder.save(state())
    path = folder.state / "job.pt"
    whole = path.read_bytes()
    for at in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(bytes(damaged))
        assert folder.load() is None
    for length in (0, 10, 32, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert folder.load() is None
    path.write_bytes(whole)
    assert folder.load() is not None


def test_remembers_what_was_made_once(folder):
    made = []

    def make():
        made.append(1)
        return {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.ones(2, requires_grad=True)}

    first = folder.remember("structure", make)
    again = RunFolder(folder.path).remember("structure", make)
    assert len(made) == 1
    assert all(torch.equal(first[name], again[name]) for name in ("a", "b"))
    assert not first["a"].requires_grad
    folder.remember("other", make)
    assert len(made) == 2


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"\x07", lambda raw: b""])
def test_makes_damaged_memories_again(folder, damage):
    folder.remember("x", lambda: {"a": torch.ones(3)})
    path = folder.state / "x.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert folder.remember("x", lambda: {"a": torch.zeros(3)})["a"].tolist() == [0, 0, 0]
    assert folder.remember("x", lambda: {})["a"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("damage", [b"\xff\xfe{", b"[1, 2]", b"7", b'{"loss": 1.0}', b"{"])
def test_history_ends_where_it_is_no_row(folder, damage):
    folder.path.mkdir(exist_ok=True)
    folder.append_history({"step": 1, "loss": 0.5})
    with folder.history_path.open("ab") as file:
        file.write(damage + b'\n{"step": 2, "loss": 0.5}\n')
    assert folder.history() == [{"step": 1, "loss": 0.5}]


# -- history ---------------------------------------------------------------------------------------------------


def test_history_grows_and_rewinds(folder):
    folder.claim(REQUEST)
    assert folder.history() == []
    folder.rewind_history(3)
    rows = [{"step": float(step), "loss": 1 / step} for step in range(1, 6)]
    for row in rows:
        folder.append_history(row)
    assert folder.history() == rows
    folder.rewind_history(3)
    assert folder.history() == rows[:3]
    folder.append_history(rows[3])
    assert folder.history() == rows[:4]
    folder.rewind_history(0)
    assert folder.history() == []


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_last_line_cut_by_a_crash_is_dropped(folder, cut):
    folder.claim(REQUEST)
    rows = [{"step": float(step), "loss": 0.12345} for step in (1, 2)]
    for row in rows:
        folder.append_history(row)
    raw = folder.history_path.read_bytes()
    folder.history_path.write_bytes(raw[:-cut])
    kept = rows if cut == 1 else rows[:1]
    assert folder.history() == kept
    folder.rewind_history(9)
    folder.append_history({"step": 3.0})
    assert folder.history() == [*kept, {"step": 3.0}]
