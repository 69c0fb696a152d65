"""Probe sets on disk: one file an image, named by content, shared by methods, runs and growing forget sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from stakes.config import Precision, ProbeSettings
from stakes.data.images import ImageSet
from stakes.errors import DataError, NumericalError
from stakes.files import (
    LEFTOVER_SECONDS,
    digest,
    digest_json,
    private_folder,
    read_tensors,
    sweep,
)
from stakes.memory import Fitting
from stakes.models.classifier import Classifier
from stakes.models.fold import fold_batchnorm
from stakes.probes import draw_probe, targeted_pgd
from stakes.processes import Processes, current
from stakes.progress import Progress, silent
from stakes.runtime import autocast
from stakes.together import settle, write_together

IN_MEMORY_BYTES = 2**30
"""Probe sets up to this size are held in memory; larger ones are read from disk batch by batch."""

_MOST_OPEN = 64

# Raised when what is computed changes, so that an older cache is not mistaken for it.
_ALGORITHM = "targeted-l2-pgd/1"


class ProbeSet:
    """N_s probes with target labels, backed by one file an image.

    Attributes:
        labels: (N_s,) int64 target classes.
        source: (N_s,) int64 position in the forget set of the image each probe was made from.
        shape: (C, H, W).
    """

    def __init__(self, shards: Sequence[Path], shape: tuple[int, int, int], labels: Tensor) -> None:
        self._shards = list(shards)
        self.shape = shape
        self.labels = labels.flatten()
        self.per_image = labels.shape[1]
        self.source = torch.arange(len(shards)).repeat_interleave(self.per_image)
        self._held: Tensor | None = None
        size = len(self.labels) * 4 * shape[0] * shape[1] * shape[2]
        if size <= IN_MEMORY_BYTES:
            self._held = torch.cat([load_file(shard)["images"] for shard in self._shards])
        # What open files have mapped counts as ours, though the system drops it when it needs to: no more than a set in
        # memory may take, and no more files than a process may have open.
        opened = max(1, min(_MOST_OPEN, IN_MEMORY_BYTES * len(shards) // max(size, 1)))
        self._open = lru_cache(maxsize=opened)(lambda shard: safe_open(self._shards[shard], framework="pt"))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        """Pixels (n, C, H, W), float32 in [0, 1], of the probes at ``indices``."""
        if self._held is not None:
            return self._held[indices]
        pixels = torch.empty(len(indices), *self.shape)
        # File by file, and copied at once: a slice that lives on keeps its file mapped.
        for place in indices.argsort(stable=True).tolist():
            shard, row = divmod(int(indices[place]), self.per_image)
            pixels[place] = self._open(shard).get_slice("images")[row : row + 1][0]
        return pixels

    def fingerprint(self) -> str:
        """SHA-256 over the names of the files: model, settings and images decide them."""
        return digest(*(f"{shard.parent.name}/{shard.name}" for shard in self._shards))


@dataclass(frozen=True)
class _Work:
    """Probes still to be made: position of the image in the forget set, and its file."""

    position: int
    path: Path


class _Counting:
    """Tells of this process's passes as they come, and at the end of those of the others."""

    def __init__(self, tell: Callable[[int], None] | None) -> None:
        self.tell, self.own = tell or (lambda images: None), 0

    def __call__(self, images: int) -> None:
        self.own += images
        self.tell(images)

    def others(self, processes: Processes) -> None:
        """Wait for them."""
        rest = processes.sum(self.own) - self.own
        if rest:
            self.tell(rest)


@dataclass(frozen=True)
class ProbeStore:
    """Makes probe sets and keeps them under ``root``.

    A file is keyed by the model's weights and normalisation, the probe settings, and the image's content, so
    a larger forget set, another method or a resumed run make only what is missing. The files of one pass appear all or
    none, even where the process is killed between two of them: a pass of the rest alone would round otherwise. Files
    are checked against their digest when opened, and a damaged one is made again.

    Many processes make whole passes each, of the images that one process would send together, so the files are the
    same bytes whatever their number. ``root`` then lies where all of them can read and write.

    Example:
        >>> store = ProbeStore(Path("cache"))
        >>> probes = store.build(classifier, forget, ProbeSettings())  # doctest: +SKIP
    """

    root: Path

    def build(
        self,
        classifier: Classifier,
        forget: ImageSet,
        settings: ProbeSettings,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        precision: Precision = "fp32",
        chunk: int = 128,
        progress: Progress = silent,
        on_pass: Callable[[int], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> ProbeSet:
        """Return the probe set of ``forget``, making what is not there yet.

        Args:
            chunk: most images a network pass, halved where that many do not fit into memory; the draws do not
                depend on it, pixels only in rounding.
            on_pass: told the number of images of every forward-and-backward pass.
            stop: asked between passes; where it says yes, finished files stay and KeyboardInterrupt is raised.

        Raises:
            DataError: a classifier of one class.
            NumericalError: the classifier gives no finite gradient, for example in half precision.
            OutOfMemoryError: a pass of a single image does not fit.
        """
        refuse_one_class(classifier)
        folder = self._folder(classifier, settings, seed, precision)
        paths = [folder / f"{name}.safetensors" for name in forget.hashes()]
        processes = current()
        processes.only_main(lambda: settle(folder))
        labels = processes.from_main(lambda: [_valid_labels(path, settings) for path in paths])
        missing = [_Work(at, path) for at, path in enumerate(paths) if labels[at] is None]
        total = len(paths) * settings.per_image
        done = total - len(missing) * settings.per_image
        progress("probes", done, total)
        if missing:
            processes.only_main(lambda: sweep(folder, older=LEFTOVER_SECONDS))
            attack = _Attack(
                classifier, forget, settings, seed, device or torch.device("cpu"), precision, chunk
            )
            passed = _Counting(on_pass)
            for made in attack.run(missing, passed, stop, processes):
                done = min(done + made * processes.count, total)
                progress("probes", done, total)
            passed.others(processes)
            labels = processes.from_main(lambda: [_valid_labels(path, settings) for path in paths])
        return ProbeSet(paths, forget.size, torch.stack([_present(found) for found in labels]))

    def present(
        self,
        classifier: Classifier,
        forget: ImageSet,
        settings: ProbeSettings,
        *,
        seed: int = 0,
        precision: Precision = "fp32",
    ) -> int:
        """How many images of ``forget`` have their probes here already; files are not checked."""
        folder = self._folder(classifier, settings, seed, precision)
        return sum((folder / f"{name}.safetensors").is_file() for name in forget.hashes())

    def _folder(
        self, classifier: Classifier, settings: ProbeSettings, seed: int, precision: Precision
    ) -> Path:
        return probe_folder(
            self.root,
            _ALGORITHM,
            classifier,
            seed=seed,
            precision=precision,
            radii=[settings.radius(probe) for probe in range(settings.per_image)],
            step_size=settings.step_size,
            iterations=settings.iterations,
        )


def probe_folder(
    root: Path, algorithm: str, classifier: Classifier, *, seed: int, precision: Precision, **made: Any
) -> Path:
    """Where probes of a model are kept: named by the model, the numbers that draw them, and what else ``made`` them."""
    key = digest_json(
        {
            "algorithm": algorithm,
            "model": classifier.identity(),
            "seed": seed,
            "precision": precision,
            **made,
        }
    )
    return root / "probes" / key[:32]


class _Attack:
    def __init__(
        self,
        classifier: Classifier,
        forget: ImageSet,
        settings: ProbeSettings,
        seed: int,
        device: torch.device,
        precision: Precision,
        chunk: int,
    ) -> None:
        self.forget, self.settings, self.seed, self.chunk = forget, settings, seed, chunk
        self.device, self.precision = device, precision
        self.num_classes = classifier.num_classes
        self.logits = fold_batchnorm(classifier.clone().eval().to(device))
        self.hashes = forget.hashes()

    def run(
        self,
        missing: Sequence[_Work],
        on_pass: Callable[[int], None],
        stop: Callable[[], bool],
        processes: Processes,
    ) -> Iterator[int]:
        """Make the missing files, yielding the number of probes finished after each pass.

        A pass takes whole images where they fit, so that work cut off and taken up again is batched, and thus
        rounded, as if it had gone through. Many processes take such groups in turn.
        """
        together = max(1, self.chunk // self.settings.per_image)
        fit = Fitting("probe_chunk")
        for first in range(0, len(missing), together)[processes.index :: processes.count]:
            group = missing[first : first + together]
            pairs = [(work, probe) for work in group for probe in range(self.settings.per_image)]
            made: list[tuple[Tensor, Tensor]] = []
            for start in range(0, len(pairs), self.chunk):
                part = pairs[start : start + self.chunk]
                made += fit(part, lambda some: self._attack(some, on_pass, stop))
                if start + self.chunk >= len(pairs):
                    _write(group, torch.cat([m[0] for m in made]), torch.cat([m[1] for m in made]))
                yield len(part)

    def _attack(
        self, part: Sequence[tuple[_Work, int]], on_pass: Callable[[int], None], stop: Callable[[], bool]
    ) -> tuple[Tensor, Tensor]:
        images = self.forget.batch([work.position for work, _ in part]).to(self.device)
        radii = torch.tensor([self.settings.radius(probe) for _, probe in part], device=self.device)
        draws = [
            draw_probe(
                self.hashes[work.position],
                int(self.forget.labels[work.position]),
                probe,
                num_classes=self.num_classes,
                shape=images.shape[1:],
                epsilon=self.settings.radius(probe),
                seed=self.seed,
            )
            for work, probe in part
        ]
        targets = torch.tensor([draw.target for draw in draws])

        def logits(pixels: Tensor) -> Tensor:
            if stop():
                raise KeyboardInterrupt
            on_pass(len(pixels))
            with autocast(self.device, self.precision):
                return self.logits(pixels)  # type: ignore[no-any-return]

        probes = targeted_pgd(
            logits,
            images,
            targets.to(self.device),
            torch.stack([draw.start for draw in draws]).to(self.device),
            epsilon=radii,
            step_size=self.settings.step_size,
            iterations=self.settings.iterations,
        )
        refuse_nonfinite(probes, self.precision)
        return probes.cpu(), targets


def refuse_one_class(classifier: Classifier) -> None:
    """A probe needs a class to move to."""
    if classifier.num_classes < 2:
        raise DataError("probes", expected="a classifier with two classes or more", got="one")


def refuse_nonfinite(probes: Tensor, precision: Precision) -> None:
    """No ruined probe reaches the cache."""
    if not bool(torch.isfinite(probes).all()):
        raise NumericalError(
            "probes",
            expected="finite pixels",
            got=f"NaN or infinity from the original model in {precision}",
            fix="Try precision fp32.",
        )


def _write(group: Sequence[_Work], images: Tensor, targets: Tensor) -> None:
    # Probes look like the images to forget, which may be personal.
    folder = group[0].path.parent
    private_folder(folder)
    parts = zip(group, images.chunk(len(group)), targets.chunk(len(group)), strict=True)
    write_together(
        folder, {work.path.name: {"images": pixels, "targets": labels} for work, pixels, labels in parts}
    )


def _valid_labels(path: Path, settings: ProbeSettings) -> Tensor | None:
    """The targets of a whole and undamaged file, or None."""
    tensors = read_tensors(path)
    if tensors is None or set(tensors) != {"images", "targets"}:
        return None
    # A copy: the tensor of the file would keep all of the file mapped.
    targets = tensors["targets"].clone()
    return targets if len(targets) == settings.per_image else None


def _present(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise DataError(
            "the probe cache", expected="the files just written", got="damaged ones", fix="Check the disk."
        )
    return labels
