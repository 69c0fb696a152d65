"""Section: can an attacker tell the forgotten images from images that no model saw?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stakes.audit.confidence import cross_validated_scores, signals
from stakes.audit.drawing import INK, save_svg
from stakes.audit.evidence import Evidence, Finding, Skipped
from stakes.audit.outputs import Array, log_probability, margins
from stakes.audit.rmia import log_ratio, rmia_scores
from stakes.audit.roc import Separation, curve, separation
from stakes.data.images import ImageSet
from stakes.models.classifier import Classifier
from stakes.report.section import Cell, Figure, Section, Table

TITLES = {
    "rmia": "RMIA",
    "loss": "loss of the label",
    "outputs": "confidence and entropy (learned)",
}

FEW = 20
"""Forget images below which intervals are too narrow, and the learned attack's scores tell too little."""

OPENINGS = {"rmia": "To RMIA", "loss": "Judged by the loss of their label,"}


@dataclass(frozen=True)
class _Groups:
    """The images that play a part."""

    forget: ImageSet
    unseen: ImageSet
    population: ImageSet


@dataclass(frozen=True)
class _Tested:
    """What attacks made of one model, and the mean RMIA score of its forget images."""

    found: dict[str, Separation]
    score: float | None = None


def membership(evidence: Evidence) -> Finding:
    """Attack before and after, and a retrained model where there is one, which is how no leak looks."""
    groups = _groups(evidence)
    if isinstance(groups, Skipped):
        return groups
    models = evidence.models()
    done, total = 0, len(models) + len(evidence.references)
    calibration = _Calibration.of(evidence, groups, total) if evidence.references else None
    done += len(evidence.references)
    tested = {}
    for name, model in models.items():
        tested[name] = _attacked(evidence, model, groups, calibration)
        done += 1
        evidence.progress("membership", done, total)
    return _section(evidence, groups, tested, calibration)


def _groups(evidence: Evidence) -> _Groups | Skipped:
    """Unseen images with the classes of the forget set in like shares: no class is to give the images away."""
    settings, split = evidence.settings.membership, evidence.split
    if split.test is None:
        return Skipped("no test images: there is nothing unseen to tell the forget images from")
    if len(split.forget) < 2:
        return Skipped("one forget image: rates need at least two")
    forget = evidence.sample(split.forget, settings.images, "membership")
    wanted = settings.unseen + (settings.population if evidence.references else 0)
    rows = _matched(forget.labels, split.test.labels, wanted, evidence.seed_of("unseen"))
    if len(rows) < 4:
        return Skipped(f"{len(rows)} test images of the forgotten classes: at least 4 are needed")
    population = min(settings.population, len(rows) // 2) if evidence.references else 0
    return _Groups(
        forget,
        split.test.subset(rows[population:].sort().values),
        split.test.subset(rows[:population].sort().values),
    )


def _matched(forget: Tensor, test: Tensor, most: int, seed: int) -> Tensor:
    """Rows of at most that many test images with the class shares of the forget set, in random order."""
    classes, counts = forget.unique(return_counts=True)
    shares = counts.double() / len(forget)
    at_hand = torch.stack([(test == label).sum() for label in classes])
    total = min(float(most), float((at_hand / shares).min()))
    draws = torch.Generator().manual_seed(seed)
    chosen = []
    for label, share in zip(classes, shares, strict=True):
        rows = (test == label).nonzero().flatten()
        # A millionth, since 0.7 / 0.1 · 0.1 may fall short of 7 in floating point.
        chosen.append(rows[torch.randperm(len(rows), generator=draws)][: int(total * float(share) + 1e-6)])
    rows = torch.cat(chosen)
    return rows[torch.randperm(len(rows), generator=draws)]


@dataclass(frozen=True)
class _Calibration:
    """Label probabilities of all groups under the reference models, and who had not seen what."""

    probability: dict[str, Array]
    unseen_by: dict[str, NDArray[np.bool_]]

    @classmethod
    def of(cls, evidence: Evidence, groups: _Groups, total: int) -> _Calibration:
        probability: dict[str, list[Array]] = {name: [] for name in vars(groups)}
        unseen_by: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in vars(groups)}
        for done, reference in enumerate(evidence.references, start=1):
            for name, images in vars(groups).items():
                logits = evidence.logits(reference.classifier, images)
                probability[name].append(np.exp(log_probability(logits, images.labels)))
                unseen_by[name].append(reference.unseen(images))
            evidence.progress("membership", done, total)
        return cls(
            {name: np.stack(found, 1) for name, found in probability.items()},
            {name: np.stack(found, 1) for name, found in unseen_by.items()},
        )

    def usable(self, name: str) -> NDArray[np.bool_]:
        """Images that at least one reference model did not see."""
        return np.asarray(self.unseen_by[name].any(1))

    def ratios(self, name: str, log_target: Array, offline_a: float) -> Array:
        rows = self.usable(name)
        return log_ratio(
            log_target[rows], self.probability[name][rows], self.unseen_by[name][rows], offline_a=offline_a
        )


def _attacked(
    evidence: Evidence, model: Classifier, groups: _Groups, calibration: _Calibration | None
) -> _Tested:
    settings = evidence.settings.membership
    logits = {name: evidence.logits(model, images) for name, images in vars(groups).items() if len(images)}
    forget, unseen = groups.forget.labels, groups.unseen.labels
    seed = evidence.seed_of("bootstrap")

    def measured(positive: Array, negative: Array) -> Separation:
        return separation(positive, negative, resamples=settings.resamples, seed=seed)

    found, score = {}, None
    if calibration is not None and all(calibration.usable(name).sum() >= 2 for name in logits):
        ratio = {
            name: calibration.ratios(
                name, log_probability(logits[name], getattr(groups, name).labels), settings.offline_a
            )
            for name in logits
        }
        found["rmia"] = measured(ratio["forget"], ratio["unseen"])
        score = float(rmia_scores(ratio["forget"], ratio["population"], gamma=settings.gamma).mean())
    found["loss"] = measured(margins(logits["forget"], forget), margins(logits["unseen"], unseen))
    found["outputs"] = measured(
        *cross_validated_scores(
            signals(logits["forget"], forget),
            signals(logits["unseen"], unseen),
            folds=settings.folds,
            seed=evidence.seed_of("folds"),
        )
    )
    return _Tested(found, score)


def _section(
    evidence: Evidence, groups: _Groups, tested: dict[str, _Tested], calibration: _Calibration | None
) -> Section:
    after = tested["after"].found
    main = "rmia" if "rmia" in after else "loss"
    count = len(after[main].positive)
    return Section(
        name="membership",
        title="Membership: do the forgotten images stand out?",
        sentence=_sentence(main, tested),
        limit=_limit(evidence, groups, after, main) + evidence.on_trust(),
        numbers=_numbers(tested)
        | {
            "forget_images": count,
            "unseen_images": len(groups.unseen),
            "population_images": len(groups.population),
            "reference_models": len(evidence.references),
        },
        tables=(_table(tested, len(groups.unseen)),),
        figures=(
            Figure(
                file=save_svg(evidence.folder / "membership.svg", lambda axis: _draw(axis, tested, main)),
                alt="ROC curves of the membership attack before and after unlearning on logarithmic axes",
                caption=f"ROC of {TITLES[main]} on either side, logarithmic; the grey line is chance",
            ),
        ),
        settings=_settings(evidence) | evidence.cost("membership"),
    )


def _sentence(main: str, tested: dict[str, _Tested]) -> str:
    after, before = tested["after"].found[main], tested["before"].found[main]
    rate = after.rates["both", 0.01]
    found = "" if rate is None else f"; {rate:.1f} % of them are found at 1 % false positives"
    return (
        f"{OPENINGS[main]} the forgotten images {after.reading}: AUC {after.auc:.3f} "
        f"(95 % interval {after.low:.3f} to {after.high:.3f}, 0.5 is chance; before {before.auc:.3f}){found}."
    )


def _limit(evidence: Evidence, groups: _Groups, after: dict[str, Separation], main: str) -> str:
    used = after["loss"]
    count, least = len(used.positive), min(len(one.positive) for one in after.values())
    parts = [
        f"{count} forget and {len(used.negative)} unseen images, of the same classes in like shares.",
        "An AUC far below 0.5 is a leak as much as one far above: it says which images were forgotten.",
    ]
    if least < FEW:
        parts.append(
            f"With fewer than {FEW} forget images the intervals are too narrow. They leave 0.5 out only where a "
            "Mann-Whitney test does so too; for the learned attack even that comes about by chance too often."
        )
    if len(groups.unseen) < 1000:
        parts.append("A rate at 0.1 % false positives needs at least 1000 unseen images, and is left out.")
    if main == "rmia":
        rmia = after["rmia"]
        if (len(rmia.positive), len(rmia.negative)) != (count, len(used.negative)):
            parts.append(
                f"RMIA took {len(rmia.positive)} and {len(rmia.negative)} of them: those that some reference model "
                "did not see."
            )
        parts.append(
            f"{len(evidence.references)} reference models, trained on other halves of the data; "
            "more of them make a stronger attack."
        )
        if any(reference.seen is None for reference in evidence.references):
            parts.append("Some came without reference.json and are taken to have seen none of the images.")
    elif evidence.references:
        parts.append(
            f"RMIA was left out: of the forget, unseen or population images fewer than two are unseen by any of the "
            f"{len(evidence.references)} reference models. So hard and easy images are not told apart."
        )
    else:
        parts.append("Without reference models (--reference) hard and easy images are not told apart.")
    return " ".join(parts)


def _numbers(tested: dict[str, _Tested]) -> dict[str, float | int | None]:
    numbers: dict[str, float | int | None] = {}
    for model, result in tested.items():
        for attack, found in result.found.items():
            head = f"{attack}_{model}"
            numbers |= {
                f"{head}_auc": found.auc,
                f"{head}_auc_low": found.low,
                f"{head}_auc_high": found.high,
            }
            for (side, rate), value in found.rates.items():
                numbers[f"{head}_tpr_{'1' if rate == 0.01 else '0.1'}_{side}"] = value
        if result.score is not None:
            numbers[f"rmia_{model}_mean_score"] = result.score
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in numbers.items()}


def _table(tested: dict[str, _Tested], unseen: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for attack, title in TITLES.items():
        for model, result in tested.items():
            if attack not in result.found:
                continue
            found = result.found[attack]
            rates = [
                found.rates[side, rate]
                for side, rate in (("high", 0.01), ("low", 0.01), ("both", 0.01), ("both", 0.001))
            ]
            rows.append(
                (
                    title,
                    model,
                    round(found.auc, 4),
                    f"{found.low:.3f} to {found.high:.3f}",
                    _reading(attack, found),
                    *(None if value is None else round(value, 2) for value in rates),
                )
            )
    return Table(
        caption=(
            f"Forget images against {unseen} unseen ones. Rates: percent of the forget images found at that many false "
            "positives, by high scores (look trained on), low scores (stand out), or either."
        ),
        columns=(
            "attack",
            "model",
            "AUC",
            "95 % interval",
            "the images",
            "high at 1 %",
            "low at 1 %",
            "either at 1 %",
            "either at 0.1 %",
        ),
        rows=tuple(rows),
    )


def _reading(attack: str, found: Separation) -> str:
    if attack != "outputs":
        return found.reading
    # The learned attack finds the side by itself, so its score has no sign.
    if found.low <= 0.5:
        return "are not told apart"
    return "are told apart" if len(found.positive) >= FEW else "may be told apart (too few to say)"


def _draw(axis: Any, tested: dict[str, _Tested], main: str) -> None:
    inks = {"before": INK["before"], "after": INK["after"], "retrained": INK["other"]}
    least = min(1 / len(result.found[main].negative) for result in tested.values()) / 2
    lowest = min(1 / len(result.found[main].positive) for result in tested.values()) / 2
    for model, result in tested.items():
        found = result.found[main]
        for sign, side, line in ((1, "high scores", "-"), (-1, "low scores", "--")):
            false, true = curve(sign * found.positive, sign * found.negative)
            kept = true > 0
            axis.step(
                np.maximum(false[kept], least),
                true[kept],
                line,
                where="post",
                color=inks[model],
                label=f"{model}, {side}",
            )
    axis.plot([least, 1], [least, 1], color=INK["soft"], lw=0.8)
    axis.set(
        xscale="log",
        yscale="log",
        xlim=(least, 1),
        ylim=(lowest, 1.1),
        xlabel="false-positive rate",
        ylabel="true-positive rate",
    )
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _settings(evidence: Evidence) -> dict[str, Cell]:
    settings = evidence.settings.membership
    return {
        "RMIA's a": settings.offline_a,
        "RMIA's gamma": settings.gamma,
        "folds": settings.folds,
        "bootstrap resamples": settings.resamples,
        "references": ", ".join(reference.name for reference in evidence.references) or None,
        "seed": evidence.seed,
    }
