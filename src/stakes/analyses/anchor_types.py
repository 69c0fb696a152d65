"""Two kinds of anchors: semantic ones, and visual prototypes made of retained images (paper section 4.3, Table 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stakes.analyses.context import SIDES, TITLES, Context, Side, SkipAnalysis
from stakes.anchors import Anchors
from stakes.drawing import new_figure, save_figure, short
from stakes.errors import AnchorError
from stakes.report.section import Figure, Section, Table
from stakes.structure import structural_collapse

_NAMED = 20  # most classes whose names fit beside a map


@dataclass(frozen=True)
class View:
    """Affinities (n, b) of the same images to one kind of anchors, before and after, with the images' labels (n,)."""

    structure: dict[Side, Tensor]
    labels: Tensor

    def collapse(self) -> float:
        """Mean absolute change of affinities, a cosine."""
        return float(structural_collapse(self.structure["before"], self.structure["after"]))

    def own_anchor(self, side: Side) -> float:
        """Share of images that are nearest to the anchor of their own class, percent."""
        return 100 * float((self.structure[side].argmax(dim=1) == self.labels).double().mean())

    def pattern(self, side: Side) -> Tensor:
        """See `class_pattern`."""
        return class_pattern(self.structure[side], self.labels)

    def kept_pattern(self) -> float | None:
        """Correlation of the patterns before and after, in [−1, 1]; None where one of them is flat."""
        one, two = (self.pattern(side).flatten().double() for side in SIDES)
        scale = float(one.norm() * two.norm())
        return float(one @ two) / scale if scale > 0 else None


def class_pattern(structure: Tensor, labels: Tensor) -> Tensor:
    """Mean affinity of each class to each anchor less row and column means, (c, b): classes that have images.

    What is left says which anchors a class is nearer to than other classes are.

    Example:
        >>> class_pattern(torch.eye(2), torch.tensor([0, 1])).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
    """
    means = torch.stack([structure[labels == c].mean(dim=0) for c in labels.unique(sorted=True).tolist()])
    return means - means.mean(dim=0, keepdim=True) - means.mean(dim=1, keepdim=True) + means.mean()


def analysis(context: Context) -> Section:
    """Affinities, collapse and nearest anchors under semantic anchors and under visual prototypes."""
    semantic = context.anchors()
    prototypes, made_of, views = _views(context, semantic)
    numbers: dict[str, float | int | None] = {"prototype_images": made_of}
    rows = []
    for kind, view in views.items():
        own = {side: view.own_anchor(side) for side in SIDES}
        numbers |= {
            f"{kind}_collapse_cosine": view.collapse(),
            f"{kind}_pattern_correlation": view.kept_pattern(),
            **{f"{kind}_own_anchor_{side}_percent": own[side] for side in SIDES},
        }
        rows.append((kind, view.collapse(), view.kept_pattern(), own["before"], own["after"]))
    one, two = (views[kind] for kind in ("semantic", "visual"))
    return Section(
        name="anchors",
        title="Anchors: semantic and visual",
        sentence=f"Seen from semantic anchors affinities changed by {one.collapse():.4f} on average, from visual "
        f"prototypes by {two.collapse():.4f}; {one.own_anchor('after'):.1f} % and {two.own_anchor('after'):.1f} % of "
        "images are then nearest to the anchor of their own class.",
        limit="This looks at one finished model from two kinds of anchors. Which kind a method should hold on to is "
        "another question: experiments/table4-cifar10.yaml. Visual prototypes need images, which a method without "
        "retained data does not have.",
        numbers=numbers,
        tables=(
            Table(
                caption="Affinities under either kind of anchors. Pattern: correlation of class-by-anchor means.",
                columns=(
                    "anchors",
                    "collapse",
                    "pattern kept",
                    "own anchor nearest before (%)",
                    "own anchor nearest after (%)",
                ),
                rows=tuple(rows),
            ),
        ),
        figures=(_figure(context, views),),
        settings={
            "measured on": f"{len(one.labels)} images",
            "semantic": context.anchors_title(),
            "visual": f"means of the original features of {prototypes}",
            "seed": context.settings.seed,
        },
    )


def _views(context: Context, semantic: Anchors) -> tuple[str, int, dict[str, View]]:
    """What prototypes are made of, in words and number, and the affinities of other images under either kind."""
    source, images = context.first_of("retain", "test", why="visual prototypes are means of features")
    target, measured = context.first_of("test", "retain", why="affinities are measured on images")
    rows = make = torch.arange(len(images))
    if target == source:
        # One half makes the prototypes, the other is measured.
        make, rows = rows[::2], rows[1::2]
    else:
        rows = torch.arange(len(measured))
    names = context.run.before.class_names
    features = context.outputs("before", source).features[make]
    try:
        visual = Anchors.from_prototypes(features, images.labels[make], names)
    except AnchorError as error:
        raise SkipAnalysis(f"visual prototypes cannot be made. {error}") from None
    views = {
        kind: View(
            {
                side: context.structure(context.outputs(side, target).features[rows], anchors)
                for side in SIDES
            },
            measured.labels[rows],
        )
        for kind, anchors in (("semantic", semantic), ("visual", visual))
    }
    return f"{len(make)} {TITLES[source]} images", len(make), views


def _figure(context: Context, views: dict[str, View]) -> Figure:
    names = context.run.before.class_names
    figure = new_figure(7, 6.4)
    axes = figure.subplots(2, 2)
    for line, (kind, view) in zip(axes, views.items(), strict=True):
        patterns = {side: view.pattern(side) for side in SIDES}
        top = max(float(pattern.abs().max()) for pattern in patterns.values()) or 1.0
        present = [names[c] for c in view.labels.unique(sorted=True).tolist()]
        for axis, side in zip(line, SIDES, strict=True):
            shown = axis.imshow(
                patterns[side].numpy(), cmap="PuOr", vmin=-top, vmax=top, interpolation="nearest"
            )
            axis.set_title(f"{kind} anchors, {side}", fontsize=9)
            axis.set(xticks=[], yticks=[])
            if len(names) <= _NAMED:
                axis.set_xticks(range(len(names)), [short(n, 10) for n in names], rotation=90, fontsize=6)
                axis.set_yticks(range(len(present)), [short(n, 10) for n in present], fontsize=6)
        figure.colorbar(shown, ax=list(line), shrink=0.8)
    for axis in axes[:, 0]:
        axis.set_ylabel("class of the images")
    for axis in axes[1]:
        axis.set_xlabel("anchor")
    return Figure(
        file=save_figure(figure, context.folder / "anchors.svg"),
        alt="Four maps of mean affinity, classes by anchors, less row and column means: semantic and visual anchors, "
        "before and after.",
        caption="Mean affinity of each class to each anchor, less row and column means (cosine).",
    )
