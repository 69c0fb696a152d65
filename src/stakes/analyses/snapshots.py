"""Classifiers of a run in between: the weights it kept at some of its steps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stakes.errors import RunFolderError
from stakes.models.classifier import Classifier

_NAME = re.compile(r"step-(\d+)\.safetensors")


def snapshots(run: Path, most: int) -> list[tuple[int, Path]]:
    """Steps and files of ``RUN/snapshots/step-N.safetensors`` in ascending order; at most so many, evenly spread."""
    folder = run / "snapshots"
    files = [(match, path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    found = sorted((int(match[1]), path) for match, path in files)
    if len(found) <= most:
        return found
    places = torch.linspace(0, len(found) - 1, most).round().long().tolist()
    return [found[place] for place in places]


def read_snapshot(template: Classifier, path: Path) -> Classifier:
    """The classifier of a snapshot: ``template`` with the weights of a file of `Classifier.exported_state`.

    Raises:
        RunFolderError: the file is damaged or holds other weights.
    """
    try:
        return with_weights(template, load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise RunFolderError(
            f"snapshot {path}",
            expected="the weights of the run's classifier",
            got=str(error).splitlines()[0],
            fix="Delete that file and analyse again.",
        ) from None


def with_weights(template: Classifier, state: Mapping[str, Tensor]) -> Classifier:
    """A copy of a classifier with other weights, named as in `Classifier.exported_state`.

    Raises:
        RuntimeError: names or shapes that do not fit.
    """
    made = template.clone()
    head = made.head_names[0]
    inside = {f"{name}.{key}" for name in made.head_names for key in made.head.state_dict()}
    own = {key: value for key, value in state.items() if key not in inside}
    projector = {
        key.removeprefix("projector."): own.pop(key) for key in list(own) if key.startswith("projector.")
    }
    made.body.load_state_dict(own)
    made.head.load_state_dict(
        {key: state[f"{head}.{key}"] for key in made.head.state_dict() if f"{head}.{key}" in state}
    )
    if made.projector is not None:
        made.projector.load_state_dict(projector)
    elif projector:
        raise RuntimeError("the file has a projector, and the run's classifier has none")
    return made.eval().requires_grad_(False)
