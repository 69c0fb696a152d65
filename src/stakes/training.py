"""From data to a checkpoint on disk with its own record."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stakes.config import Device
from stakes.data.sources import Source
from stakes.errors import DataError, RunFolderError
from stakes.files import digest_json, write_json
from stakes.models.checkpoint import save_checkpoint
from stakes.models.pretrain import pretrain
from stakes.models.recipe import PretrainSettings
from stakes.progress import Progress, silent
from stakes.runtime import resolve_device, versions

RECORD = "pretrain.json"


def train_checkpoint(
    source: Source,
    out: Path,
    *,
    architecture: str,
    settings: PretrainSettings,
    options: Mapping[str, Any] | None = None,
    preset: str = "own",
    seed: int = 0,
    device: Device = "auto",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train a BEFORE model into a checkpoint folder: ``model.safetensors``, ``config.json``, ``pretrain.json``.

    A folder that holds the same training returns its record at once; an interrupted one resumes after its last
    whole epoch, to the same bytes.

    Raises:
        DataError: no training split.
        RunFolderError: the folder holds another training.
    """
    if source.train is None:
        raise DataError("pretrain", expected="a training split", got=f"none in {source.name}")
    request = {
        "data": source.name,
        "train_set": source.train.fingerprint(),
        "architecture": architecture,
        "options": dict(options or {}),
        "preset": preset,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
    }
    key = digest_json(request)
    if (out / RECORD).is_file():
        record: dict[str, Any] = json.loads((out / RECORD).read_text())
        if record.get("key") == key:
            return record
        raise RunFolderError(
            f"{out} holds another training", expected="a new folder", fix="Choose another --out."
        )
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"--out {out}", expected="a new folder", got="a file")
    state = out / "training-state.pt"
    classifier, rows = pretrain(
        source.train,
        source.test,
        architecture=architecture,
        settings=settings,
        seed=seed,
        device=resolve_device(device),
        options=options,
        progress=progress,
        state_path=state,
    )
    save_checkpoint(classifier, out)
    record = {
        "key": key,
        "request": request,
        "history": [dataclasses.asdict(row) for row in rows],
        "model": classifier.fingerprint(),
        "versions": versions(),
    }
    write_json(out / RECORD, record)
    state.unlink(missing_ok=True)
    return record
