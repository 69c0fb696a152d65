"""Files that are whole or absent, and content hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from stakes.errors import OutputError

_LOG = logging.getLogger(__name__)
_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}")
LEFTOVER_SECONDS = 3600.0
"""In a folder that many share, a temporary folder of this age was left by a write that was killed."""

_SEAL = hashlib.sha256().digest_size


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target`` that replaces it when the block succeeds.

    The block may create a file or a folder there. On any failure nothing is left behind and an earlier
    ``target`` is untouched.

    Raises:
        OutputError: no space, no permission, or the parent cannot be a folder.
    """
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        inner = temporary / target.name
        yield inner
        _sync(inner)
        if target.is_dir() and inner.is_dir():
            shutil.rmtree(target)
        os.replace(inner, target)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def output_error(target: Path, error: OSError) -> OutputError:
    """What to say where a file or folder cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"cannot write {target}",
            expected="free space on that disk",
            got="a full disk",
            fix="Free some space and run the same command again: finished work is kept.",
        )
    return OutputError(
        f"cannot write {target}",
        expected="a writable place",
        got=error.strerror or str(error),
        fix="Choose another output path or mend its permissions.",
    )


def sweep(folder: Path, *, older: float = 0.0) -> None:
    """Drop the temporary folders that a killed `writing` left in ``folder``.

    Args:
        older: seconds that one must be old, so that nobody loses what is just being written; 0 for one who is alone
            there.
    """
    latest = time.time() - older
    for entry in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # another one was quicker
            if _LEFTOVER.fullmatch(entry.name) and entry.is_dir() and entry.stat().st_mtime <= latest:
                shutil.rmtree(entry, ignore_errors=True)


def private_folder(path: Path) -> None:
    """Make a folder that nobody but its owner may enter; one that is there stays as it is.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def write_bytes(target: Path, data: bytes) -> None:
    """Write ``data`` to ``target`` atomically."""
    with writing(target) as temporary:
        temporary.write_bytes(data)


def append_line(target: Path, line: str) -> None:
    """Add a line to a text file. A crash may cut the last line short; nothing before it is touched.

    Raises:
        OutputError: no space or no permission.
    """
    try:
        with target.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
    except OSError as error:
        raise output_error(target, error) from error


def write_tensors(target: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors with their digest, atomically; `read_tensors` checks it."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # Not save_file: it reports a full disk by an error of its own.
    write_bytes(target, save(plain, metadata={"digest": digest_tensors(plain)}))


def read_tensors(path: Path) -> dict[str, torch.Tensor] | None:
    """The tensors of a file by `write_tensors`, on the CPU; None where it is absent, or damaged, which is logged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            stated = (handle.metadata() or {}).get("digest")
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        _LOG.warning("%s is damaged (%s) and is not used", path, error)
        return None
    if digest_tensors(tensors) != stated:
        _LOG.warning("%s is damaged (its SHA-256 is another) and is not used", path)
        return None
    return tensors


def write_sealed(target: Path, data: bytes) -> None:
    """Write ``data`` after its SHA-256, atomically; `read_sealed` checks it."""
    write_bytes(target, hashlib.sha256(data).digest() + data)


def read_sealed(path: Path) -> bytes | None:
    """The data of a file by `write_sealed`; None where it is absent, or damaged, which is logged."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _LOG.warning("%s cannot be read (%s) and is not used", path, error)
        return None
    if hashlib.sha256(raw[_SEAL:]).digest() != raw[:_SEAL]:
        _LOG.warning("%s is damaged (its SHA-256 is another) and is not used", path)
        return None
    return raw[_SEAL:]


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as readable JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(target, (text + "\n").encode())


def digest(*parts: bytes | str) -> str:
    """SHA-256 (hexadecimal) of parts, each prefixed by its length so that no two lists collide."""
    state = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        state.update(len(raw).to_bytes(8, "little"))
        state.update(raw)
    return state.hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON-able value, whatever the order of its keys."""
    return digest(json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False))


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """Type, shape and values of a tensor as bytes; equal tensors give equal bytes on every device."""
    array = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    head = f"{array.dtype}{tuple(array.shape)}".encode()
    return head + array.reshape(-1).view(torch.uint8).numpy().tobytes()


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of named tensors, whatever their order."""
    parts: list[bytes | str] = []
    for name in sorted(tensors):
        parts += [name, tensor_bytes(tensors[name])]
    return digest(*parts)


@contextmanager
def removing(what: str) -> Iterator[None]:
    """Files are removed inside; what stands in the way is told.

    Raises:
        OutputError: something cannot be removed.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot remove {what}",
            expected="files that may be removed",
            got=error.strerror or str(error),
            fix="Mend its permissions and run the same command again.",
        ) from error
