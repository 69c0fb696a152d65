"""The figures of the paper's Tables 2 and 3, typed in: Hong, Shin and Kim, "Stake the Points", CVPR 2026.

Percent; blocks ``test``, ``retain`` and ``forget``, the last printed as 100 − forget accuracy. The paper states no
spread and no number of runs. ORACLE there is a retrained model; the rows of RAWP and FISHER are the authors' runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Block = Literal["test", "retain", "forget"]
BLOCKS: tuple[Block, ...] = ("test", "retain", "forget")
# As the paper names a method: as the command line does.
NAMES = {
    "BEFORE": "before",
    "ORACLE": "oracle",
    "FISHER": "fisher",
    "NEGGRAD": "neggrad",
    "RAWP": "rawp",
    "ADV": "adv",
    "L2UL": "l2ul",
    "STRUCTGUARD": "structguard",
}


WHOLE = "structguard-paper"
"""The row of a grid that stands for the last row of Tables 4 to 6, the whole method, whatever it is called there."""


@dataclass(frozen=True)
class Published:
    """One data set of one table: a value for each block, method (by_row: label of a grid's row) and k."""

    table: str
    title: str
    k: tuple[int, ...]
    values: Mapping[Block, Mapping[str, tuple[float, ...]]]
    by_row: bool = False

    def value(self, block: Block, method: str, k: int) -> float | None:
        """The published figure; None where there is none.

        Example:
            >>> PUBLISHED["cifar10"].value("test", "structguard", 16)
            84.38
        """
        if self.by_row and method == WHOLE:
            method = list(self.values[block])[-1]
        # L2UL's fine-tuning is the other reading of ORACLE.
        row = self.values[block].get("oracle" if method == "oracle-finetune" else method)
        return row[self.k.index(k)] if row is not None and k in self.k else None


_ALL = (100.0,) * 4

PUBLISHED: dict[str, Published] = {
    "cifar10": Published(
        "table2",
        "CIFAR-10",
        (16, 64, 128, 256),
        {
            "test": {
                "before": (92.59, 92.59, 92.59, 92.59),
                "oracle": (90.21, 91.01, 89.44, 38.59),
                "fisher": (17.10, 14.97, 17.20, 15.09),
                "neggrad": (15.87, 9.28, 7.11, 6.47),
                "rawp": (63.10, 35.47, 12.91, 9.12),
                "adv": (65.14, 62.23, 49.47, 36.69),
                "l2ul": (79.65, 67.08, 50.82, 45.44),
                "structguard": (84.38, 69.47, 58.40, 56.32),
            },
            "retain": {
                "before": (99.60, 99.60, 99.60, 99.60),
                "oracle": (98.74, 99.72, 98.97, 39.90),
                "fisher": (17.82, 15.07, 17.43, 15.05),
                "neggrad": (15.79, 9.22, 7.11, 6.34),
                "rawp": (67.15, 37.32, 13.28, 9.12),
                "adv": (69.70, 66.97, 53.49, 39.33),
                "l2ul": (85.75, 72.77, 54.51, 48.95),
                "structguard": (91.43, 76.32, 64.28, 61.67),
            },
            "forget": {
                "before": (0.00, 0.62, 0.47, 0.62),
                "oracle": (100.00, 100.00, 100.00, 99.37),
                "fisher": (81.25, 84.38, 78.91, 83.59),
                "neggrad": (100.00, 100.00, 100.00, 96.17),
                "rawp": (100.00, 100.00, 95.94, 93.83),
                "adv": _ALL,
                "l2ul": _ALL,
                "structguard": _ALL,
            },
        },
    ),
    "cifar100": Published(
        "table2",
        "CIFAR-100",
        (16, 64, 128, 256),
        {
            "test": {
                "before": (77.10, 77.10, 77.10, 77.10),
                "oracle": (64.41, 67.06, 66.88, 65.31),
                "fisher": (6.25, 4.69, 2.86, 1.18),
                "neggrad": (48.07, 21.11, 10.19, 1.71),
                "rawp": (50.99, 14.41, 2.79, 1.12),
                "adv": (63.17, 57.43, 53.89, 46.45),
                "l2ul": (63.69, 62.83, 58.44, 48.71),
                "structguard": (66.27, 65.07, 62.33, 56.91),
            },
            "retain": {
                "before": (99.98, 99.98, 99.98, 99.98),
                "oracle": (99.96, 96.17, 96.74, 96.43),
                "fisher": (5.31, 4.27, 2.89, 1.01),
                "neggrad": (66.97, 26.20, 11.64, 1.70),
                "rawp": (72.44, 17.39, 2.82, 1.12),
                "adv": (89.18, 81.07, 76.28, 65.67),
                "l2ul": (89.81, 89.48, 82.86, 67.60),
                "structguard": (92.98, 92.93, 89.55, 83.30),
            },
            "forget": {
                "before": (0.00, 0.00, 0.00, 0.00),
                "oracle": _ALL,
                "fisher": (93.75, 95.31, 98.44, 98.83),
                "neggrad": _ALL,
                "rawp": _ALL,
                "adv": _ALL,
                "l2ul": _ALL,
                "structguard": _ALL,
            },
        },
    ),
    "imagenet": Published(
        "table2",
        "ImageNet-1K",
        (16, 64, 128, 256),
        {
            "test": {
                "before": (69.79, 69.79, 69.79, 69.79),
                "oracle": (63.92, 59.16, 48.18, 43.35),
                "fisher": (53.62, 48.63, 1.44, 1.70),
                "neggrad": (53.48, 43.11, 30.74, 2.09),
                "rawp": (20.66, 14.28, 4.47, 2.07),
                "adv": (63.44, 57.96, 49.01, 21.27),
                "l2ul": (63.92, 59.89, 53.86, 31.19),
                "structguard": (65.53, 62.57, 57.59, 41.15),
            },
            "retain": {
                "before": (79.18, 79.18, 79.18, 79.18),
                "oracle": (72.58, 66.37, 52.88, 46.43),
                "fisher": (60.30, 54.87, 1.56, 1.84),
                "neggrad": (60.07, 48.05, 34.11, 2.13),
                "rawp": (23.48, 16.45, 5.10, 2.38),
                "adv": (72.00, 64.88, 53.90, 23.43),
                "l2ul": (72.56, 67.28, 59.81, 35.02),
                "structguard": (74.62, 70.56, 65.01, 44.91),
            },
            "forget": {
                "before": (0.00, 18.75, 17.97, 19.54),
                "oracle": _ALL,
                "fisher": (43.75, 29.69, 98.44, 97.66),
                "neggrad": _ALL,
                "rawp": _ALL,
                "adv": _ALL,
                "l2ul": _ALL,
                "structguard": _ALL,
            },
        },
    ),
    "lacuna10": Published(
        "table3",
        "Lacuna-10",
        (3, 7, 9, 12, 64),
        {
            "test": {
                "before": (94.34,) * 5,
                "oracle": (91.36, 91.47, 92.00, 91.89, 86.78),
                "fisher": (23.02, 15.24, 21.42, 19.82, 23.24),
                "neggrad": (61.51, 46.05, 45.09, 44.88, 10.02),
                "rawp": (72.94, 66.84, 59.91, 41.36, 10.66),
                "adv": (72.28, 59.48, 55.62, 51.81, 9.27),
                "l2ul": (75.37, 69.08, 64.81, 58.42, 12.26),
                "structguard": (77.29, 70.36, 70.14, 64.07, 27.71),
            },
            "retain": {
                "before": (100.00,) * 5,
                "oracle": (99.19, 99.54, 99.43, 99.52, 98.44),
                "fisher": (19.84, 13.73, 23.50, 16.97, 22.66),
                "neggrad": (68.14, 45.94, 43.74, 40.86, 9.57),
                "rawp": (81.82, 76.60, 66.64, 48.01, 11.82),
                "adv": (80.38, 64.33, 58.49, 55.68, 11.31),
                "l2ul": (83.60, 76.67, 70.01, 64.83, 14.66),
                "structguard": (84.82, 77.01, 77.17, 66.98, 29.97),
            },
            "forget": {
                "before": (0.00,) * 5,
                "oracle": (100.00,) * 5,
                "fisher": (100.00, 100.00, 66.67, 100.00, 75.00),
                "neggrad": (100.00,) * 5,
                "rawp": (100.00,) * 5,
                "adv": (100.00,) * 5,
                "l2ul": (100.00,) * 5,
                "structguard": (100.00,) * 5,
            },
        },
    ),
}
