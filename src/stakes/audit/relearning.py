"""How fast forgotten images are learned again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from stakes.data.images import ImageSet
from stakes.errors import NumericalError
from stakes.metrics.accuracy import accuracy, predict
from stakes.models.classifier import Classifier

EARLY = 20  # every step up to here is measured: that is where it matters most


@dataclass(frozen=True)
class Relearned:
    """Accuracy while a model is fine-tuned.

    Attributes:
        steps: where it was measured; the first is 0.
        accuracy: percent at those steps, for each set that was watched.
        batch: images a step.
    """

    steps: tuple[int, ...]
    accuracy: dict[str, tuple[float, ...]]
    batch: int
    forward: int
    backward: int

    def steps_to(self, percent: float, watched: str) -> int | None:
        """First measured step with at least that accuracy; None where it was not reached."""
        found = zip(self.steps, self.accuracy[watched], strict=True)
        return next((step for step, value in found if value >= percent), None)


def relearn(
    classifier: Classifier,
    train: ImageSet,
    watch: Mapping[str, ImageSet],
    *,
    lr: float,
    batch: int,
    max_steps: int,
    generator: torch.Generator,
    device: torch.device,
    until: str | None = None,
    measure_every: int = 5,
    on_step: Callable[[int], None] = lambda step: None,
) -> Relearned:
    """Fine-tune a copy on ``train`` by Adam on the cross-entropy, and watch accuracies.

    BatchNorm statistics and dropout stay as in evaluation, so that what is measured comes from the weights alone; all
    parameters move. Adam, since its steps do not grow with the loss: unlearning may leave losses of 20 and more, at
    which SGD with a usual rate diverges. Batches are drawn without replacement, epoch after epoch.

    Args:
        classifier: never changed.
        watch: sets to measure on, in evaluation mode.
        until: stop once this watched set is fully recognised; None takes all steps.
        measure_every: steps between measurements once the first 20 steps are done.

    Raises:
        NumericalError: the loss is not finite.

    Example:
        >>> relearn(classifier, forget, {"forget": forget}, lr=3e-4, batch=32, max_steps=100,
        ...     generator=torch.Generator(), device=torch.device("cpu"), until="forget").steps_to(50, "forget")
        ... # doctest: +SKIP
        3
    """
    model = classifier.clone().to(device).eval().requires_grad_(True)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    batch = min(batch, len(train))
    steps: list[int] = []
    found: dict[str, list[float]] = {name: [] for name in watch}
    order = torch.empty(0, dtype=torch.int64)
    seen = 0
    for step in range(max_steps + 1):
        if step > 0:
            if len(order) < batch:
                order = torch.cat([order, torch.randperm(len(train), generator=generator)])
            rows, order = order[:batch], order[batch:]
            loss = functional.cross_entropy(
                model(train.batch(rows).to(device)), train.labels[rows].to(device)
            )
            if not bool(loss.isfinite()):
                raise NumericalError(
                    f"the loss of relearning step {step}",
                    expected="a finite number",
                    got=str(float(loss)),
                    fix="Lower relearning.lr.",
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            seen += len(rows)
        if step > EARLY and step % measure_every and step < max_steps:
            continue
        steps.append(step)
        for name, images in watch.items():
            found[name].append(accuracy(predict(model, images, device=device), images.labels))
        on_step(step)
        if until is not None and found[until][-1] == 100.0:
            break
    measured = len(steps) * sum(len(images) for images in watch.values())
    return Relearned(
        tuple(steps), {name: tuple(v) for name, v in found.items()}, batch, seen + measured, seen
    )
