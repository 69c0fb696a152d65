"""The Streisand effect: do forgotten images stand out from images the model never saw? (supplement D)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.analyses.context import SIDES, Context, Side
from stakes.drawing import DASHES, INK, new_figure, save_figure
from stakes.errors import DataError
from stakes.report.section import Cell, Figure, Section, Table

MEASURES = ("loss", "confidence", "entropy")
_UNITS = {"loss": "loss (nats)", "confidence": "confidence", "entropy": "entropy (nats)"}
_FEW = 10  # fewer misclassified unseen images tell nothing about their distribution


@dataclass(frozen=True)
class Effect:
    """How far two samples lie apart.

    Attributes:
        delta: Cliff's δ, P(x > y) − P(x < y), in [−1, 1]; 0 where neither tends to be larger.
        ks: Kolmogorov and Smirnov's statistic, the largest distance of the distribution functions, in [0, 1].
        p: two-sided p-value of ``ks`` under one common distribution.
    """

    delta: float
    ks: float
    p: float


def measures(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Loss −log p_y, confidence max_c p_c and entropy −Σ p_c log p_c of each image, (n,) float64, in nats.

    Example:
        >>> measures(torch.zeros(1, 2), torch.tensor([0]))["entropy"].item()
        0.6931471805599453
    """
    log = F.log_softmax(logits.double(), dim=1)
    share = log.exp()
    return {
        "loss": -log.gather(1, labels[:, None])[:, 0],
        "confidence": share.amax(dim=1),
        "entropy": -(share * log).sum(dim=1),
    }


def effect(first: Tensor, second: Tensor) -> Effect:
    """How far the first sample stands out from the second.

    Raises:
        DataError: a sample is empty.

    Example:
        >>> effect(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0])).delta
        1.0
    """
    from scipy.stats import ks_2samp, mannwhitneyu

    if not len(first) or not len(second):
        raise DataError("effect size", expected="two samples", got=f"{len(first)} and {len(second)} values")
    one, two = first.numpy(), second.numpy()
    larger = float(mannwhitneyu(one, two, method="asymptotic").statistic) / (len(one) * len(two))
    with warnings.catch_warnings():
        # Where the exact p-value cannot be had, SciPy says so and gives the asymptotic one.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = ks_2samp(one, two, method="auto")
    return Effect(2 * larger - 1, float(test.statistic), float(test.pvalue))


def analysis(context: Context) -> Section:
    """Loss, confidence and entropy of forgotten images against unseen (test) images, before and after."""
    _, unseen = context.first_of("test", why="what stands out is seen beside unseen images")
    _, forget = context.first_of("forget", why="")
    rows: list[tuple[Cell, ...]] = []
    numbers: dict[str, float | int | None] = {"forgotten_images": len(forget), "unseen_images": len(unseen)}
    values: dict[Side, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    for side in SIDES:
        gone, seen = context.outputs(side, "forget").logits, context.outputs(side, "test").logits
        values[side] = (measures(gone, forget.labels), measures(seen, unseen.labels))
        wrong = seen.argmax(dim=1) != unseen.labels
        numbers[f"unseen_misclassified_{side}"] = int(wrong.sum())
        for name in MEASURES:
            ours, theirs = (found[name] for found in values[side])
            all_of_them = effect(ours, theirs)
            numbers |= {
                f"{name}_delta_{side}": all_of_them.delta,
                f"{name}_ks_{side}": all_of_them.ks,
                f"{name}_p_{side}": all_of_them.p,
            }
            rows.append(_row(name, side, "all unseen", ours, theirs, all_of_them))
            if int(wrong.sum()) >= _FEW:
                among = effect(ours, theirs[wrong])
                numbers[f"{name}_delta_{side}_misclassified"] = among.delta
                rows.append(_row(name, side, "misclassified unseen", ours, theirs[wrong], among))
    return Section(
        name="streisand",
        title="Streisand effect",
        sentence=_sentence(numbers),
        limit="Unseen images are the test images; if these differ from the training images in other ways, that "
        "shows too. Forgotten images are misclassified by design, so compare them with misclassified unseen images "
        "as well. An observer with other statistics may see more.",
        numbers=numbers,
        tables=(
            Table(
                caption="Forgotten images against unseen ones. δ: Cliff's, 0 is alike, ±1 apart; KS: Kolmogorov and "
                "Smirnov's distance with its two-sided p-value.",
                columns=("measure", "model", "against", "forgotten median", "unseen median", "δ", "KS", "p"),
                rows=tuple(rows),
            ),
        ),
        figures=(_figure(context, values),),
        settings={"test": "two-sample Kolmogorov–Smirnov", "seed": context.settings.seed},
    )


def _row(
    name: str, side: Side, against: str, ours: Tensor, theirs: Tensor, found: Effect
) -> tuple[Cell, ...]:
    medians = (float(ours.median()), float(theirs.median()))
    return (name, side, against, *medians, found.delta, found.ks, found.p)


def _sentence(numbers: dict[str, float | int | None]) -> str:
    parts = []
    for name in MEASURES:
        before, after = (numbers[f"{name}_delta_{side}"] for side in SIDES)
        parts.append(f"{name} {after:+.2f} ({before:+.2f} before)")
    return (
        f"How far forgotten images stand out from unseen ones, by Cliff's δ (0: not at all, ±1: wholly): "
        f"{', '.join(parts)}; Kolmogorov–Smirnov distance of the loss {numbers['loss_ks_after']:.2f}."
    )


def _figure(context: Context, values: dict[Side, tuple[dict[str, Tensor], dict[str, Tensor]]]) -> Figure:
    """Distribution functions: the largest vertical gap is the KS statistic."""
    figure = new_figure(7.5, 4.6)
    axes = figure.subplots(2, 3, sharex="col", sharey=True)
    for line, side in zip(axes, SIDES, strict=True):
        for axis, name in zip(line, MEASURES, strict=True):
            for title, key, sample in zip(
                ("forgotten", "unseen"), ("forget", "test"), values[side], strict=True
            ):
                at = np.sort(sample[name].numpy())
                share = np.arange(1, len(at) + 1) / len(at)
                # At most 1,000 points a curve: more cannot be seen, and the file would grow.
                keep = np.unique(torch.linspace(0, len(at) - 1, min(1000, len(at))).round().long().numpy())
                axis.step(
                    at[keep],
                    share[keep],
                    where="post",
                    color=INK[key],
                    linestyle=DASHES[key],
                    label=title,
                )
            if name == "loss":
                axis.set_xscale("symlog", linthresh=0.1)
        line[0].set_ylabel(f"{side}: share below")
    for axis, name in zip(axes[1], MEASURES, strict=True):
        axis.set_xlabel(_UNITS[name])
    axes[0, 0].legend(fontsize=8, frameon=False)
    return Figure(
        file=save_figure(figure, context.folder / "streisand.svg"),
        alt="Distribution functions of loss, confidence and entropy of forgotten (solid) and unseen (dotted) images, "
        "before and after; the table holds the distances.",
        caption="Forgotten against unseen images: the wider the curves lie apart, the more forgotten images stand out.",
    )
