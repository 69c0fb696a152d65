"""Training a classifier from nothing, resumable after every epoch."""

from __future__ import annotations

import dataclasses
import io
import math
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from stakes.data.images import ImageSet
from stakes.errors import DataError, NumericalError, RunFolderError
from stakes.files import digest_json, read_sealed, write_sealed
from stakes.metrics.accuracy import accuracy, predict
from stakes.models.augment import crop_and_flip
from stakes.models.classifier import Classifier
from stakes.models.recipe import PretrainSettings, learning_rate
from stakes.models.registry import build_network
from stakes.progress import Progress, silent
from stakes.runtime import autocast, derive_seed, generator, loss_scaler, repeatable

_KEEP_ON_DEVICE = 2**30  # bytes of float32 pixels; larger sets are read batch by batch
_TEST_BATCH = 500


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training gave.

    Attributes:
        epoch: 1 for the first.
        loss: mean cross-entropy over the epoch's batches, in nats, on augmented images while they train.
        learning_rate: at the last step.
        train_accuracy: percent, on the same passes as the loss (so it lags behind the finished epoch).
        test_accuracy: percent, in eval mode after the epoch; None without a test set.
    """

    epoch: int
    loss: float
    learning_rate: float
    train_accuracy: float
    test_accuracy: float | None


def pretrain(
    train: ImageSet,
    test: ImageSet | None = None,
    *,
    architecture: str,
    settings: PretrainSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
    options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    state_path: Path | None = None,
) -> tuple[Classifier, tuple[Epoch, ...]]:
    """Train a network on ``train`` by SGD; ``test`` is only measured, never learned from or chosen by.

    Data order and augmentation of an epoch depend on (seed, epoch) alone, so a run that was interrupted and
    resumed gives the same bytes as one that was not (on the CPU; on a GPU up to its kernels).

    Args:
        train: the images to learn; their mean and deviation per channel become the normalisation.
        test: measured after every epoch.
        architecture: a name that ``build_network`` knows.
        settings: see ``recipe``.
        seed: of initial weights, order, augmentation and dropout.
        device: where to train.
        options: of the architecture, such as ``stem`` and ``width``.
        progress: told after each epoch.
        state_path: a file that holds the state after the last finished epoch. Where it exists, training goes
            on from it; a finished one returns at once.

    Returns:
        The classifier in eval mode on the CPU, and one row per epoch.

    Raises:
        DataError: fewer than two images.
        NumericalError: the loss is not finite; the state of the epoch before is kept.
        RunFolderError: ``state_path`` belongs to another request, or is not a state.

    Example:
        >>> images = ImageSet.from_tensors(torch.rand(8, 1, 8, 8), [0, 1] * 4, ["a", "b"])
        >>> quick = PretrainSettings(epochs=1, batch_size=4, crop_padding=0)
        >>> model, rows = pretrain(images, architecture="resnet10", options={"width": 4}, settings=quick)
        >>> rows[0].epoch
        1

    Source:
        The paper's baselines (recipe ``published``) and our own (``own``). Train accuracy is the running one;
        measure the returned classifier for a figure to publish.
    """
    if len(train) < 2:
        raise DataError("training images", expected="at least 2", got=str(len(train)))
    device = torch.device(device)
    session = _Session(train, architecture, dict(options or {}), settings, seed, device)
    rows: list[Epoch] = []
    request = ""
    if state_path is not None:
        request = _request(train, test, architecture, dict(options or {}), settings, seed)
        rows = _resume(state_path, request, session)
    while len(rows) < settings.epochs:
        row = session.run_epoch(len(rows), test)
        rows.append(row)
        if state_path is not None:
            _keep(state_path, request, session, rows)
        figures = {k: v for k, v in dataclasses.asdict(row).items() if k != "epoch" and v is not None}
        progress("pretrain", len(rows), settings.epochs, **figures)
    return session.model.to("cpu").eval(), tuple(rows)


class _Session:
    """The moving parts of one training: model, optimiser, images."""

    def __init__(
        self,
        train: ImageSet,
        architecture: str,
        options: dict[str, Any],
        settings: PretrainSettings,
        seed: int,
        device: torch.device,
    ) -> None:
        self.images, self.settings, self.seed, self.device = train, settings, seed, device
        mean, std = channel_statistics(train)
        network = build_network(
            architecture,
            num_classes=len(train.class_names),
            in_channels=train.size[0],
            seed=derive_seed("pretrain", seed),
            **options,
        )
        self.model = Classifier.from_network(
            network, class_names=train.class_names, input_size=train.size, mean=mean, std=std
        ).to(device)
        self.optimiser = torch.optim.SGD(
            _groups(self.model, settings),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
        )
        self.scaler = loss_scaler(device, settings.precision)
        size = 4 * len(train) * train.size[0] * train.size[1] * train.size[2]
        self.kept = train.batch(slice(None)).to(device) if size <= _KEEP_ON_DEVICE else None
        self.labels = train.labels.to(device)

    def _batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        draws = generator("pretrain", self.seed, epoch)
        augmented = epoch < self.settings.epochs - self.settings.plain_epochs
        order = torch.randperm(len(self.images), generator=draws)
        for chosen in torch.split(order, self.settings.batch_size):
            if len(chosen) < 2:  # BatchNorm has no variance of one
                continue
            there = chosen.to(self.device)
            pixels = self.kept[there] if self.kept is not None else self.images.batch(chosen).to(self.device)
            if augmented:
                pixels = crop_and_flip(
                    pixels,
                    crop_padding=self.settings.crop_padding,
                    padding=self.settings.padding,
                    flip=self.settings.flip,
                    generator=draws,
                )
            yield pixels, self.labels[there]

    def run_epoch(self, epoch: int, test: ImageSet | None) -> Epoch:
        """Train for one epoch and measure."""
        devices = [self.device] if self.device.type == "cuda" else []
        # Dropout draws from the global generators: seed them for the epoch, and put them back.
        with torch.random.fork_rng(devices=devices), repeatable(self.device):
            torch.manual_seed(derive_seed("dropout", self.seed, epoch))
            loss, train_accuracy, rate = self._train(epoch)
        return Epoch(epoch + 1, loss, rate, train_accuracy, self._measured(test))

    def _measured(self, test: ImageSet | None) -> float | None:
        """Test accuracy in percent."""
        if test is None:
            return None
        return accuracy(predict(self.model, test, batch=_TEST_BATCH, device=self.device), test.labels)

    def _train(self, epoch: int) -> tuple[float, float, float]:
        self.model.train()
        steps = math.ceil(len(self.images) / self.settings.batch_size)
        loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        hits = torch.zeros((), device=self.device, dtype=torch.int64)
        seen, rate = 0, 0.0
        for step, (pixels, labels) in enumerate(self._batches(epoch)):
            rate = learning_rate(self.settings, (epoch + step / steps) / self.settings.epochs)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            with autocast(self.device, self.settings.precision):
                logits = self.model(pixels)
            loss = functional.cross_entropy(logits.float(), labels)
            self.optimiser.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimiser)
            self.scaler.update()
            loss_sum += loss.detach() * len(labels)
            hits += (logits.detach().argmax(1) == labels).sum()
            seen += len(labels)
        mean_loss = float(loss_sum) / seen
        if not math.isfinite(mean_loss):
            raise NumericalError(
                f"the loss of epoch {epoch + 1} is {mean_loss}",
                expected="a finite number",
                fix="Lower learning_rate; the state after the epoch before is kept.",
            )
        return mean_loss, 100 * int(hits) / seen, rate


def _groups(model: Classifier, settings: PretrainSettings) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if settings.decay == "all" or p.dim() >= 2]
    free = [p for p in model.parameters() if settings.decay != "all" and p.dim() < 2]
    groups = [(decayed, settings.weight_decay), (free, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def channel_statistics(
    images: ImageSet, batch_size: int = 1000
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of a set, in float64, rounded to 6 digits.

    A constant channel gets 1/255, one step of a byte, so that it can be divided by.
    """
    total = torch.zeros(images.size[0], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, len(images), batch_size):
        pixels = images.batch(slice(start, min(start + batch_size, len(images)))).double()
        total += pixels.sum((0, 2, 3))
        squares += pixels.square().sum((0, 2, 3))
    count = len(images) * images.size[1] * images.size[2]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt().clamp_min(1 / 255)
    return tuple(round(m, 6) for m in mean.tolist()), tuple(round(d, 6) for d in deviation.tolist())


def _request(
    train: ImageSet,
    test: ImageSet | None,
    architecture: str,
    options: dict[str, Any],
    settings: PretrainSettings,
    seed: int,
) -> str:
    return digest_json(
        {
            "train": train.fingerprint(),
            "test": None if test is None else test.fingerprint(),
            "size": list(train.size),
            "architecture": architecture,
            "options": options,
            "settings": settings.model_dump(mode="json"),
            "seed": seed,
        }
    )


def _keep(path: Path, request: str, session: _Session, rows: list[Epoch]) -> None:
    buffer = io.BytesIO()
    state = {
        "request": request,
        "model": session.model.state_dict(),
        "optimiser": session.optimiser.state_dict(),
        "scaler": session.scaler.state_dict(),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    torch.save(state, buffer)
    write_sealed(path, buffer.getvalue())


def _resume(path: Path, request: str, session: _Session) -> list[Epoch]:
    if not path.exists():
        return []
    if (data := read_sealed(path)) is None:
        raise _not_a_state(path, "a damaged one: its SHA-256 is another")
    try:
        state = torch.load(io.BytesIO(data), map_location=session.device, weights_only=True)
        if state["request"] != request:
            raise RunFolderError(
                f"{path} holds the training of another request",
                expected="the same data, architecture, settings and seed",
                fix="Choose another output, or delete that file to start anew.",
            )
        session.model.load_state_dict(state["model"])
        session.optimiser.load_state_dict(state["optimiser"])
        session.scaler.load_state_dict(state.get("scaler", {}))
        return [Epoch(**row) for row in state["rows"]]
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError) as error:
        raise _not_a_state(path, str(error).partition("\n")[0] or type(error).__name__) from error


def _not_a_state(path: Path, got: str) -> RunFolderError:
    return RunFolderError(
        f"{path} is not a training state",
        expected="a file that an interrupted training left",
        got=got,
        fix="Delete it to start anew.",
    )
