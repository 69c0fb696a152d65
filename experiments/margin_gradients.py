"""How far what a step does to one image it does to others: cosines of the gradients of their margins.

    python experiments/margin_gradients.py --model CKPT --data SRC --out JSON [--forget random:64] [--seed 100]

The margin of an image is the logit of its label less the largest of the others, its gradient that in the weights which
`default` trains, at the model before. A step along the gradients of some images moves the margin of another by their
inner product with its own; with the preconditioner of `default`, by g P g'. Of each class, six images of a kind: the
images to forget, everyday copies of them, retained images, inverted probes. Retained images serve the diagnosis alone.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import stakes
from stakes.data.forget import split_forget
from stakes.files import write_json
from stakes.inversion import invert, mixed_starts
from stakes.methods import StructGuard
from stakes.methods.curvature import InputCurvature, preconditioned
from stakes.methods.variants import cut_and_mix, everyday
from stakes.runtime import generator

EACH = 6  # images of a kind and class

Gradients = list[tuple[Tensor, Tensor]]  # g and P g of each image


class Margins:
    """Gradients of margins at a model, as they are and preconditioned."""

    def __init__(self, classifier: stakes.Classifier, curvature: InputCurvature) -> None:
        self.classifier, self.curvature = classifier.requires_grad_(False), curvature
        self.weights = preconditioned(classifier)
        for weight in self.weights:
            weight.requires_grad_(True)

    def of(self, pixels: Tensor, label: int) -> Gradients:
        """g and P g of each image (n, C, H, W) that is to have this label."""
        return [self._one(image, label) for image in pixels]

    def _one(self, image: Tensor, label: int) -> tuple[Tensor, Tensor]:
        logits = self.classifier(image[None])[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        gradients = torch.autograd.grad(logits[label] - others.max(), self.weights)
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient.clone()
        plain = self._flat()
        self.curvature.apply(self.classifier)
        return plain, self._flat()

    def _flat(self) -> Tensor:
        return torch.cat([weight.grad.flatten() for weight in self.weights if weight.grad is not None])


def cosine(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """g P g' / √(g P g · g' P g')."""
    (g, pg), (h, ph) = one, other
    return float(g @ ph / ((g @ pg) * (h @ ph)).sqrt())


def mean_cosine(these: Gradients, those: Gradients) -> float:
    """Over all pairs of two different images."""
    pairs = [cosine(a, b) for a, b in product(these, those) if a is not b]
    return sum(pairs) / len(pairs)


def cosines(found: dict[str, Gradients]) -> dict[str, float]:
    """Those of the images to forget with each kind, of one class."""
    forget = found["forget"]
    own = [cosine(a, b) for a, b in zip(forget, found["copy"], strict=True)]
    others = [kind for kind in found if kind != "copy"]
    rows = {f"forget, {kind}": mean_cosine(forget, found[kind]) for kind in others}
    return {"forget, its own copy": sum(own) / len(own)} | rows


def unconditioned(found: dict[str, Gradients]) -> dict[str, Gradients]:
    """The same with g in the place of P g."""
    return {kind: [(g, g) for g, _ in gradients] for kind, gradients in found.items()}


def measured(model: str, data: str, request: str, seed: int) -> dict[str, Any]:
    """The mean over classes, plain and preconditioned."""
    classifier = stakes.load_checkpoint(model).eval()
    size, names = classifier.input_size, classifier.class_names
    source = stakes.open_source(data, size=size, class_names=names)
    split = split_forget(request, source, class_names=names, size=size, seed=seed)
    if split.retain is None:
        raise SystemExit(f"{data}: nothing is retained, so there is nothing to compare with")
    draws = generator("margin gradients", seed)
    forget = split.forget.batch(torch.arange(len(split.forget)))
    settings = StructGuard.configure("default").settings
    wanted = settings.probes.inversion
    targets = torch.arange(wanted.batch) % len(names)
    probes = invert(classifier, mixed_starts(forget, wanted.batch, draws), targets, wanted, draws)
    curvature = InputCurvature(
        classifier,
        [cut_and_mix(probes, draws)],
        damping=settings.damping,
        draws=draws,
        extent=settings.precondition,
    )
    margins = Margins(classifier, curvature)

    def of_class(labels: Tensor, label: int) -> Tensor:
        return (labels == label).nonzero().flatten()[:EACH]

    rows: dict[str, list[dict[str, float]]] = {"plain": [], "preconditioned": []}
    for label in range(len(names)):
        chosen = of_class(split.forget.labels, label)
        if len(chosen) < 2:
            continue
        kinds = {
            "forget": forget[chosen],
            "copy": everyday(forget[chosen], generator("copies", seed, label)),
            "retained": split.retain.batch(of_class(split.retain.labels, label)),
            "inverted": probes[of_class(targets, label)],
        }
        found = {kind: margins.of(pixels, label) for kind, pixels in kinds.items()}
        rows["plain"].append(cosines(unconditioned(found)))
        rows["preconditioned"].append(cosines(found))
    asked = {"request": request, "seed": seed, "images_of_a_kind_and_class": EACH}
    return asked | {"classes": len(rows["plain"])} | {name: mean_row(of) for name, of in rows.items()}


def mean_row(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean over classes."""
    return {kind: round(sum(row[kind] for row in rows) / len(rows), 4) for kind in rows[0]}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--data", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--forget", default="random:64")
    parser.add_argument("--seed", type=int, default=100)
    given = parser.parse_args(words)
    found = measured(given.model, given.data, given.forget, given.seed)
    write_json(Path(given.out), found)
    print(found)


if __name__ == "__main__":
    main()
