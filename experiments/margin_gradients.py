"""How far what a step does to one image it does to others: cosines of the gradients of their margins.

    python experiments/margin_gradients.py --model CKPT --data SRC --out JSON [--forget random:64] [--seed 100]

The margin of an image is the logit of its label less the largest of the others, its gradient that in the weights which
`default` trains, at the model before. A step along the gradients of some images moves the margin of another by their
inner product with its own; with the preconditioner of `default`, by g P g'. Of each class, six images of a kind: the
images to forget, everyday copies of them, retained images, inverted probes. Retained images serve the diagnosis alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import stakes
from stakes.data.forget import split_forget
from stakes.data.images import ImageSet
from stakes.files import write_json
from stakes.inversion import invert, mixed_starts
from stakes.methods import StructGuard
from stakes.methods.curvature import InputCurvature
from stakes.methods.variants import cut_and_mix, everyday
from stakes.runtime import generator

EACH = 6  # images of a kind and class

Gradients = list[tuple[Tensor, Tensor]]  # g and P g of each image


class Spared:
    """Gradients of a number of each image at a model, as they are and preconditioned."""

    def __init__(
        self,
        classifier: stakes.Classifier,
        curvature: InputCurvature,
        number: Callable[[Tensor, int], Tensor],
    ) -> None:
        """``number`` is made of an image's logits (classes,) and a label."""
        self.classifier, self.curvature = classifier.requires_grad_(False), curvature
        self.number, self.weights = number, curvature.weights(classifier)
        for weight in self.weights:
            weight.requires_grad_(True)

    def of(self, pixels: Tensor, label: int) -> Iterator[tuple[Tensor, Tensor]]:
        """g and P g of each image (n, C, H, W) that is to have this label."""
        for image in pixels:
            number = self.number(self.classifier(image[None])[0], label)
            gradients = torch.autograd.grad(number, self.weights)
            for weight, gradient in zip(self.weights, gradients, strict=True):
                weight.grad = gradient.clone()
            plain = self._flat()
            self.curvature.apply(self.classifier)
            yield plain, self._flat()

    def _flat(self) -> Tensor:
        return torch.cat([weight.grad.flatten() for weight in self.weights if weight.grad is not None])


def margin(logits: Tensor, label: int) -> Tensor:
    """The logit of the label less the largest of the others."""
    others = torch.cat([logits[:label], logits[label + 1 :]])
    return logits[label] - others.max()


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


def opened(model: str, data: str, request: str, seed: int) -> tuple[stakes.Classifier, ImageSet, ImageSet]:
    """The model, the images to forget and the retained ones."""
    classifier = stakes.load_checkpoint(model).eval()
    size, names = classifier.input_size, classifier.class_names
    source = stakes.open_source(data, size=size, class_names=names)
    split = split_forget(request, source, class_names=names, size=size, seed=seed)
    if split.retain is None:
        raise SystemExit(f"{data}: nothing is retained, so there is nothing to compare with")
    return classifier, split.forget, split.retain


def inverted(
    classifier: stakes.Classifier, forget: Tensor, batches: int, draws: torch.Generator
) -> tuple[list[Tensor], Tensor, InputCurvature]:
    """Batches of probes as ``default`` makes them, the classes of each, and the preconditioner that they give."""
    settings = StructGuard.configure("default").settings
    wanted = settings.probes.inversion
    targets = torch.arange(wanted.batch) % classifier.num_classes
    probes = [
        invert(classifier, mixed_starts(forget, wanted.batch, draws), targets, wanted, draws)
        for _ in range(batches)
    ]
    curvature = InputCurvature(
        classifier,
        [cut_and_mix(batch, draws) for batch in probes],
        damping=settings.damping,
        draws=draws,
        extent=settings.precondition,
    )
    return probes, targets, curvature


def measured(model: str, data: str, request: str, seed: int) -> dict[str, Any]:
    """The mean over classes, plain and preconditioned."""
    classifier, to_forget, retain = opened(model, data, request, seed)
    draws = generator("margin gradients", seed)
    forget = to_forget.batch(torch.arange(len(to_forget)))
    (probes,), targets, curvature = inverted(classifier, forget, 1, draws)
    margins = Spared(classifier, curvature, margin)

    def of_class(labels: Tensor, label: int) -> Tensor:
        return (labels == label).nonzero().flatten()[:EACH]

    rows: dict[str, list[dict[str, float]]] = {"plain": [], "preconditioned": []}
    for label in range(classifier.num_classes):
        chosen = of_class(to_forget.labels, label)
        if len(chosen) < 2:
            continue
        kinds = {
            "forget": forget[chosen],
            "copy": everyday(forget[chosen], generator("copies", seed, label)),
            "retained": retain.batch(of_class(retain.labels, label)),
            "inverted": probes[of_class(targets, label)],
        }
        found = {kind: list(margins.of(pixels, label)) for kind, pixels in kinds.items()}
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
