"""The blocks of docs/results.md about images without labels."""

from __future__ import annotations

import json

from blocks import ANSWERS, PROBLEMS, RESULTS, beside
from frontier import changed, grouped, lost, records, spread

from stakes.records import Record

KINDS = {
    "none": "none",
    "test": "like those to keep",
    "half": "of half the classes",
    "one": "of one class",
    "mix": "half of them of another data set",
    "blur": "blurred",
    "dark": "at half the brightness",
    "gray": "without colours",
    "bgr": "red and blue exchanged",
    "other": "of another data set",
}


def by_request() -> str:
    """Presets with and without unlabelled images, points lost and copies left."""
    lines = [
        "| | k | preset | n | test lost | without | retain lost | without | changed | without |",
        "|---" * 10 + "|",
    ]
    for data, table_of in PROBLEMS:
        with_them = grouped(records(RESULTS / f"unlabelled-{data}"))
        without = grouped(records(RESULTS / table_of))
        for (name, k), runs in with_them.items():
            others = without.get((name.removesuffix(" with unlabelled images"), k), [])
            cells = [data, str(k), f"`{name.split()[1]}`", str(len(runs)), *beside(runs, others)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_number() -> str:
    """What `default`, held to answers, loses after 64 faces, by the number of unlabelled images."""
    by_count: dict[int, list[Record]] = {}
    former = ANSWERS[0]
    for folder in (f"{former}/table3-faces10", "unlabelled-few-faces10", f"{former}/unlabelled-faces10"):
        for run in records(RESULTS / folder):
            if (run.method, run.preset, run.after.forget_images) == ("structguard", "default", 64):
                by_count.setdefault(run.unlabelled.images if run.unlabelled else 0, []).append(run)
    lines = ["| unlabelled images | n | test lost | retain lost |", "|---" * 4 + "|"]
    for count, some in sorted(by_count.items()):
        cells = [spread(lost(some, side)) for side in ("test_accuracy", "retain_accuracy")]
        lines.append(f"| {count} | {len(some)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_kind() -> str:
    """What is lost with unlabelled images of other kinds, and how far these are from what the model was trained on."""
    lines = ["| | unlabelled images | number | shift | retain lost | changed |", "|---" * 6 + "|"]
    for folder in sorted((RESULTS / "unlabelled-kinds").iterdir()):
        shift = json.loads((folder / "shift.json").read_text())
        runs = {path.stem: Record.load(path) for path in folder.glob("*.json") if path.stem != "shift"}
        for kind, run in sorted(runs.items(), key=lambda one: (shift.get(one[0], -1.0), one[0])):
            count = str(run.unlabelled.images) if run.unlabelled else ""
            far = f"{shift[kind]:.3f}" if kind in shift else ""
            kept = spread(lost([run], "retain_accuracy"))
            cells = [folder.name, KINDS[kind], count, far, kept, changed([run])]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
