"""How much of forgetting reaches other images of a class, by what is held in place meanwhile: a linear forecast.

    python experiments/held_gradients.py --model CKPT --data SRC --out JSON [--forget random:256] [--seed 100] \\
        [--classes cat dog] [--layers layer1]

For each class, the smallest step (in the metric of `default`'s preconditioner) that lowers the class's logit, less the
mean of the logits, by 1 on the images to forget and one everyday copy of each, while it stays on what is held: with
the kernel k(x, x') = g(x) P g(x')ᵀ, ridge regression. Told is by how much the step lowers it on fresh copies and on
retained images that nothing was told of. Held are, each time, as many images of the class and of the others together:
inverted probes as `default` makes them; *moved* ones, images to forget of other classes, mirrored and moved to the
class by small steps; retained images, which no method has. Retained images serve the diagnosis alone.

With ``--layers``, as if no other layers were trained. A forecast at the model before: it leaves out that gradients
change on the way. Inner products are estimated from a fixed sample of the weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from margin_gradients import Spared, inverted, opened
from torch import Tensor

import stakes
from stakes.data.images import ImageSet
from stakes.files import write_json
from stakes.inversion import invert
from stakes.methods import StructGuard
from stakes.methods.curvature import InputCurvature, takes_part
from stakes.methods.variants import everyday
from stakes.runtime import generator

WEIGHTS = 600_000  # of the network, drawn once, that inner products are estimated from
RETAINED = 8  # images of the class to look at, none of them held
OWN, OTHERS = 24, 48  # held images of the class and of the other classes
SMALL = {"lr": 0.01, "statistics_weight": 0.0}  # of the inversion that moves images
HOLD = 30.0  # weight of what is held
NOISE = 0.02  # ridge on what is to be lowered; both in units of the mean k(x, x)

Pulls = tuple[Tensor, Tensor]  # g and P g of each image at the sampled weights, (n, sampled) each


class Kernel:
    """k(x, x') = g(x) P g(x')ᵀ, g the gradient of a class's logit, less the mean of the logits.

    Over the weights of the layers whose names contain one of ``layers``, of all where left out.
    """

    def __init__(
        self,
        classifier: stakes.Classifier,
        curvature: InputCurvature,
        weights: int = WEIGHTS,
        layers: list[str] | None = None,
    ) -> None:
        self.spared = Spared(
            classifier, curvature, number=lambda logits, label: logits[label] - logits.mean()
        )
        taken = zip(self.spared.weights, trained(classifier, self.spared.weights, layers), strict=True)
        chosen = torch.cat([torch.full((weight.numel(),), part) for weight, part in taken]).nonzero()
        drawn = torch.randperm(len(chosen), generator=generator("sampled weights"))[:weights]
        self.sampled, self.share = chosen.flatten()[drawn.sort().values], len(drawn) / len(chosen)

    def pulls(self, pixels: Tensor, label: int) -> Pulls:
        """Of each image (n, C, H, W)."""
        found = [(g[self.sampled], pg[self.sampled]) for g, pg in self.spared.of(pixels, label)]
        plain, spared = zip(*found, strict=True)
        return torch.stack(plain), torch.stack(spared)

    def between(self, *kinds: Pulls) -> Tensor:
        """All pairs of all images, (n, n), float64."""
        plain, spared = (torch.cat([kind[part] for kind in kinds]) for part in (0, 1))
        found = (plain @ spared.T).double() / self.share
        return (found + found.T) / 2


def trained(classifier: stakes.Classifier, weights: Iterable[Any], layers: list[str] | None) -> list[bool]:
    """Of these weights, which have one of these parts in their names."""
    named = {id(weight): name for name, weight in classifier.named_parameters()}
    names = [named[id(weight)] for weight in weights]
    found = [layers is None or any(part in name for part in layers) for name in names]
    if not any(found):
        raise SystemExit(f"no layers that are trained have {layers} in their names: {names}")
    return found


def lowered(kernel: Tensor, forget: int, held: int) -> Tensor:
    """By how much each image is lowered where the first ones are by 1 and the last ones, ``held`` of them, stay.

    Args:
        kernel: (n, n).
    """
    each = float(kernel.diagonal().mean())
    if held:
        last = slice(len(kernel) - held, None)
        inner = kernel[last, last] + torch.eye(held).to(kernel) * each / HOLD
        kernel = kernel - kernel[:, last] @ torch.linalg.solve(inner, kernel[last, :])
    first = kernel[:forget, :forget] + NOISE * each * torch.eye(forget).to(kernel)
    by: Tensor = kernel[:, :forget] @ torch.linalg.solve(first, torch.ones(forget).to(kernel))
    return by


def moved(
    classifier: stakes.Classifier, forget: Tensor, labels: Tensor, targets: Tensor, draws: torch.Generator
) -> Tensor:
    """Images to forget of other classes than their targets, mirrored and moved there by small steps."""
    rows = []
    for target in targets.tolist():
        other = (labels != target).nonzero().flatten()
        rows.append(int(other[torch.randint(len(other), (1,), generator=draws)]))
    settings = StructGuard.configure("default").settings.probes.inversion.with_overrides(SMALL)
    return invert(classifier, forget[rows].flip(-1), targets, settings, draws)


def measured(
    model: str,
    data: str,
    request: str,
    seed: int,
    chosen: list[str] | None,
    layers: list[str] | None = None,
    weights: int = WEIGHTS,
) -> dict[str, Any]:
    """What is lowered with each kind held, for each class and on average."""
    classifier, to_forget, retain = opened(model, data, request, seed)
    names = classifier.class_names
    covered = (module.weight for module in classifier.modules() if takes_part(module))
    trained(classifier, covered, layers)  # refused before work
    looked_at = _looked_at(names, to_forget.labels, chosen)
    draws = generator("held gradients", seed)
    forget = to_forget.batch(torch.arange(len(to_forget)))
    batches = StructGuard.configure("default").settings.probes.inversion.batches
    probes, targets, curvature = inverted(classifier, forget, batches, draws)
    kernel = Kernel(classifier, curvature, weights, layers)
    made = torch.cat(probes), targets.repeat(len(probes))
    rows = {}
    for label, name in looked_at.items():
        held = dict(_held(classifier, forget, to_forget.labels, retain, made, label, draws))
        rows[name] = _of_class(kernel, forget[to_forget.labels == label], retain, held, label, draws)
        print(name, rows[name], flush=True)
    kinds = next(iter(rows.values()))
    mean = {
        kind: {seen: sum(row[kind][seen] for row in rows.values()) / len(rows) for seen in kinds[kind]}
        for kind in kinds
    }
    found = rows | {"mean": mean}
    asked = {"request": request, "seed": seed, "held_of_the_class": OWN, "held_of_others": OTHERS}
    told = {} if layers is None else {"layers": layers}
    return asked | told | {"lowered": {name: _rounded(row) for name, row in found.items()}}


def _looked_at(names: Sequence[str], labels: Tensor, chosen: list[str] | None) -> dict[int, str]:
    """The classes to look at: of those chosen, the ones with two images to forget or more."""
    if unknown := sorted(set(chosen or ()) - set(names)):
        raise SystemExit(f"no classes of this model: {unknown}. It has {list(names)}")
    wanted = {label: name for label, name in enumerate(names) if chosen is None or name in chosen}
    found = {label: name for label, name in wanted.items() if int((labels == label).sum()) > 1}
    if not found:
        raise SystemExit(f"of {list(wanted.values())}, no class has two images to forget. Forget more images")
    if len(labels.unique()) < 2:
        raise SystemExit(
            f"all images to forget are of class {names[int(labels[0])]!r}, so none of another class could "
            "be moved there. Forget images of two classes or more"
        )
    return found


def _held(
    classifier: stakes.Classifier,
    forget: Tensor,
    labels: Tensor,
    retain: ImageSet,
    made: tuple[Tensor, Tensor],
    label: int,
    draws: torch.Generator,
) -> Iterator[tuple[str, Tensor]]:
    """Each kind of images to hold: of the class, then of the others."""

    def of(labels: Tensor, skip: int = 0) -> Tensor:
        own, others = (labels == label).nonzero().flatten(), (labels != label).nonzero().flatten()
        return torch.cat([own[skip : skip + OWN], others[:OTHERS]])

    pixels, targets = made
    rows = of(targets)
    yield "inverted", pixels[rows]
    yield "moved", moved(classifier, forget, labels, targets[rows], draws)
    yield "retained", retain.batch(of(retain.labels, skip=RETAINED))


def _of_class(
    kernel: Kernel,
    own: Tensor,
    retain: ImageSet,
    held: dict[str, Tensor],
    label: int,
    draws: torch.Generator,
) -> dict[str, dict[str, float]]:
    retained = (retain.labels == label).nonzero().flatten()[:RETAINED]
    asked = torch.cat([own, everyday(own, draws)])
    seen = [
        kernel.pulls(asked, label),
        kernel.pulls(everyday(own, draws), label),
        kernel.pulls(retain.batch(retained), label),
    ]
    copies = slice(len(asked), len(asked) + len(own))
    others = slice(copies.stop, copies.stop + len(retained))

    def told(by: Tensor) -> dict[str, float]:
        return {"copies": float(by[copies].mean()), "retained": float(by[others].mean())}

    rows = {"nothing": told(lowered(kernel.between(*seen), len(asked), 0))}
    for kind, pixels in held.items():
        pairs = kernel.between(*seen, kernel.pulls(pixels, label))
        rows[kind] = told(lowered(pairs, len(asked), len(pixels)))
    return rows


def _rounded(row: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {kind: {seen: round(value, 3) for seen, value in found.items()} for kind, found in row.items()}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--data", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--forget", default="random:256")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--classes", nargs="+", help="names of classes to look at; left out, all")
    parser.add_argument("--layers", nargs="+", help="parts of names of layers to train; left out, all")
    parser.add_argument("--weights", type=int, default=WEIGHTS, help="of the network, for inner products")
    given = parser.parse_args(words)
    found = measured(
        given.model, given.data, given.forget, given.seed, given.classes, given.layers, given.weights
    )
    write_json(Path(given.out), found)


if __name__ == "__main__":
    main()
