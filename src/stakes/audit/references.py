"""Reference models: trained as the attacked one, each on a known half of the data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stakes.config import Device
from stakes.data.images import ImageSet
from stakes.data.sources import Source
from stakes.errors import CheckpointError, DataError
from stakes.files import digest, write_json
from stakes.models.checkpoint import load_checkpoint
from stakes.models.classifier import Classifier
from stakes.models.recipe import PretrainSettings
from stakes.progress import Progress, silent
from stakes.runtime import derive_seed, generator
from stakes.training import train_checkpoint

SEEN = "reference.json"
_SHORT = 16  # hexadecimal digits of an image's hash: 64 bits


@dataclass(frozen=True)
class Reference:
    """A model that saw other images than the attacked one.

    Attributes:
        name: where it came from.
        seen: short hashes of the images it was trained on; None where nobody wrote that down, and then it is taken
            to have seen none of the images in question.
    """

    name: str
    classifier: Classifier
    seen: frozenset[str] | None = None

    def unseen(self, images: ImageSet) -> NDArray[np.bool_]:
        """For each image, whether this model was not trained on it, by content."""
        if self.seen is None:
            return np.ones(len(images), bool)
        return np.array([one[:_SHORT] not in self.seen for one in images.hashes()])


def halves(count: int, models: int, seed: int) -> list[list[int]]:
    """Rows of the training split for each model: models 2i and 2i+1 get the two halves of one permutation.

    So with an even number of models every image is seen by exactly half of them.

    Example:
        >>> first, second = halves(4, 2, seed=0)
        >>> sorted(first + second)
        [0, 1, 2, 3]
    """
    chosen = []
    for model in range(models):
        order = torch.randperm(count, generator=generator("reference halves", seed, model // 2))
        rows = order[: count // 2] if model % 2 == 0 else order[count // 2 :]
        chosen.append(rows.sort().values.tolist())
    return chosen


def train_references(
    source: Source,
    out: Path,
    *,
    architecture: str,
    settings: PretrainSettings,
    models: int,
    options: Mapping[str, Any] | None = None,
    preset: str = "own",
    seed: int = 0,
    device: Device = "auto",
    without: ImageSet | None = None,
    progress: Progress = silent,
) -> list[Path]:
    """Train reference models into ``out/reference-00``, … ; each folder is a checkpoint with ``reference.json`` beside.

    ``reference.json`` says which rows of the training split the model saw, and their image hashes, by which an audit
    knows them again wherever the data is. Finished models stay; an interrupted one resumes.

    Args:
        without: instead of on halves, train on all images but these: models retrained without a forget set, into
            ``out/retrained-00``, … They differ by their seeds.

    Raises:
        DataError: no training split, or fewer than four images; or images of ``without`` that are not in it.
        RunFolderError: a folder holds another training.

    Example:
        >>> train_references(source, Path("refs"), architecture="resnet18", models=4, settings=recipe("own"))
        ... # doctest: +SKIP
    """
    if source.train is None or len(source.train) < 4:
        got = "none" if source.train is None else f"{len(source.train)} images"
        raise DataError("reference models", expected="a training split of at least 4 images", got=got)
    names = [one[:_SHORT] for one in source.train.hashes()]
    kind = "reference" if without is None else "retrained"
    folders = []
    for number, rows in enumerate(_rows(names, without, models, seed)):
        folder = out / f"{kind}-{number:02d}"
        train_checkpoint(
            replace(source, train=source.train.subset(rows)),
            folder,
            architecture=architecture,
            settings=settings,
            options=options,
            preset=preset,
            seed=derive_seed(kind, seed, number) % 2**31,
            device=device,
            progress=_named(progress, f"{kind} {number}"),
        )
        write_json(
            folder / SEEN,
            {
                "data": source.name,
                "train_images": len(source.train),
                "train_set": digest(*names),
                "rows": rows,
                "seen": sorted(names[row] for row in rows),
                "seed": seed,
                "model": number,
            },
        )
        folders.append(folder)
    return folders


def _rows(names: list[str], without: ImageSet | None, models: int, seed: int) -> list[list[int]]:
    if without is None:
        return halves(len(names), models, seed)
    gone = {one[:_SHORT] for one in without.hashes()}
    if absent := gone.difference(names):
        raise DataError(
            "images to train without",
            expected="images of the training split, by their hash",
            got=f"{len(absent)} of {len(gone)} that are not in it",
            fix="Give the training data that holds them, byte for byte: images that were saved again, or at another "
            "size, cannot be told from the others.",
        )
    return [[row for row, name in enumerate(names) if name not in gone]] * models


def _named(progress: Progress, title: str) -> Progress:
    def told(phase: str, done: int, total: int, **figures: float) -> None:
        progress(title, done, total, **figures)

    return told


def load_reference(
    path: str | Path,
    like: Classifier,
    *,
    allow_pickle: bool = False,
    factory: Callable[[], nn.Module] | None = None,
) -> Reference:
    """Load a reference or retrained model, which must tell the same classes in images of the same size.

    Raises:
        CheckpointError: it does not fit, or its ``reference.json`` is damaged.
    """
    classifier = load_checkpoint(path, allow_pickle=allow_pickle, factory=factory)
    for what, mine, theirs in (
        ("class names", like.class_names, classifier.class_names),
        ("image size", like.input_size, classifier.input_size),
    ):
        if mine != theirs:
            raise CheckpointError(
                f"model {path}",
                expected=f"the {what} of the run's model, in order",
                got=str(theirs),
            )
    device = next(like.parameters()).device
    return Reference(str(path), classifier.eval().requires_grad_(False).to(device), _seen(Path(path)))


def refuse_seen(retrained: Sequence[Reference], forget: ImageSet) -> None:
    """Make sure that models which are to be without the forget set are, as far as it is written down.

    Raises:
        CheckpointError: one was trained on images of it.
    """
    for one in retrained:
        if known := int((~one.unseen(forget)).sum()):
            raise CheckpointError(
                f"retrained model {one.name}",
                expected="a model that saw none of the images to forget",
                got=f"one that was trained on {known} of {len(forget)} of them, by its {SEEN}",
                fix="Train one with: stakes audit-references --without RUN. Models of halves go to --reference.",
            )


def expanded(paths: Sequence[str | Path]) -> Iterator[str]:
    """Checkpoints named one by one, or all of a folder that `train_references` wrote."""
    for path in paths:
        inside = sorted(Path(path).glob(f"re*-*/{SEEN}"))
        yield from (str(found.parent) for found in inside)
        if not inside:
            yield str(path)


def _seen(path: Path) -> frozenset[str] | None:
    file = (path if path.is_dir() else path.parent) / SEEN
    if not file.is_file():
        return None
    try:
        return frozenset(json.loads(file.read_text(encoding="utf-8"))["seen"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} cannot be read", expected="what audit-references wrote", got=str(error)
        ) from None
