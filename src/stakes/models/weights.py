"""Named tensors from checkpoint files, checked before any network sees them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stakes.errors import CheckpointError
from stakes.files import digest_tensors

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
SEAL = "stakes.sha256"
"""In the metadata of a safetensors file that we wrote: the digest of its tensors."""

_INDEX = "model.safetensors.index.json"


def locate(path: Path, *, allow_pickle: bool = False) -> list[Path]:
    """The weight files that ``path`` (a file or a folder) stands for.

    In a folder: ``model.safetensors``, else the parts named in ``model.safetensors.index.json``, else the
    only ``.safetensors`` file, else (with ``allow_pickle``) the only pickle.

    Raises:
        CheckpointError: nothing there, several candidates, or a pickle without leave.
    """
    if path.is_file():
        if path.suffix in PICKLES and not allow_pickle:
            raise _pickle_error(path)
        return [path]
    if not path.is_dir():
        raise CheckpointError(
            f"no checkpoint at {path}", expected="a .safetensors file or its folder", got="nothing there"
        )
    if (whole := path / "model.safetensors").is_file():
        return [whole]
    if (index := path / _INDEX).is_file():
        parts = sorted(set(read_json(index).get("weight_map", {}).values()))
        return [_inside(path, str(part)) for part in parts]
    plain = sorted(path.glob("*.safetensors"))
    pickles = sorted(p for p in path.iterdir() if p.suffix in PICKLES and p.is_file())
    if not plain and pickles and not allow_pickle:
        raise _pickle_error(pickles[0])
    found = plain or pickles
    if len(found) != 1:
        raise CheckpointError(
            f"weights in {path}",
            expected="model.safetensors",
            got=_few([p.name for p in found]) or "no weight file",
            fix="Give the path of the file itself." if found else "Check the path.",
        )
    return found


def _inside(folder: Path, part: str) -> Path:
    if Path(part).name != part or not (folder / part).is_file():
        raise CheckpointError(
            f"part of the checkpoint in {folder}", expected="a file beside the index", got=part
        )
    return folder / part


def _pickle_error(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is a pickle, which can run code when it is opened",
        expected="a .safetensors file",
        fix="Convert it with safetensors, or allow it (--allow-pickle, allow_pickle=True): "
        "then it is loaded weights-only.",
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: missing, unreadable or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no {path.name} in {path.parent}",
            expected="a JSON file beside the weights that says architecture, class_names and input_size",
            got="nothing",
            fix="Write one, or load the network yourself and use Classifier.from_network.",
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"cannot read {path}", expected="JSON", got=str(error)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"contents of {path}", expected="a JSON object", got=type(value).__name__)
    return value


def read_weights(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    """All tensors of the files on the CPU, with every floating type as float32.

    Raises:
        CheckpointError: truncated, corrupt, not a set of tensors, or NaN or infinity in one (named).
    """
    state: dict[str, torch.Tensor] = {}
    for file in files:
        raw = _read_pickle(file) if file.suffix in PICKLES else _read_safetensors(file)
        state.update({k: v.float() if v.is_floating_point() else v for k, v in raw.items()})
    broken = [k for k, v in state.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if broken:
        raise CheckpointError(
            "weights of the checkpoint",
            expected="finite numbers",
            got=f"NaN or infinity in {_few(broken)}",
            fix="The training has diverged, or the file is damaged: use an earlier checkpoint.",
        )
    return state


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(file, framework="pt") as handle:
            stated = (handle.metadata() or {}).get(SEAL)
        state: dict[str, torch.Tensor] = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {file}",
            expected="a whole safetensors file",
            got=f"{file.stat().st_size} bytes that are truncated or corrupt ({error})",
            fix="Copy or download it again.",
        ) from error
    if stated is not None and digest_tensors(state) != stated:
        raise CheckpointError(
            f"{file} is damaged or was changed",
            expected=f"weights with the SHA-256 that it states ({stated[:12]}…)",
            got="others",
            fix="Copy it again, or make it again. After a change on purpose, save it with save_checkpoint.",
        )
    return state


def _read_pickle(file: Path) -> dict[str, torch.Tensor]:
    try:
        value = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError) as error:
        raise CheckpointError(
            f"cannot read {file}",
            expected="a pickle that holds tensors only",
            got=str(error).splitlines()[0],
            fix="Save network.state_dict(), not the network, or better a safetensors file.",
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict) or not all(isinstance(v, torch.Tensor) for v in value.values()):
        raise CheckpointError(
            f"contents of {file}", expected="a state dict: names to tensors", got="other things"
        )
    return {str(k): v for k, v in value.items()}


def _unwrapped(
    state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    """Names without what ``nn.DataParallel`` and ``torch.compile`` put before them, unless the network has it too."""
    while state:
        found = [
            prefix
            for prefix in ("module.", "_orig_mod.")
            if all(name.startswith(prefix) for name in state)
            and not all(name.startswith(prefix) for name in wanted)
        ]
        if not found:
            break
        state = {name.removeprefix(found[0]): value for name, value in state.items()}
    return state


def fill(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load tensors into a module, all of them and no others; only ``num_batches_tracked`` may be left out.

    Raises:
        CheckpointError: names or shapes differ; the first few are named.
    """
    wanted = module.state_dict()
    state = _unwrapped(state, wanted)
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in wanted]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in state and state[k].shape != v.shape
    ]
    problems = {"missing": missing, "unexpected": unknown, "of another shape": shapes}
    if told := [f"{what}: {_few(names)}" for what, names in problems.items() if names]:
        raise CheckpointError(
            "the weights do not fit the network that config.json describes",
            got="; ".join(told),
            fix="Check architecture, stem and num_classes in config.json.",
        )
    module.load_state_dict(state, strict=False)


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
