"""A run folder: the unit of truth. Deleting it deletes the run; the command that made it resumes it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from stakes.anchors.anchors import Anchors
from stakes.errors import RunFolderError
from stakes.files import (
    append_line,
    private_folder,
    read_sealed,
    read_tensors,
    sweep,
    write_bytes,
    write_sealed,
    write_tensors,
)
from stakes.locks import alone
from stakes.records import Record

SEARCH = "tune.json"
"""The record of a search for the settings of the run, where there was one (`stakes.tune`)."""
SEARCH_LOCK = "tune.lock"

_SNAPSHOT = re.compile(r"step-(\d+)\.safetensors")


class RunFolder:
    """Paths and state of one run.

    ``config.yaml`` the resolved request, ``record.json``, ``history.jsonl`` one line a step, ``model.safetensors`` and
    ``config.json`` the deployed classifier as a checkpoint, ``anchors.safetensors`` where the method used some,
    ``snapshots/`` with the weights of some steps where milestones were asked for, ``analyses/`` with a file a
    section, ``report.html``, ``tune.json`` where settings were searched first. While the run goes on, ``state/``
    holds what is needed to resume, and the lock. Only the owner may enter the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"
        self.history_path = path / "history.jsonl"
        self.record_path = path / "record.json"

    def claim(self, request: Mapping[str, Any]) -> Record | None:
        """Make the folder ours, or resume it; the record if the same request is already finished.

        Raises:
            RunFolderError: the folder holds another request, or something that is not a run.
            OutputError: it cannot be written.
        """
        config = self.path / "config.yaml"
        wanted = json.loads(json.dumps(request, sort_keys=True))
        if config.is_file():
            self._refuse_other(self._read(config), wanted)
            if not self.record_path.is_file():
                return None
            # Still there where the run was killed just after its record was written.
            shutil.rmtree(self.state, ignore_errors=True)
            return Record.load(self.record_path)
        self._refuse_foreign()
        # Forget images and what hangs on them may be personal.
        private_folder(self.path)
        with contextlib.suppress(OSError):  # some file systems have no modes
            self.path.chmod(0o700)
        write_bytes(config, yaml.safe_dump(wanted, sort_keys=True, allow_unicode=True).encode())
        return None

    def refuse_begun(self) -> None:
        """Make sure that a search of settings may work here first: nobody has begun a run without one.

        Raises:
            RunFolderError: somebody has, or the folder holds something else.
        """
        if not (self.path / "config.yaml").is_file():
            self._refuse_foreign()
        elif not (self.path / SEARCH).is_file():
            raise RunFolderError(
                f"{self.path} holds a run without a search",
                expected="a new folder, or one whose search goes on",
                got=f"no {SEARCH} in it",
                fix="Choose another --out, or leave --tune out to resume that run.",
            )

    def _refuse_foreign(self) -> None:
        if self.path.exists() and (not self.path.is_dir() or any(map(_foreign, self.path.iterdir()))):
            raise RunFolderError(
                f"{self.path} is not a run folder",
                expected="a new or empty folder",
                fix="Choose another --out.",
            )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out while the block works on the claimed run; what a killed one left is swept up.

        Raises:
            RunFolderError: another process works on this run.
        """
        lock = self.state / "lock"
        with alone(lock, what=f"{self.path}", fix="Wait for it, or choose another --out."):
            sweep(self.path)
            sweep(self.state)
            yield

    def _read(self, config: Path) -> Any:
        try:
            return yaml.safe_load(config.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise RunFolderError(
                f"{config} cannot be read",
                expected="the request of a run",
                got=str(error).splitlines()[0],
                fix="Choose another --out.",
            ) from error

    def _refuse_other(self, found: Any, wanted: dict[str, Any]) -> None:
        if found == wanted:
            return
        there, here = _flat(found), _flat(wanted)
        keys = [k for k in sorted(there.keys() | here.keys()) if there.get(k, "") != here.get(k, "")]
        shown = "; ".join(f"{k}: {there.get(k)!r} there, {here.get(k)!r} now" for k in keys[:4])
        raise RunFolderError(
            f"{self.path} holds another request",
            expected="the same request (to resume) or a new folder",
            got=f"{len(keys)} differences ({shown})",
            fix="Choose another --out, or delete that folder.",
        )

    # -- StateStore ----------------------------------------------------------------------------------------

    def load(self) -> dict[str, Any] | None:
        """The state of the last safe point, or None; a damaged one counts as none, and is logged."""
        # Sealed, since PyTorch's own format does not notice a flipped bit.
        data = read_sealed(self.state / "job.pt")
        return (
            None
            if data is None
            else dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
        )

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state, atomically."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_sealed(self.state / "job.pt", buffer.getvalue())

    def remember(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors computed once in this run; a damaged file is made again."""
        path = self.state / f"{name}.safetensors"
        kept = read_tensors(path)
        if kept is not None:
            return kept
        made = {key: value.detach().cpu().contiguous() for key, value in make().items()}
        write_tensors(path, made)
        return made

    def keep_costs(self, totals: Mapping[str, Mapping[str, float]]) -> None:
        """Keep what the run has cost so far, for the call that resumes it."""
        write_sealed(self.state / "costs", json.dumps(totals).encode())

    def costs(self) -> dict[str, dict[str, float]]:
        """What earlier calls of this run have cost, as far as they could still say."""
        data = read_sealed(self.state / "costs")
        return {} if data is None else dict(json.loads(data))

    def keep_anchors(self, anchors: Anchors) -> None:
        """Keep the anchors of the run for its analyses; they may have been built for it alone."""
        path = self.path / "anchors.safetensors"
        if not path.is_file():
            anchors.save(path)

    # -- snapshots -----------------------------------------------------------------------------------------

    def rewind_snapshots(self, step: int) -> None:
        """Drop those after ``step``: they belong to steps that will be taken again."""
        folder = self.path / "snapshots"
        sweep(folder)
        for path in folder.glob("step-*"):
            if (found := _SNAPSHOT.fullmatch(path.name)) and int(found[1]) > step:
                path.unlink()

    def keep_snapshot(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Keep the weights of a step, as `Classifier.exported_state` names them."""
        # Copies: names that share their values would be refused.
        copies = {name: value.cpu().clone() for name, value in state.items()}
        write_tensors(self.path / "snapshots" / f"step-{step}.safetensors", copies)

    # -- history -------------------------------------------------------------------------------------------

    def rewind_history(self, step: int) -> None:
        """Drop rows after ``step``: they belong to steps that will be taken again."""
        if self.history_path.is_file():
            rows = [row for row in self.history() if row["step"] <= step]
            write_bytes(self.history_path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def append_history(self, row: Mapping[str, float]) -> None:
        """Add one step."""
        append_line(self.history_path, json.dumps(dict(row)))

    def history(self) -> list[dict[str, float]]:
        """All whole rows up to the first that is none: a last line cut short by a crash, or damage, ends them."""
        rows = []
        for line in self.history_path.read_bytes().splitlines() if self.history_path.is_file() else []:
            try:
                row = json.loads(line)
            except ValueError:  # no JSON, or no UTF-8
                break
            if not isinstance(row, dict) or "step" not in row:
                break
            rows.append(row)
        return rows

    def finish(self, record: Record) -> None:
        """Write the record last, then drop the state: a folder with a record is a finished run."""
        record.save(self.record_path)
        shutil.rmtree(self.state, ignore_errors=True)


def _foreign(entry: Path) -> bool:
    """Whether a file is neither of a search of settings nor what a crash during the very first write leaves behind."""
    if entry.name in (SEARCH, SEARCH_LOCK):
        return False
    return not (entry.is_dir() and entry.name.startswith((".config.yaml.", f".{SEARCH}.")))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix or "it": value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
