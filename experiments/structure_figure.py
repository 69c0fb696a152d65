"""The picture in the README: the structure of test images before and after one run.

    python experiments/structure_figure.py --data DIR --model CKPT --anchors FILE --run RUN [RUN …] --out PNG

Each square is the mean affinity (cosine) of the test images of one class to one anchor, less row and column means; the
title gives the structural collapse of the run, the mean absolute change of all affinities (docs/method.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import stakes
from stakes.anchors.bridge import Bridge
from stakes.structure import affinity, structural_collapse

IMAGES = 2000


@torch.no_grad()
def affinities(
    classifier: stakes.Classifier, images: stakes.ImageSet, anchors: stakes.Anchors
) -> torch.Tensor:
    """S of the deployed features, (n, b)."""
    bridge = Bridge.between(classifier.feature_width, anchors.width, seed=0)
    rows = []
    for part in torch.arange(len(images)).split(250):
        features = classifier.features(images.batch(part))
        if classifier.projector is not None:
            features = classifier.projector(features)
        rows.append(affinity(bridge.features(features), bridge.anchors(anchors.matrix)))
    return torch.cat(rows)


def by_class(structure: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Mean affinity of each class to each anchor, less the means of its row and column: what is left is the pattern."""
    means = torch.stack([structure[labels == c].mean(dim=0) for c in range(classes)])
    return means - means.mean(dim=0, keepdim=True) - means.mean(dim=1, keepdim=True) + means.mean()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--data", "--model", "--anchors", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--run", nargs="+", required=True)
    words = parser.parse_args()

    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    before = stakes.load_checkpoint(words.model)
    anchors = stakes.Anchors.load(words.anchors).for_classes(before.class_names)
    test = stakes.open_source(words.data, size=before.input_size).test
    if test is None:
        raise SystemExit("the data have no test split")
    test = test.for_classes(before.class_names).subset(range(min(IMAGES, len(test))))
    first = affinities(before, test, anchors)
    panels = [("before", by_class(first, test.labels, len(anchors.class_names)))]
    for run in words.run:
        record = stakes.Record.load(Path(run) / "record.json")
        after = affinities(stakes.load_checkpoint(run), test, anchors)
        collapse = float(structural_collapse(first, after))
        title = (
            f"after: {record.preset or record.method}, {record.after.forget_images} images\n"
            f"collapse {collapse:.4f}, test {record.after.test_accuracy:.1f} %"
        )
        panels.append((title, by_class(after, test.labels, len(anchors.class_names))))
    limit = max(float(panel.abs().max()) for _, panel in panels)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 3.9), layout="constrained", sharey=True
    )
    for axis, (title, panel) in zip(axes, panels, strict=True):
        image = axis.imshow(panel, cmap="PuOr", vmin=-limit, vmax=limit)
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(len(anchors.class_names)), anchors.class_names, rotation=90, fontsize=7)
        axis.set_yticks(range(len(anchors.class_names)), anchors.class_names, fontsize=7)
        axis.set_xlabel("anchor", fontsize=8)
    axes[0].set_ylabel("class of the images", fontsize=8)
    figure.colorbar(image, ax=axes, label="mean affinity (cosine), doubly centred", shrink=0.8)
    Path(words.out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(words.out, dpi=110, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
