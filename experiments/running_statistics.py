"""How much of a loss is in BatchNorm's running statistics, and not in the weights.

    python experiments/running_statistics.py --run RUN [RUN …] --out JSON [--data DIR] [--model CKPT]

Test and retain accuracy of each run's model on 2,000 seeded images each: as it was saved, with the running statistics
of the model before, and with statistics measured anew on those 2,000 retained images. No method may see these: a
diagnosis, not a remedy.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

import stakes
from stakes.files import write_json
from stakes.metrics.accuracy import accuracy, predict
from stakes.opened import OpenedRun, open_run
from stakes.runtime import positions

IMAGES, BATCH = 2000, 250


def some(images: stakes.ImageSet, name: str) -> stakes.ImageSet:
    """Seeded images of a split, the same for every run."""
    return images.subset(positions(len(images), IMAGES, "running statistics", name, 0))


def accuracies(classifier: stakes.Classifier, parts: dict[str, stakes.ImageSet]) -> dict[str, float]:
    """Percent of each part that is classified as labelled."""
    return {
        name: accuracy(predict(classifier, part, batch=BATCH), part.labels) for name, part in parts.items()
    }


def with_statistics_of(classifier: stakes.Classifier, other: stakes.Classifier) -> stakes.Classifier:
    """A copy with another model's running means and variances."""
    clone, theirs = classifier.clone(), dict(other.named_buffers())
    for name, value in clone.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(theirs[name])
    return clone


@torch.no_grad()
def measured_anew(classifier: stakes.Classifier, images: stakes.ImageSet) -> stakes.Classifier:
    """A copy with the running statistics of these images: the mean over batches of 250."""
    clone = classifier.clone().eval()
    for module in clone.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain mean
            module.train()
    for part in torch.arange(len(images)).split(BATCH):
        clone(images.batch(part))
    return clone.eval()


def row(run: OpenedRun, classifier: stakes.Classifier) -> dict[str, dict[str, float]]:
    """One model with each kind of statistics."""
    if run.split.test is None or run.split.retain is None:
        raise SystemExit(f"{run.path}: no test or no retain split to measure on")
    parts = {"test": some(run.split.test, "test"), "retain": some(run.split.retain, "retain")}
    return {
        "as_saved": accuracies(classifier, parts),
        "of_the_model_before": accuracies(with_statistics_of(classifier, run.before), parts),
        "of_retained_images": accuracies(measured_anew(classifier, parts["retain"]), parts),
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    for name in ("--data", "--model"):
        parser.add_argument(name, help="where they are now, if not where the records say")
    parser.add_argument("--out", required=True)
    parser.add_argument("--run", nargs="+", required=True)
    given = parser.parse_args(words)
    found: dict[str, Any] = {"images": IMAGES, "runs": []}
    for path in given.run:
        run = open_run(path, data=given.data, model=given.model)
        record = run.record
        if "before" not in found:
            found["before"] = row(run, run.before)
        asked = {"method": record.method, "preset": record.preset, "settings": record.settings}
        found["runs"].append(
            asked | {"forgotten": record.forgotten, "steps": record.steps} | row(run, run.after)
        )
        write_json(Path(given.out), found)
        print(path, {name: value for name, value in found["runs"][-1].items() if name not in asked})


if __name__ == "__main__":
    main()
