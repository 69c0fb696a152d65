"""The blocks of docs/results.md and README.md that are no whole table of a grid: each a function of the records."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

from frontier import changed, grouped, lost, records, spread, table

from stakes.bench.folder import BenchFolder
from stakes.bench.published import PUBLISHED
from stakes.records import Record
from stakes.tune.record import TuneRecord

RESULTS = Path(__file__).resolve().parent / "results"

ON_THE_WAY = (
    "milestones/cifar10-k16",
    "milestones/cifar10-k64",
    "milestones/cifar10-k128",
    "milestones/cifar10-k256",
)
PARTS = {
    "structguard": "`default`",
    "alignment": "with the paper's alignment (`align_weight=10 align_axis=instance`)",
    "nothing-spared": "inputs not spared (lr .00025; at .0025 it diverges within ten steps)",
    "adversarial-probes": "adversarial probes near the data (ε 1, 10 steps, as many) in place of inverted ones",
    "no-mixing": "probes not cut and mixed",
    "no-schedule": "no schedule: stopped when forgotten",
    "no-way-back": "no way back",
    "means-stay": "running means stay",
    "batchnorm-moves": "BatchNorm in training mode, means do not follow",
    "no-copies": "no copies",
}


# Without more in its title: lr .0025 and 400 steps at most, as `default` had them.
MANY_CLASSES = {
    "structguard": "held to answers",
    "default-logits": "held to ten logits",
    "lr-1e-2": "held to answers, lr .01",
    "default": "held to ten logits, lr .005, 800 steps at most: `default`",
    "default-logits-lr-1e-2": "held to ten logits, lr .01",
    "steps-1600": "held to answers, 1,600 steps at most",
    "default-logits-steps-1600": "held to ten logits, 1,600 steps at most",
}

PROBLEMS = (("cifar10", "table2-cifar10"), ("faces10", "table3-faces10"))

# What the presets were where more than 16 images are asked for.
ANSWERS = ("default-before-logits", "thorough-before-logits")
FORMS = {
    "default": {
        ANSWERS[0]: "held to answers",
        "default-before-lr": "held to logits",
        "": "and larger steps: as it is",
    },
    "thorough": {
        ANSWERS[1]: "held to answers, weight 6, schedule of 500",
        "": "held to logits, larger steps, weight 32, schedule of 200: as it is",
    },
}


NETWORKS = {"vit": "ViT", "convnext": "ConvNeXt", "resnet": "ResNet-10, BatchNorm"}
BEFORE_WITHOUT = "without-batchnorm-before"
WITHOUT_BATCHNORM = {
    ("vit", "no-statistics"): "as it was, probes without channel statistics",
    ("vit", f"{BEFORE_WITHOUT}/default"): "as it was: 100 steps, weights rise after them",
    ("vit", "late-pressure"): "250 steps, weights rise after them",
    ("vit", "default"): "as it is: 250 steps, weights rise from the first on",
    ("vit", "with-unlabelled"): "as it is, with 2,000 unlabelled images",
    ("convnext", "no-statistics"): "as it was, probes without channel statistics",
    ("convnext", f"{BEFORE_WITHOUT}/default"): "as it was",
    ("convnext", "late-pressure"): "250 steps, weights rise after them",
    ("convnext", "default"): "as it is",
    ("convnext", "with-unlabelled"): "as it is, with 2,000 unlabelled images",
    ("resnet", "default"): "as it is",
}


def frontier() -> str:
    """L2UL and StructGuard on CIFAR-10, with what they cost."""
    groups = grouped(records(RESULTS / "table2-cifar10"))
    shown = {key: runs for key, runs in groups.items() if key[0].split()[0] in ("l2ul", "structguard")}
    return table({key: runs for key, runs in shown.items() if "tuned" not in key[0]})


def readme() -> str:
    """Presets `default`, `thorough` and `paper` on CIFAR-10 beside the published figure."""
    published = PUBLISHED["cifar10"]
    lines = [
        "| preset | k | n | test | retain | forget | changed | steps | paper's test (before: 92.59) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups = grouped(records(RESULTS / "table2-cifar10"))
    for preset in ("default", "thorough", "paper"):
        for k, printed in zip(published.k, published.values["test"]["structguard"], strict=True):
            if not (runs := groups.get((f"structguard {preset}", k))):
                continue
            most = "**" if preset == "default" else ""
            cells = [
                f"`{preset}`",
                str(k),
                str(len(runs)),
                f"{most}{spread([run.after.test_accuracy for run in runs])}{most}",
                f"{most}{spread([run.after.retain_accuracy or 0.0 for run in runs])}{most}",
                f"{max(run.after.forget_accuracy for run in runs):.0f}",
                spread([run.analyses["changes"]["mean_after"] or 0.0 for run in runs], digits=1),
                _steps(runs),
                f"{printed:.2f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ablation() -> str:
    """The parts of the preset `default`: faces10 at k = 12, CIFAR-10 at k = 16."""
    found = BenchFolder(RESULTS / "ablation-default").records().values()
    lines = [
        "| | faces10, k = 12: test | retain | CIFAR-10, k = 16: test | retain | steps |",
        "|---|---|---|---|---|---|",
    ]
    for row, title in PARTS.items():
        cells, steps = [title], list[int]()
        for k in (12, 16):
            runs = [run for run in found if run.request["row"] == row and run.after.forget_images == k]
            if not runs or not all(run.forgotten for run in runs):
                raise SystemExit(f"ablation {row}, k = {k}: the page says that all images are forgotten")
            cells.append(spread([run.after.test_accuracy for run in runs]))
            cells.append(spread([run.after.retain_accuracy for run in runs]))
            steps += [run.steps for run in runs]
        cells.append(str(steps[0]) if len(set(steps)) == 1 else f"{min(steps)} to {max(steps)}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed() -> str:
    """Preset `default` against L2UL at k = 256, phase by phase."""
    ours, theirs = json.loads((RESULTS / "speed" / "k256.json").read_text())["variants"]
    lines = [
        "| phase | `default`, seconds | over bare passes | L2UL, seconds | over bare passes | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for one, other in zip(ours["phases"], theirs["phases"], strict=True):
        numbers = [f"{phase['seconds']:,.0f} | {phase['overhead']:.2f} ×" for phase in (one, other)]
        numbers.append(f"{one['seconds'] / other['seconds']:.3f}")
        lines.append(f"| {one['name']} | {' | '.join(numbers)} |")
    whole = ours["seconds"] / theirs["seconds"]
    lines.append(f"| total | {ours['seconds']:,.0f} | | {theirs['seconds']:,.0f} | | **{whole:.3f}** |")
    passes = [f"{one['forward']:,} / {one['backward']:,}" for one in (ours, theirs)]
    shares = [ours[way] / theirs[way] for way in ("forward", "backward")]
    ratio = " / ".join(f"{share:.3f}" for share in shares)
    lines.append(f"| total, image passes forward / backward | {passes[0]} | | {passes[1]} | | {ratio} |")
    return "\n".join(lines)


def milestones() -> str:
    """Points of test accuracy lost on the way of `default`, in brackets the step."""
    shares = (50, 80, 95, 100)
    lines = ["| k | " + " | ".join(f"{share} %" for share in shares) + " | the end |", "|---" * 6 + "|"]
    for path in ON_THE_WAY:
        run = Record.load(RESULTS / f"{path}.json")
        found = run.analyses["milestones"]
        cells = [str(run.after.forget_images)]
        cells += [
            f"{found[f'test_lost_at_{share}_percent_points']:.1f} ({found[f'step_at_{share}_percent']})"
            for share in shares
        ]
        lost = (run.before.test_accuracy or 0.0) - (run.after.test_accuracy or 0.0)
        lines.append("| " + " | ".join([*cells, f"{lost:.1f} ({run.steps})"]) + " |")
    return "\n".join(lines)


def forms_of(preset: str) -> str:
    """What a preset was where more than 16 images are asked for, and what it is: three seeds each."""
    lines = [f"| | k | `{preset}` | n | test lost | retain lost | changed | steps |", "|---" * 8 + "|"]
    forms = FORMS[preset]
    for data, table_of in PROBLEMS:
        found = {form: grouped(records(RESULTS / form / table_of)) for form in forms}
        for group in found[next(iter(forms))]:
            for form, title in forms.items():
                runs = found[form][group]
                _none_left(runs, f"{preset}, {data}, k = {group[1]}")
                cells = [data, str(group[1]), title, str(len(runs)), *beside(runs), _steps(runs)]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _none_left(runs: list[Record], where: str) -> None:
    if not all(run.forgotten for run in runs):
        raise SystemExit(f"{where}: the page says that all images are forgotten")


def _steps(runs: list[Record]) -> str:
    return " ".join(str(run.steps) for run in runs)


def beside(*groups: list[Record]) -> list[str]:
    """Test and retain accuracy lost, and copies left, of runs beside what they are compared with."""
    sides = ("test_accuracy", "retain_accuracy")
    cells = [spread(lost(some, side)) if some else "" for side in sides for some in groups]
    return cells + [changed(some) for some in groups]


def many_classes() -> str:
    """Preset `default` on 136 classes, as it is, and with larger or more steps; one seed."""
    found = {(run.request["row"], run.after.forget_images): run for run in records(RESULTS / "characters136")}
    lines = ["| | k | test | retain | forget | changed | steps |", "|---" * 7 + "|"]
    for k in (64, 256):
        for row, title in MANY_CLASSES.items():
            if not (run := found.get((row, k))):
                continue
            after = [run.after.test_accuracy, run.after.retain_accuracy]
            cells = [title, str(k), *(f"{value:.2f}" for value in after), f"{run.after.forget_accuracy:.1f}"]
            lines.append("| " + " | ".join([*cells, changed([run]), str(run.steps)]) + " |")
    return "\n".join(lines)


def without_batchnorm() -> str:
    """Small networks with and without BatchNorm, the latter also with what the preset was there."""
    groups = dict[tuple[str, str], list[Record]]()
    for folder, before in (("without-batchnorm", ""), (BEFORE_WITHOUT, f"{BEFORE_WITHOUT}/")):
        for run in records(RESULTS / folder):
            groups.setdefault((str(run.request["model"]), f"{before}{run.request['row']}"), []).append(run)
    lines = [
        "| network | | n | test before | test | retain before | retain | steps |",
        "|---" * 8 + "|",
    ]
    for (model, row), title in WITHOUT_BATCHNORM.items():
        runs = groups[model, row]
        _none_left(runs, f"{model}, {row}")
        cells = [NETWORKS[model], title, str(len(runs))]
        for name in ("test_accuracy", "retain_accuracy"):
            cells += [
                spread([getattr(one, name) for one in ends])
                for ends in zip(*((run.before, run.after) for run in runs), strict=True)
            ]
        lines.append("| " + " | ".join([*cells, _steps(runs)]) + " |")
    return "\n".join(lines)


def tuned(folder: str, *searches: str) -> str:
    """What each search chose, and test accuracy with it; in brackets with the settings it started from."""
    found = list(BenchFolder(RESULTS / folder).records().values())
    ks = sorted({run.after.forget_images for run in found})
    lines = [
        "| | before → chosen | agreement, % | " + " | ".join(f"test at k = {k}" for k in ks) + " |",
        "|---" * (len(ks) + 3) + "|",
    ]
    for search in searches:
        for row, one in TuneRecord.load(RESULTS / "tune" / f"{search}.json").rows.items():
            first, best = one.trials[0], one.best
            if best is None or best.settings == first.settings:
                lines.append(f"| {row} | nothing better found | {first.agreement:.1f} |" + " |" * len(ks))
                continue
            changes = [
                f"{name} {first.settings[name]} → {_plain(value)}"
                for name, value in best.settings.items()
                if value != first.settings[name]
            ]
            start = f"{first.agreement:.1f}{'†' if first.forget_accuracy else ''}"
            cells = [row, ", ".join(changes), f"{start} → {best.agreement:.1f}"]
            for k in ks:
                with_it, without = (_tests(found, name, k) for name in (f"{row}-tuned", row))
                old = f" ({mean(without):.2f})" if without else ""
                cells.append((spread(with_it) if with_it else "–") + old)
            lines.append("| " + " | ".join(cells) + " |")
    cells = [spread(_tests(found, "structguard", k)) for k in ks]
    lines.append("| StructGuard, `default` | | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _tests(found: list[Record], row: str, k: int) -> list[float]:
    return [
        run.after.test_accuracy or 0.0
        for run in found
        if run.request["row"] == row and run.after.forget_images == k
    ]


def _plain(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
