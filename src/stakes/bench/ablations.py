"""The figures of the paper's Tables 4, 5 and 6, typed in: Hong, Shin and Kim, "Stake the Points", CVPR 2026.

Percent, k = 256; rows are variants of one method, so they go by the label of a row of a grid. The marks of Table 5 are
read by its text: the first row is without alignment (its removal costs most), then without regularisation (costs more
on CIFAR-100), then without the penalty on the head (costs more on CIFAR-10).
"""

from __future__ import annotations

from stakes.bench.published import Block, Published

ALIGNMENTS = ("mse", "mmd", "kl", "wasserstein", "cosine")
PARTS = ("no-alignment", "no-regularisation", "no-head-penalty", "full")
ANCHORS = ("l2ul", "visual", "semantic")


def _published(
    table: str, title: str, rows: tuple[str, ...], test: tuple[float, ...], retain: tuple[float, ...]
) -> Published:
    values: dict[Block, dict[str, tuple[float, ...]]] = {
        "test": {row: (value,) for row, value in zip(rows, test, strict=True)},
        "retain": {row: (value,) for row, value in zip(rows, retain, strict=True)},
        "forget": dict.fromkeys(rows, (100.0,)),  # all of them forgot every image
    }
    return Published(table, title, (256,), values, by_row=True)


# By table, then by data set.
PUBLISHED_ROWS: dict[str, dict[str, Published]] = {
    "table4": {
        "cifar10": _published("table4", "CIFAR-10", ANCHORS, (45.44, 48.78, 56.32), (48.95, 54.23, 61.67)),
        "imagenet": _published(
            "table4", "ImageNet-1K", ANCHORS, (31.19, 40.95, 41.15), (35.02, 42.12, 44.91)
        ),
    },
    "table5": {
        "cifar10": _published(
            "table5", "CIFAR-10", PARTS, (37.75, 55.01, 54.08, 56.32), (42.36, 60.67, 59.83, 61.67)
        ),
        "cifar100": _published(
            "table5", "CIFAR-100", PARTS, (51.49, 55.86, 56.42, 56.91), (80.52, 82.33, 82.96, 83.30)
        ),
    },
    "table6": {
        "cifar10": _published(
            "table6",
            "CIFAR-10",
            ALIGNMENTS,
            (43.80, 43.58, 47.41, 53.16, 56.32),
            (49.67, 47.99, 52.13, 58.73, 61.67),
        ),
        "cifar100": _published(
            "table6",
            "CIFAR-100",
            ALIGNMENTS,
            (54.50, 55.52, 55.46, 55.51, 56.91),
            (79.72, 80.74, 80.35, 80.73, 83.30),
        ),
    },
}
