"""Inverted probes on disk: one file a batch, named by what it was made from, shared by methods and runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from stakes.config import Precision, ProbeSettings
from stakes.data.images import ImageSet
from stakes.files import (
    LEFTOVER_SECONDS,
    private_folder,
    read_tensors,
    sweep,
    write_tensors,
)
from stakes.inversion import invert, mixed_starts
from stakes.models.classifier import Classifier
from stakes.probe_store import ProbeSet, probe_folder, refuse_nonfinite, refuse_one_class
from stakes.processes import current
from stakes.progress import Progress, silent
from stakes.runtime import autocast, generator

# Raised when what is computed changes, so that an older cache is not mistaken for it.
_ALGORITHM = "inversion/2"


def build_inverted(
    root: Path,
    classifier: Classifier,
    forget: ImageSet,
    settings: ProbeSettings,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    precision: Precision = "fp32",
    progress: Progress = silent,
    on_pass: Callable[[int], None] = lambda images: None,
    stop: Callable[[], bool] = lambda: False,
) -> ProbeSet:
    """Return the inverted probes of a request, making the batches that are not there yet.

    Classes are targeted in turn. A batch is made alone, from a generator of its own, since its statistics are those
    of all its images; so the number of batches changes none of them. A damaged file is made again.

    Args:
        on_pass: told the number of images of every forward-and-backward pass.
        stop: asked between passes; where it says yes, finished batches stay and KeyboardInterrupt is raised.

    Raises:
        DataError: a classifier of one class.
        NumericalError: the classifier gives no finite gradient, for example in half precision.
    """
    refuse_one_class(classifier)
    wanted, device = settings.inversion, device or torch.device("cpu")
    folder = _folder(root, classifier, forget, settings, seed, precision)
    paths = [_file(folder, batch) for batch in range(wanted.batches)]
    total = wanted.batches * wanted.batch
    progress("probes", 0, total)
    current().only_main(lambda: sweep(folder, older=LEFTOVER_SECONDS))
    model = classifier.clone().eval().to(device).requires_grad_(False)
    # Every process makes all of them, since there are few; the main one writes.
    labels = []
    for number, path in enumerate(paths):
        found = read_tensors(path)
        if found is None or set(found) != {"images", "targets"} or len(found["targets"]) != wanted.batch:
            found = _make(model, forget, wanted.batch, number, settings, seed, precision, on_pass, stop)
            private_folder(folder)
            if current().main:
                write_tensors(path, found)
        labels.append(found["targets"].clone())
        progress("probes", (number + 1) * wanted.batch, total)
    current().only_main(lambda: None)  # the files are there for all
    return ProbeSet(paths, forget.size, torch.stack(labels))


def inverted_present(
    root: Path,
    classifier: Classifier,
    forget: ImageSet,
    settings: ProbeSettings,
    *,
    seed: int = 0,
    precision: Precision = "fp32",
) -> int:
    """How many probes of a request are here already; files are not checked."""
    folder = _folder(root, classifier, forget, settings, seed, precision)
    return settings.inversion.batch * sum(
        _file(folder, batch).is_file() for batch in range(settings.inversion.batches)
    )


def _folder(
    root: Path,
    classifier: Classifier,
    forget: ImageSet,
    settings: ProbeSettings,
    seed: int,
    precision: Precision,
) -> Path:
    return probe_folder(
        root,
        _ALGORITHM,
        classifier,
        seed=seed,
        precision=precision,
        forget=forget.fingerprint(),
        settings=settings.inversion.model_dump(mode="json", exclude={"batches"}),
    )


def _file(folder: Path, batch: int) -> Path:
    return folder / f"{batch:05d}.safetensors"


def _make(
    model: Classifier,
    forget: ImageSet,
    size: int,
    number: int,
    settings: ProbeSettings,
    seed: int,
    precision: Precision,
    on_pass: Callable[[int], None],
    stop: Callable[[], bool],
) -> dict[str, Tensor]:
    draws = generator("inversion", seed, number)
    device = model.mean.device
    # At most a few thousand images go into the starts; each is mixed with others anyway.
    chosen = torch.randperm(len(forget), generator=draws)[: 2 * size]
    images = forget.batch(chosen)
    targets = torch.arange(number * size, (number + 1) * size) % model.num_classes

    def forward(pixels: Tensor) -> Tensor:
        if stop():
            raise KeyboardInterrupt
        on_pass(len(pixels))
        with autocast(device, precision):
            return model(pixels)  # type: ignore[no-any-return]

    starts = mixed_starts(images, size, draws).to(device)
    like = images[:size].to(device)
    made = invert(model, starts, targets.to(device), settings.inversion, draws, like=like, forward=forward)
    made = made.cpu()
    refuse_nonfinite(made, precision)
    return {"images": made, "targets": targets}
