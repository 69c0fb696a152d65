"""Section: is the original label still readable from the features?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stakes.audit.drawing import INK, save_svg
from stakes.audit.evidence import Evidence, Finding, Skipped
from stakes.audit.probing import FEATURES, layer_features, readable
from stakes.data.images import ImageSet
from stakes.models.classifier import Classifier
from stakes.report.section import Figure, Section, Table

Layers = dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Groups:
    fit: ImageSet
    fit_is: str
    forget: ImageSet
    unseen: ImageSet | None


def linear_probe(evidence: Evidence) -> Finding:
    """Probe every layer of both models, and of a retrained one where there is one."""
    groups = _groups(evidence)
    if isinstance(groups, Skipped):
        return groups
    models = evidence.models()
    found: dict[str, Layers] = {}
    for done, (name, model) in enumerate(models.items()):
        found[name] = _read(evidence, model, groups, done, len(models))
    return _section(evidence, groups, found)


def _groups(evidence: Evidence) -> _Groups | Skipped:
    """Images to fit on, of every class to forget: of a forgotten class there are none among the retained ones."""
    settings, split = evidence.settings.probe, evidence.split
    forget = evidence.sample(split.forget, settings.images, "probe")
    groups: list[_Groups] = []
    if split.retain is not None:
        fit = evidence.sample(split.retain, settings.train, "probe fit")
        unseen = split.test and evidence.sample(split.test, settings.images, "probe unseen")
        groups.append(_Groups(fit, "retained", forget, unseen))
    if split.test is not None and len(split.test) >= 4:
        rows = torch.arange(len(split.test))
        # Every other row: test sets are often sorted by class.
        fit, rest = split.test.subset(rows[::2]), split.test.subset(rows[1::2])
        fit, rest = (
            evidence.sample(fit, settings.train, "probe fit"),
            evidence.sample(rest, settings.images, "probe unseen"),
        )
        groups.append(_Groups(fit, "test", forget, rest))
    if not groups:
        return Skipped("neither retained nor test images: there is nothing to fit a probe on")
    several = [one for one in groups if len(one.fit.labels.unique()) > 1]
    if not several:
        return Skipped("images of one class only to fit a probe on")
    fitting = next((one for one in several if torch.isin(forget.labels, one.fit.labels).all()), None)
    return fitting or Skipped(
        f"no {' or '.join(one.fit_is for one in several)} images of every class to forget to fit a probe on: "
        "it could not name the others"
    )


def _read(evidence: Evidence, model: Classifier, groups: _Groups, done: int, total: int) -> Layers:
    settings = evidence.settings.probe

    def features(images: ImageSet) -> dict[str, Any]:
        evidence.meter.count(forward=len(images))
        return layer_features(
            model,
            images,
            most=settings.layers,
            width=settings.width,
            batch=evidence.settings.batch,
            device=evidence.device,
        )

    fit, forget = features(groups.fit), features(groups.forget)
    unseen = features(groups.unseen) if groups.unseen is not None else None
    layers: Layers = {}
    for number, layer in enumerate(fit, start=1):
        tests = {"forget": (forget[layer], groups.forget.labels)}
        if unseen is not None and groups.unseen is not None:
            tests["unseen"] = (unseen[layer], groups.unseen.labels)
        layers[layer] = readable(
            fit[layer], groups.fit.labels, tests, inverse_penalty=settings.inverse_penalty
        )
        evidence.progress("linear probe", done * len(fit) + number, total * len(fit))
    return layers


def _section(evidence: Evidence, groups: _Groups, found: dict[str, Layers]) -> Section:
    after, before = found["after"], found["before"]
    best = max(after, key=lambda layer: after[layer]["forget"])
    columns = [(model, what) for model in found for what in ("forget", "unseen") if what in after[best]]
    unseen = "" if groups.unseen is None else f"; of unseen images {after[best]['unseen']:.1f} %"
    # A projector may stand in one of the two only.
    earlier = f"before {before[best]['forget']:.1f} %" if best in before else "not there before"
    return Section(
        name="linear-probe",
        title="Linear probe: is the label still in the features?",
        sentence=(
            f"From layer “{best}” of the unlearned model a linear probe reads the original label of "
            f"{after[best]['forget']:.1f} % of the forget images ({earlier}{unseen})"
            + _from_features(after, best)
        ),
        limit=(
            f"Probes fitted on {len(groups.fit)} {groups.fit_is} images, best layer by the forget images themselves; a "
            "label that can be read as well from unseen images is what any good features give, not memory, and a "
            "nonlinear probe may read more." + evidence.on_trust()
        ),
        numbers={
            f"{what}_{model}_{layer}": round(figures[what], 4)
            for model, layers in found.items()
            for layer, figures in layers.items()
            for what in figures
        }
        | {"forget_after_best": round(after[best]["forget"], 4), "forget_images": len(groups.forget)},
        tables=(
            Table(
                caption="Percent of images whose label a linear probe reads from a layer",
                columns=("layer", *(f"{what}, {model}" for model, what in columns)),
                rows=tuple(
                    (
                        layer,
                        *(
                            round(found[model][layer][what], 2) if layer in found[model] else None
                            for model, what in columns
                        ),
                    )
                    for layer in dict.fromkeys(name for layers in found.values() for name in layers)
                ),
            ),
        ),
        figures=(
            Figure(
                file=save_svg(evidence.folder / "linear-probe.svg", lambda axis: _draw(axis, found)),
                alt="Curves: accuracy of linear probes over the layers, before and after unlearning",
                caption="Labels read from the layers",
            ),
        ),
        settings={
            "C": evidence.settings.probe.inverse_penalty,
            "images to fit on": len(groups.fit),
            "fitted on": groups.fit_is,
            "seed": evidence.seed,
        }
        | evidence.cost("linear-probe"),
    )


def _from_features(after: Layers, best: str) -> str:
    """What the head is given, where that is not the best layer."""
    if best == FEATURES:
        return "."
    found = after[FEATURES]
    unseen = f" (unseen {found['unseen']:.1f} %)" if "unseen" in found else ""
    return f"; from the features, {found['forget']:.1f} %{unseen}."


def _draw(axis: Any, found: dict[str, Layers]) -> None:
    inks = {"before": "before", "after": "after", "retrained": "other"}
    layers = list(dict.fromkeys(name for one in found.values() for name in one))
    for (model, figures), mark in zip(found.items(), "osv", strict=False):
        for what, line in (("forget", "-"), ("unseen", ":")):
            places = [at for at, layer in enumerate(layers) if what in figures.get(layer, {})]
            values = [figures[layers[at]][what] for at in places]
            if values:
                axis.plot(
                    places,
                    values,
                    line,
                    marker=mark,
                    markersize=4,
                    color=INK[inks[model]],
                    label=f"{model}, {what}",
                )
    axis.set_xticks(range(len(layers)), layers, rotation=20, ha="right")
    axis.set(ylabel="labels read (%)", ylim=(-3, 103))
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
