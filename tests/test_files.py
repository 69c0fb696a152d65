"""Files are whole or absent; digests tell apart what differs and nothing else."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stakes import files
from stakes.errors import OutputError
from stakes.files import (
    append_line,
    digest,
    digest_file,
    digest_json,
    digest_tensors,
    read_tensors,
    tensor_bytes,
    write_bytes,
    write_json,
    write_tensors,
    writing,
)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_a_file_and_makes_parents(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "c.txt", b"x")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"x"
    assert listing(tmp_path / "a" / "b") == ["c.txt"]


def test_replaces_a_file(tmp_path):
    write_bytes(tmp_path / "c", b"old")
    write_bytes(tmp_path / "c", b"new")
    assert (tmp_path / "c").read_bytes() == b"new"


def test_writes_and_replaces_a_folder(tmp_path):
    for content in ("old", "new"):
        with writing(tmp_path / "d") as inner:
            inner.mkdir()
            (inner / content).write_text(content)
    assert listing(tmp_path / "d") == ["new"]
    assert listing(tmp_path) == ["d"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_failure_leaves_the_old_content_and_no_debris(tmp_path, error):
    write_bytes(tmp_path / "c", b"old")
    expected = OutputError if error is OSError else error
    with pytest.raises(expected), writing(tmp_path / "c") as inner:  # noqa: PT012
        inner.write_bytes(b"half")
        raise error
    assert (tmp_path / "c").read_bytes() == b"old"
    assert listing(tmp_path) == ["c"]


def failing(number: int):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(tmp_path, monkeypatch, number):
    monkeypatch.setattr(Path, "write_bytes", failing(number))
    with pytest.raises(OutputError, match=r"full disk.*finished work is kept") as caught:
        write_bytes(tmp_path / "c", b"x")
    assert caught.value.exit_code == 4
    assert listing(tmp_path) == []


def test_full_disk_while_writing_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", failing(errno.ENOSPC))
    with pytest.raises(OutputError, match="full disk"):
        write_tensors(tmp_path / "c", {"a": torch.zeros(2)})
    assert listing(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no /dev/full")
def test_full_disk_while_appending():
    with pytest.raises(OutputError, match="full disk"):
        append_line(Path("/dev/full"), "x")


def test_no_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(files.tempfile, "mkdtemp", failing(errno.EACCES))
    with pytest.raises(OutputError, match="Permission denied"):
        write_bytes(tmp_path / "c", b"x")


def test_no_space_at_the_replacement(tmp_path, monkeypatch):
    write_bytes(tmp_path / "c", b"old")
    monkeypatch.setattr(files.os, "replace", failing(errno.ENOSPC))
    with pytest.raises(OutputError):
        write_bytes(tmp_path / "c", b"new")
    assert (tmp_path / "c").read_bytes() == b"old"
    assert listing(tmp_path) == ["c"]


def test_parent_is_a_file(tmp_path):
    write_bytes(tmp_path / "c", b"x")
    with pytest.raises(OutputError, match="writable place"):
        write_bytes(tmp_path / "c" / "d", b"x")


def test_json_is_sorted_and_readable(tmp_path):
    write_json(tmp_path / "c", {"b": 1, "a": "é"})
    assert (tmp_path / "c").read_text(encoding="utf-8") == '{\n "a": "é",\n "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "c", float("nan"))
    assert listing(tmp_path) == ["c"]


def test_lines_are_added(tmp_path):
    append_line(tmp_path / "c", "one")
    append_line(tmp_path / "c", "zwölf")
    assert (tmp_path / "c").read_text(encoding="utf-8") == "one\nzwölf\n"


parts = st.lists(st.binary(max_size=6), max_size=5)


@given(parts, parts)
def test_lists_of_parts_do_not_collide(first, second):
    assert (digest(*first) == digest(*second)) == (first == second)


def test_digest_of_text_and_files(tmp_path):
    assert digest("a", "b") != digest("ab")
    assert digest("é") == digest("é".encode())
    write_bytes(tmp_path / "c", b"abc")
    assert digest_file(tmp_path / "c") == hashlib.sha256(b"abc").hexdigest()
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1}) != digest_json({"a": 1})


DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensor_bytes_of_every_type(dtype):
    tensor = torch.tensor([[0.0, 1.0], [2.0, 4.0]]).to(dtype)
    assert tensor_bytes(tensor) == tensor_bytes(tensor.T.contiguous().T)
    assert tensor_bytes(tensor) != tensor_bytes(tensor.reshape(4))
    assert tensor_bytes(tensor[0, 0]) != tensor_bytes(tensor[0, :1])
    assert tensor_bytes(tensor) == str(dtype).encode() + b"(2, 2)" + bytes(
        tensor.reshape(-1).view(torch.uint8).tolist()
    )


def test_tensor_digests():
    values = torch.arange(6.0).reshape(2, 3)
    assert digest_tensors({"a": values, "b": values[0]}) == digest_tensors({"b": values[0], "a": values})
    assert digest_tensors({"a": values}) != digest_tensors({"b": values})
    assert digest_tensors({"a": values}) != digest_tensors({"a": values + 1e-6})
    assert digest_tensors({"a": values}) == digest_tensors({"a": values.requires_grad_()})
    assert tensor_bytes(torch.zeros(2)) != tensor_bytes(torch.zeros(2, dtype=torch.int32))
    assert tensor_bytes(torch.zeros(0, 3)) == b"torch.float32(0, 3)"


def test_tensors_round_trip(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(True)}
    write_tensors(tmp_path / "t", tensors)
    read = read_tensors(tmp_path / "t")
    assert read is not None
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    first = (tmp_path / "t").read_bytes()
    write_tensors(tmp_path / "t", tensors)
    assert (tmp_path / "t").read_bytes() == first


def test_every_damaged_byte_is_noticed(tmp_path):
    path = tmp_path / "t"
    assert read_tensors(path) is None
    write_tensors(path, {"a": torch.arange(6.0), "b": torch.tensor([1, 2])})
    whole = path.read_bytes()
    read = read_tensors(path)
    for at in range(len(whole)):
        for flip in (0x01, 0x20, 0xFF):
            damaged = bytearray(whole)
            damaged[at] ^= flip
            path.write_bytes(bytes(damaged))
            found = read_tensors(path)
            # A flip in the padding of the header changes nothing that is read.
            assert found is None or all(torch.equal(found[name], read[name]) for name in read)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert read_tensors(path) is None
    path.unlink()
    path.mkdir()
    assert read_tensors(path) is None


def test_sealed_bytes_notice_every_flipped_byte(tmp_path, caplog):
    path = tmp_path / "sealed"
    assert files.read_sealed(path) is None
    assert not caplog.messages, "an absent file is no damage"
    files.write_sealed(path, b"state")
    assert files.read_sealed(path) == b"state"
    raw = path.read_bytes()
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert files.read_sealed(path) is None
    assert str(path) in caplog.messages[-1]
    path.write_bytes(raw[:7])
    assert files.read_sealed(path) is None


def test_a_private_folder_stays_as_it_is(tmp_path):
    files.private_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "a" / "b").chmod(0o750)
    files.private_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o750, "opened on purpose"
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        files.private_folder(tmp_path / "file" / "c")
