"""The frontier: what is kept of the model against the number of images forgotten, as a table and a picture.

    python experiments/frontier.py --out docs/images/frontier.svg experiments/results/table2-cifar10 \\
        experiments/results/unlabelled-cifar10

Each folder holds records of runs (JSON) on one model; runs of one method, preset and k are averaged over seeds. The
picture shows 100 · test accuracy after / before, since the paper's BEFORE is another model, with the paper's figures
dotted; runs with unlabelled images, another regime, are dashed. A method is drawn where it forgot every image with all
seeds, rows with tuned settings are not. The legend has the order of the lines at the least k. The table goes to
standard output, in Markdown.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from stakes.bench.published import PUBLISHED
from stakes.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, new_figure, save_figure
from stakes.records import Record

Group = tuple[str, int]  # name of method and preset, k
INKS = {
    "structguard default": BLUE,
    "structguard default with unlabelled images": BLUE,
    "structguard thorough": "#1b2a6b",
    "structguard thorough with unlabelled images": "#1b2a6b",
    "structguard paper": VERMILLION,
    "structguard authors": ORANGE,
    "structguard": VERMILLION,
    "l2ul": GREEN,
    "adv": PURPLE,
    "rawp": SKY,
    "neggrad": GREY,
    "boundary-shrink instances": BLACK,
    "boundary-expand instances": "#762a83",
    "random-label": "#8c510a",
    "salun": "#01665e",
    "oracle-finetune": "#b8860b",
}
MARKERS = {
    "structguard default": "o",
    "structguard default with unlabelled images": "o",
    "structguard thorough": "h",
    "structguard thorough with unlabelled images": "h",
    "structguard paper": "s",
    "structguard authors": "^",
    "boundary-shrink instances": "D",
    "boundary-expand instances": "X",
    "random-label": "v",
    "salun": "P",
    "oracle-finetune": "*",
}
DOTTED = ("structguard", "l2ul", "adv", "rawp", "neggrad")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--published", default="cifar10", choices=sorted(PUBLISHED))
    given = parser.parse_args()
    groups = grouped(record for folder in given.folders for record in records(folder))
    print(table(groups))
    draw(groups, given.published, given.out)


def records(folder: Path) -> list[Record]:
    """Records of a folder, or of a bench; the model before is the line at 100 %."""
    found = [Record.load(path) for path in sorted(folder.rglob("*.json"))]
    return [record for record in found if record.method != "before"]


def grouped(found: object) -> dict[Group, list[Record]]:
    groups: dict[Group, list[Record]] = defaultdict(list)
    for record in found:  # type: ignore[attr-defined]
        tuned = "tuned" if str(record.request.get("row")).endswith("-tuned") else None
        given = "with unlabelled images" if record.unlabelled is not None else None
        name = " ".join(part for part in (record.method, record.preset, tuned, given) if part)
        groups[name, record.after.forget_images].append(record)
    return dict(sorted(groups.items()))


def table(groups: dict[Group, list[Record]]) -> str:
    columns = (
        "method",
        "k",
        "n",
        "test",
        "lost",
        "retain lost",
        "forget",
        "changed",
        "steps",
        "forward",
        "backward",
    )
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for (name, k), runs in groups.items():
        passes = [phase for run in runs for phase in run.phases if not phase.name.startswith("evaluate")]
        cells = [
            f"`{name}`",
            str(k),
            str(len(runs)),
            spread([run.after.test_accuracy for run in runs]),
            spread(lost(runs, "test_accuracy")),
            spread(lost(runs, "retain_accuracy")),
            spread([run.after.forget_accuracy for run in runs]),
            changed(runs),
            " ".join(str(run.steps) for run in runs),
            f"{sum(phase.forward_images for phase in passes) / len(runs):,.0f}",
            f"{sum(phase.backward_images for phase in passes) / len(runs):,.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def lost(runs: list[Record], side: str) -> list[float]:
    """Points of ``test_accuracy`` or ``retain_accuracy``."""
    return [getattr(run.before, side) - getattr(run.after, side) for run in runs]


def changed(runs: list[Record]) -> str:
    """Everyday copies that are left, in percent; empty where not every run was audited."""
    found = [run.analyses["changes"]["mean_after"] or 0.0 for run in runs if "changes" in run.analyses]
    return spread(found, digits=1) if runs and len(found) == len(runs) else ""


def spread(values: list[float], digits: int = 2) -> str:
    """Mean, and sample standard deviation where there are several."""
    said = f"{mean(values):.{digits}f}"
    return said if len(values) < 2 or not any(values) else f"{said} ± {stdev(values):.{digits}f}"


def kept(runs: list[Record]) -> list[float]:
    return [100 * run.after.test_accuracy / run.before.test_accuracy for run in runs]


def draw(groups: dict[Group, list[Record]], published: str, out: Path) -> None:
    figure = new_figure(8.5, 5.2)
    axis = figure.add_subplot()
    forgot = {
        (name, k): runs
        for (name, k), runs in groups.items()
        if all(run.forgotten for run in runs) and not name.endswith(" tuned")
    }
    least = min(k for _, k in forgot)
    names = dict.fromkeys(name for name, _ in forgot)
    for name in sorted(
        names, key=lambda one: -mean(kept(forgot[one, least])) if (one, least) in forgot else 0.0
    ):
        points = [(k, kept(runs)) for (other, k), runs in forgot.items() if other == name]
        ks, means = [k for k, _ in points], [mean(values) for _, values in points]
        bars = [stdev(values) if len(values) > 1 else 0.0 for _, values in points]
        look: dict[str, Any] = {"color": INKS.get(name, GREY), "marker": MARKERS.get(name, "o"), "lw": 1.5}
        look |= {"lw": 2.5} if name.startswith("structguard default") else {}
        look |= {"ls": "--", "mfc": "white"} if name.endswith("images") else {}
        axis.errorbar(ks, means, bars, capsize=3, label=f"{name}, measured", **look)
    paper = PUBLISHED[published]
    before = paper.values["test"]["before"]
    for name in DOTTED:
        shares = [
            100 * value / start for value, start in zip(paper.values["test"][name], before, strict=True)
        ]
        axis.plot(paper.k, shares, ":", color=INKS[name], marker=".", lw=1, label=f"{name}, published")
    ticks = sorted({*paper.k, *(k for _, k in groups)})
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(k) for k in ticks])
    axis.set(xlabel="images forgotten, k", ylabel="test accuracy kept (% of before)", ylim=(0, 102))
    axis.grid(alpha=0.25, lw=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, out)


if __name__ == "__main__":
    main()
