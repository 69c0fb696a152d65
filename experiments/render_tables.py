"""The tables of the documentation, from the records.

    python experiments/render_tables.py          # experiments/tables, and the blocks in docs/results.md and README.md
    python experiments/render_tables.py --check  # writes nothing; exit code 1 and the names of those that differ

A block stands between ``<!-- table NAME -->`` and ``<!-- /table -->``. Of the large tables the page has test accuracy
alone; whole they stand in ``experiments/tables``. As LaTeX or HTML: ``stakes table --format``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from frontier import changed, grouped, lost, records, spread, table

from stakes.bench.folder import BenchFolder
from stakes.bench.published import PUBLISHED
from stakes.bench.render import render
from stakes.bench.sheet import Layout, picked, sheets
from stakes.records import Record
from stakes.tune.record import TuneRecord

HERE = Path(__file__).resolve().parent
RESULTS, TABLES = HERE / "results", HERE / "tables"
PAGES = (HERE.parent / "docs" / "results.md", HERE.parent / "README.md")


@dataclass(frozen=True)
class Table:
    """What ``stakes table`` is asked for; None: all rows, every k."""

    folders: tuple[str, ...]
    layout: Layout
    rows: tuple[str, ...] | None = None
    k: tuple[int, ...] | None = None

    def text(self) -> str:
        """The table in Markdown."""
        found = [BenchFolder(RESULTS / folder).records() for folder in self.folders]
        chosen = picked({cell: record for one in found for cell, record in one.items()}, self.rows, self.k)
        return render(sheets(chosen, self.layout), self.layout, "markdown")


def _of_256(layout: Layout, *rows: str) -> Table:
    rows = ("before", *rows, "structguard-paper")
    return Table(("table2-cifar10", "tables4-6-cifar10"), layout, rows, (256,))


WHOLE = {
    "table2-cifar10": Table(("table2-cifar10",), "table2"),
    "published-before-cifar10": Table(("published-before-cifar10",), "table2"),
    "table3-faces10": Table(("table3-faces10",), "table3"),
    "table4-cifar10": _of_256("table4", "l2ul", "visual"),
    "table5-cifar10": _of_256("table5", "no-alignment", "no-regularisation", "no-head-penalty"),
    "table6-cifar10": _of_256("table6", "mse", "mmd", "kl", "wasserstein"),
    "small-digits": Table(("small-digits",), "plain"),
}
ON_THE_WAY = (
    "milestones/cifar10-k16",
    "audits/cifar10-k64-structguard-before-logits",
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

# What `default` was where more than 16 images are asked for; runs with unlabelled images are of the first form.
ANSWERS = "default-before-logits"
FORMS = {
    ANSWERS: "held to answers",
    "default-before-lr": "held to logits",
    "": "and larger steps: as it is",
}

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


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path, text in rendered():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    print("\n".join(f"{'differs' if check else 'written'}: {name}" for name in stale) or "nothing to change")
    return int(check and bool(stale))


def rendered() -> Iterator[tuple[Path, str]]:
    """Every file and what it should hold."""
    for name, one in WHOLE.items():
        yield TABLES / f"{name}.md", one.text()
    for page in PAGES:
        yield page, filled(page.read_text(encoding="utf-8"))


def filled(page: str) -> str:
    """A page with its blocks made anew."""
    block = re.compile(r"(<!-- table ([a-z0-9-]+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)

    def made(found: re.Match[str]) -> str:
        # One that never ends would take the page up to the end of the next with it.
        if "<!-- table" in found[3]:
            raise SystemExit(f"table {found[2]}: its end, <!-- /table -->, is missing")
        return f"{found[1]}{_block(found[2])}\n{found[4]}"

    return block.sub(made, page)


def _block(name: str) -> str:
    made: dict[str, Callable[[], str]] = {
        "frontier": frontier,
        "ablation": ablation,
        "readme": readme,
        "speed": speed,
        "milestones": milestones,
        "logits": logits,
        "larger-steps": larger_steps,
        "many-classes": many_classes,
        "unlabelled": unlabelled,
        "unlabelled-few": unlabelled_few,
        "unlabelled-kinds": unlabelled_kinds,
        "tuned-faces10": lambda: tuned("table3-faces10", "faces10"),
        "tuned-cifar10": lambda: tuned("table2-cifar10", "cifar10", "cifar10-probes"),
    }
    if name in made:
        return made[name]()
    lines = [line for line in WHOLE[name].text().splitlines() if line.startswith("|")]
    titles = [at for at, line in enumerate(lines) if line.startswith("| *")]
    if not titles:
        return "\n".join(lines)
    # The first block is test accuracy, as the page says; its title goes.
    return "\n".join(lines[: titles[0]] + lines[titles[0] + 1 : titles[1]])


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


def logits() -> str:
    """Preset `default` of more than 16 images, held to answers, to logits, and with larger steps."""
    lines = ["| | k | `default` | n | test lost | retain lost | changed | steps |", "|---" * 8 + "|"]
    for data, table_of in PROBLEMS:
        found = {form: grouped(records(RESULTS / form / table_of)) for form in FORMS}
        for group in found[ANSWERS]:
            for form, title in FORMS.items():
                runs = found[form][group]
                _none_left(runs, f"{data}, k = {group[1]}")
                cells = [data, str(group[1]), title, str(len(runs)), *_beside(runs), _steps(runs)]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def larger_steps() -> str:
    """Preset `thorough` with logits held and larger steps, beside itself on the same seeds."""
    lines = [
        "| | k | n | test lost | as it is | retain lost | as it is | changed | as it is | steps | as it is |",
        "|---" * 11 + "|",
    ]
    for data, table_of in PROBLEMS:
        as_it_is = grouped(records(RESULTS / table_of))
        for (name, k), runs in grouped(records(RESULTS / "thorough-larger-steps" / table_of)).items():
            others = [run for run in as_it_is[name, k] if run.seed in {one.seed for one in runs}]
            _none_left(runs + others, f"thorough, {data}, k = {k}")
            cells = [data, str(k), str(len(runs)), *_beside(runs, others), _steps(runs), _steps(others)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _none_left(runs: list[Record], where: str) -> None:
    if not all(run.forgotten for run in runs):
        raise SystemExit(f"{where}: the page says that all images are forgotten")


def _steps(runs: list[Record]) -> str:
    return " ".join(str(run.steps) for run in runs)


def _beside(*groups: list[Record]) -> list[str]:
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


def unlabelled() -> str:
    """Presets with and without unlabelled images, points lost and copies left."""
    lines = [
        "| | k | preset | n | test lost | without | retain lost | without | changed | without |",
        "|---" * 10 + "|",
    ]
    for data, table_of in PROBLEMS:
        with_them = grouped(records(RESULTS / f"unlabelled-{data}"))
        without = grouped(records(RESULTS / table_of)) | grouped(records(RESULTS / ANSWERS / table_of))
        for (name, k), runs in with_them.items():
            others = without.get((name.removesuffix(" with unlabelled images"), k), [])
            cells = [data, str(k), f"`{name.split()[1]}`", str(len(runs)), *_beside(runs, others)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def unlabelled_few() -> str:
    """What `default` loses after 64 faces, by the number of unlabelled images."""
    by_count: dict[int, list[Record]] = {}
    for folder in (f"{ANSWERS}/table3-faces10", "unlabelled-few-faces10", "unlabelled-faces10"):
        for run in records(RESULTS / folder):
            if (run.method, run.preset, run.after.forget_images) == ("structguard", "default", 64):
                by_count.setdefault(run.unlabelled.images if run.unlabelled else 0, []).append(run)
    lines = ["| unlabelled images | n | test lost | retain lost |", "|---" * 4 + "|"]
    for count, some in sorted(by_count.items()):
        cells = [spread(lost(some, side)) for side in ("test_accuracy", "retain_accuracy")]
        lines.append(f"| {count} | {len(some)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def unlabelled_kinds() -> str:
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


def _data_of(record: Record) -> str:
    return str(record.request["data"]).rpartition("/")[2]


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


if __name__ == "__main__":
    sys.exit(main())
