"""What one unlearning will take, before it starts: image passes, time, disk and memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.bench.cost import Passes, cell_cost
from stakes.bench.grid import Facts
from stakes.config import RunSettings
from stakes.data.forget import ForgetSplit
from stakes.data.stores import CACHE_BYTES
from stakes.inputs import refuse_unlabelled
from stakes.inverted_store import inverted_present
from stakes.layer_statistics import keeps_statistics
from stakes.methods import Method
from stakes.models.classifier import Classifier
from stakes.models.fold import fold_batchnorm
from stakes.probe_store import IN_MEMORY_BYTES, ProbeStore
from stakes.runtime import autocast, resolve_device
from stakes.tune.judge import judging

_ENOUGH_SECONDS = 0.5
"""How long a pass has to take to be timed; batches grow until it does."""


@dataclass(frozen=True)
class PhaseEstimate:
    """Images sent forward and backward in a phase, and seconds at the measured pace; upper bounds."""

    forward: int
    backward: int
    seconds: float

    def __add__(self, other: PhaseEstimate) -> PhaseEstimate:
        return PhaseEstimate(
            self.forward + other.forward, self.backward + other.backward, self.seconds + other.seconds
        )


@dataclass(frozen=True)
class Estimate:
    """Upper bounds of one unlearning by one process.

    Attributes:
        phases: by name; ``trials`` and ``unlearn`` up to the step limit, though most methods stop once the forget set
            is forgotten.
        steps: that limit.
        schedule: steps before the first test whether all is forgotten; most runs that have some end soon after them.
        scheduled: ``unlearn`` if it ends with them.
        pace: seconds an image, measured: ``forward``, ``probe`` (forward and back to the pixels), ``step`` (forward and
            back to the weights).
        disk: bytes to be written, by what.
        free: bytes free where they go.
        memory: bytes at most held at a time, by what; those of activations are measured on one image.
    """

    phases: dict[str, PhaseEstimate]
    steps: int
    schedule: int
    scheduled: PhaseEstimate
    pace: dict[str, float]
    disk: dict[str, int]
    free: dict[str, int]
    memory: dict[str, int]
    device: str

    @property
    def seconds(self) -> float:
        """All phases."""
        return sum(phase.seconds for phase in self.phases.values())

    @property
    def scheduled_seconds(self) -> float:
        """All phases, if the steps end with the schedule."""
        return self.seconds - self.phases["unlearn"].seconds + self.scheduled.seconds

    def to_json(self) -> dict[str, Any]:
        """Plain values, with totals."""
        return asdict(self) | {
            "seconds": self.seconds,
            "scheduled_seconds": self.scheduled_seconds,
            "disk_bytes": sum(self.disk.values()),
            "memory_bytes": sum(self.memory.values()),
        }


@dataclass(frozen=True)
class _Request:
    """One request as `stakes.bench.cost` counts it."""

    method: Method[Any]
    k: int
    run: RunSettings
    id: str = "request"


def estimate(
    classifier: Classifier,
    split: ForgetSplit,
    method: Method[Any],
    run: RunSettings,
    *,
    out: Path,
    cache: Path,
    trials: int = 0,
) -> Estimate:
    """Estimate one unlearning from its settings and a few timed passes of random images; nothing is written.

    Passes are counted as in `stakes.bench.cost`. Time is passes times pace: decoding, losses behind the features, and
    waiting for a disk are not in it. Probes that lie in the cache already are left out.

    Args:
        trials: of a search for settings before it (`stakes.tune.request`), counted as a phase of their own.

    Raises:
        ConfigError: unlabelled images for a method that has no use for them, or a device that is not there.

    Example:
        >>> estimate(classifier, split, method, RunSettings(), out=run, cache=cache).seconds  # doctest: +SKIP
        5400.0
    """
    if split.unlabelled is not None:
        refuse_unlabelled(method)
    device = resolve_device(run.device)
    k = len(split.forget)
    method = method.for_images(
        k, batchnorm=keeps_statistics(classifier), unlabelled=split.unlabelled is not None
    )
    train = k + (len(split.retain) if split.retain is not None else 0)
    test = len(split.test) if split.test is not None else 0
    facts = Facts(
        train_images=train,
        test_images=test,
        classes=classifier.num_classes,
        image_size=classifier.input_size,
        unlabelled=_unlabelled(split, run),
    )
    cost = cell_cost(_Request(method, k, run), facts)
    evaluated = cost.evaluate if split.retain is not None else Passes(test + k)
    probes, missing = _probes(classifier, split, method, run, cache)
    pace = _pace(classifier, run, method, device)

    def phase(passes: Passes, kind: str) -> PhaseEstimate:
        only_forward = max(0, passes.forward - passes.backward)
        seconds = only_forward * pace["forward"] + passes.backward * pace[kind]
        return PhaseEstimate(passes.forward, passes.backward, seconds)

    phases = {"evaluate before": phase(evaluated, "step")}
    if facts.unlabelled:
        phases["unlabelled"] = phase(Passes(facts.unlabelled), "step")
    phases["probes"] = phase(probes, "probe")
    if trials:
        made, judged = judging(trials)
        tried = cost.unlearn * trials + Passes(k * (trials + 1) + judged)
        phases["trials"] = phase(Passes(made, made), "probe") + phase(tried, "step")
    phases |= {"unlearn": phase(cost.unlearn, "step"), "evaluate after": phase(evaluated, "step")}
    return Estimate(
        phases=phases,
        steps=cost.steps,
        schedule=cost.schedule,
        scheduled=phase(cost.scheduled, "step"),
        pace=pace,
        disk=_disk(classifier, split, method, missing, run),
        free={"cache": _free(cache), "out": _free(out)},
        memory=_memory(classifier, split, method, run),
        device=str(device),
    )


def _unlabelled(split: ForgetSplit, run: RunSettings) -> int:
    """Unlabelled images that are taken."""
    return min(len(split.unlabelled), run.unlabelled_most) if split.unlabelled is not None else 0


def _probes(
    classifier: Classifier, split: ForgetSplit, method: Method[Any], run: RunSettings, cache: Path
) -> tuple[Passes, int]:
    """Passes to make the probes, and how many are still missing."""
    if "probes" not in method.needs:
        return Passes(), 0
    settings = method.settings.probes
    common: dict[str, Any] = {"seed": run.seed, "precision": run.precision}
    whole = settings.number(len(split.forget))
    if settings.kind == "inverted":
        there = inverted_present(cache, classifier, split.forget, settings, **common)
    else:
        images = ProbeStore(cache).present(classifier, split.forget, settings, **common)
        there = images * settings.per_image
    missing = whole - there
    passes = settings.passes(len(split.forget)) * missing // whole
    return Passes(passes, passes), missing


def _pace(
    classifier: Classifier, run: RunSettings, method: Method[Any], device: torch.device
) -> dict[str, float]:
    """Seconds an image of each kind of pass, on copies."""
    model = classifier.clone().to(device).eval().requires_grad_(False)
    folded = fold_batchnorm(model)
    learning = model.clone().requires_grad_(True)
    draws = torch.Generator().manual_seed(0)
    source = torch.rand((2, *classifier.input_size), generator=draws).to(device)

    def images(count: int) -> Tensor:
        return source[torch.arange(count) % 2]

    def forward(count: int) -> None:
        with torch.no_grad():
            model(images(count))

    def probe(count: int) -> None:
        pixels = images(count).requires_grad_(True)
        with autocast(device, run.precision):
            logits = folded(pixels)
        torch.autograd.grad(logits.float().sum(), pixels)

    def step(count: int) -> None:
        with autocast(device, run.precision):
            logits = learning(images(count))
        torch.autograd.grad(logits.float().sum(), list(learning.parameters()), allow_unused=True)

    settings = method.settings
    pace = {"forward": _seconds_per_image(forward, run.eval_batch, device)}
    pace["probe"] = _seconds_per_image(probe, run.probe_chunk, device) if "probes" in method.needs else 0.0
    pace["step"] = _seconds_per_image(step, max(settings.probe_batch, settings.forget_batch), device)
    return pace


def _seconds_per_image(work: Callable[[int], None], most: int, device: torch.device) -> float:
    """The time of a batch over its images, of batches that double until one takes long enough or is full."""
    count = 1
    work(count)  # the first pass of a kind sets things up

    def seconds() -> float:
        started = time.perf_counter()
        work(count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    while True:
        taken = seconds()
        if taken >= _ENOUGH_SECONDS:  # a machine that is busy can stall one pass for many times what it takes
            taken = min(taken, seconds())
        if taken >= _ENOUGH_SECONDS or count >= most:
            return taken / count
        count = min(most, 2 * count)


def _disk(
    classifier: Classifier, split: ForgetSplit, method: Method[Any], missing: int, run: RunSettings
) -> dict[str, int]:
    weights = _weights(classifier)
    kept = 2 if "anchors" in method.needs else 1  # importance, as large as the weights
    found = {
        "model": weights,
        "state while it runs": (1 + kept) * weights + _structure(classifier, split, method, run),
    }
    if missing:
        found["probes (cache)"] = missing * _pixels(classifier) * 4
    return found


def _memory(
    classifier: Classifier, split: ForgetSplit, method: Method[Any], run: RunSettings
) -> dict[str, int]:
    settings = method.settings
    images = min(settings.forget_batch, len(split.forget))
    images += settings.copies(images, settings.batches(len(split.forget)))
    count = 0
    if "probes" in method.needs:
        count = settings.probes.number(len(split.forget))
        images += min(settings.probe_batch, count + _unlabelled(split, run))
    if "retain" in method.needs:
        images += getattr(settings, "retain_batch", settings.forget_batch)
    pixels = 4 * _pixels(classifier)
    probes = count * pixels if count * pixels <= IN_MEMORY_BYTES else 0
    sets = [len(one) for one in (split.test, split.retain, split.forget, split.unlabelled) if one is not None]
    return {
        # The original, the model, its gradients, the optimiser's momentum, the importance.
        "weights": 5 * _weights(classifier),
        "activations of a step": images * saved_bytes(classifier),
        "images of a pass": max(images, run.probe_chunk, run.eval_batch) * pixels,
        "probes": probes,
        "structure of the probes": _structure(classifier, split, method, run),
        "decoded images": min(2 * CACHE_BYTES, sum(sets) * math.prod(classifier.input_size)),
        "program": _resident(),
    }


def saved_bytes(classifier: Classifier) -> int:
    """Bytes that one image leaves in memory for the backward pass of a training step, weights left out."""
    model = classifier.clone().train().requires_grad_(True)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # one image has no statistics
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return value

    pixels = torch.zeros((1, *classifier.input_size), device=classifier.mean.device)
    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value),
    ):
        loss = F.cross_entropy(model(pixels), torch.zeros(1, dtype=torch.int64, device=pixels.device))
    del loss
    return sum(seen.values())


def _weights(classifier: Classifier) -> int:
    return sum(value.numel() * value.element_size() for value in classifier.exported_state().values())


def _pixels(classifier: Classifier) -> int:
    return math.prod(classifier.input_size)


def _structure(classifier: Classifier, split: ForgetSplit, method: Method[Any], run: RunSettings) -> int:
    """Affinities and logits of all probes, float32."""
    if "anchors" not in method.needs:
        return 0
    probes: int = method.settings.probes.number(len(split.forget))
    return (probes + _unlabelled(split, run)) * 2 * classifier.num_classes * 4


def _free(path: Path) -> int:
    import shutil

    there = path.absolute()
    while not there.exists():
        there = there.parent
    return int(shutil.disk_usage(there).free)


def _resident() -> int:
    import psutil  # comes with accelerate

    return int(psutil.Process().memory_info().rss)
