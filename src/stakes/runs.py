"""A run folder: the unit of truth. Deleting it deletes the run; the command that made it resumes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stakes.errors import RunFolderError
from stakes.files import digest_tensors, write_bytes, writing
from stakes.records import Record


class RunFolder:
    """Paths and state of one run.

    ``config.yaml`` the resolved request, ``record.json``, ``history.jsonl`` one line a step, ``model.safetensors`` and
    ``config.json`` the deployed classifier as a checkpoint, ``report.html``. While the run goes on, ``state/`` holds
    what is needed to resume.
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
            self._refuse_other(yaml.safe_load(config.read_text()), wanted)
            return Record.load(self.record_path) if self.record_path.is_file() else None
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunFolderError(
                f"{self.path} is not a run folder",
                expected="a new or empty folder",
                fix="Choose another --out.",
            )
        write_bytes(config, yaml.safe_dump(wanted, sort_keys=True, allow_unicode=True).encode())
        # Forget images and what hangs on them may be personal.
        self.path.chmod(0o700)
        return None

    def _refuse_other(self, found: Any, wanted: dict[str, Any]) -> None:
        if found == wanted:
            return
        there, here = _flat(found), _flat(wanted)
        keys = [k for k in sorted(there.keys() | here.keys()) if there.get(k) != here.get(k)]
        shown = "; ".join(f"{k}: {there.get(k)!r} there, {here.get(k)!r} now" for k in keys[:4])
        raise RunFolderError(
            f"{self.path} holds another request",
            expected="the same request (to resume) or a new folder",
            got=f"{len(keys)} differences ({shown})",
            fix="Choose another --out, or delete that folder.",
        )

    # -- StateStore ----------------------------------------------------------------------------------------

    def load(self) -> dict[str, Any] | None:
        """The state of the last safe point, or None; a damaged one counts as none."""
        path = self.state / "job.pt"
        if not path.is_file():
            return None
        try:
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, EOFError, ValueError, OSError):
            return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state atomically."""
        with writing(self.state / "job.pt") as temporary:
            torch.save(dict(state), temporary)

    def remember(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors computed once in this run; a damaged file is made again."""
        path = self.state / f"{name}.safetensors"
        if path.is_file():
            try:
                tensors: dict[str, Tensor] = load_file(path)
                mark = tensors.pop("_digest")
            except (SafetensorError, OSError, KeyError):
                tensors, mark = {}, torch.empty(0)
            if tensors and bytes(mark.tolist()).hex() == digest_tensors(tensors):
                return tensors
        made = {key: value.detach().cpu().contiguous() for key, value in make().items()}
        mark = torch.tensor(list(bytes.fromhex(digest_tensors(made))), dtype=torch.uint8)
        with writing(path) as temporary:
            save_file({**made, "_digest": mark}, temporary)
        return made

    # -- history -------------------------------------------------------------------------------------------

    def rewind_history(self, step: int) -> None:
        """Drop rows after ``step``: they belong to steps that will be taken again."""
        if self.history_path.is_file():
            rows = [row for row in self.history() if row["step"] <= step]
            write_bytes(self.history_path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def append_history(self, row: Mapping[str, float]) -> None:
        """Add one step."""
        with self.history_path.open("a") as handle:
            handle.write(json.dumps(dict(row)) + "\n")

    def history(self) -> list[dict[str, float]]:
        """All whole rows; a last line cut short by a crash is left out."""
        rows = []
        for line in self.history_path.read_text().splitlines() if self.history_path.is_file() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def finish(self, record: Record) -> None:
        """Write the record last, then drop the state: a folder with a record is a finished run."""
        record.save(self.record_path)
        shutil.rmtree(self.state, ignore_errors=True)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix or "it": value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
