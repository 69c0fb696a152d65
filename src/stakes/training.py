"""From data to a checkpoint on disk with its own record."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stakes.config import Device
from stakes.data.images import ImageSet
from stakes.data.sources import Source
from stakes.errors import DataError, RunFolderError
from stakes.files import digest_json, write_json
from stakes.locks import alone
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
        RunFolderError: the folder holds another training or a damaged record, or another process trains into it.
    """
    if source.train is None:
        raise DataError("pretrain", expected="a training split", got=f"none in {source.name}")
    request: dict[str, Any] = {
        "data": source.name,
        "train_set": source.train.fingerprint(),
        "architecture": architecture,
        "options": dict(options or {}),
        "preset": preset,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
    }
    request["key"] = digest_json(request)
    if (found := _kept(out, request["key"])) is not None:
        return found
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"--out {out}", expected="a new folder", got="a file")
    # Two would write their working states over each other.
    with alone(out / "training.lock", what=f"{out}", fix="Wait for it, or choose another --out."):
        found = _kept(out, request["key"])  # another one may have finished meanwhile
        return found or _trained(source.train, source.test, out, request, settings, device, progress)


def _trained(
    train: ImageSet,
    test: ImageSet | None,
    out: Path,
    request: dict[str, Any],
    settings: PretrainSettings,
    device: Device,
    progress: Progress,
) -> dict[str, Any]:
    state = out / "training-state.pt"
    classifier, rows = pretrain(
        train,
        test,
        architecture=request["architecture"],
        settings=settings,
        seed=request["seed"],
        device=resolve_device(device),
        options=request["options"],
        progress=progress,
        state_path=state,
    )
    save_checkpoint(classifier, out)
    record = {
        "key": request.pop("key"),
        "request": request,
        "history": [dataclasses.asdict(row) for row in rows],
        "model": classifier.fingerprint(),
        "versions": versions(),
    }
    write_json(out / RECORD, record)
    state.unlink(missing_ok=True)
    return record


def _kept(out: Path, key: str) -> dict[str, Any] | None:
    """The record of the same training, where it is finished."""
    if not (out / RECORD).is_file():
        return None
    record = _read(out / RECORD)
    if record.get("key") != key:
        raise RunFolderError(
            f"{out} holds another training", expected="a new folder", fix="Choose another --out."
        )
    return record


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        got = type(found).__name__
    except (OSError, ValueError) as error:
        got = str(error)
    raise RunFolderError(
        f"{path} cannot be read",
        expected="the record of a training",
        got=got,
        fix="Choose another --out, or delete that file to train again.",
    )
