"""The tables of the documentation, from the records.

    python experiments/render_tables.py          # experiments/tables, and the blocks in docs/results.md and README.md
    python experiments/render_tables.py --check  # writes nothing; exit code 1 and the names of those that differ

A block stands between ``<!-- table NAME -->`` and ``<!-- /table -->``. Of the large tables the page has test accuracy
alone; whole they stand in ``experiments/tables``. As LaTeX or HTML: ``stakes table --format``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import blocks
import blocks_sequence
import blocks_unlabelled
from blocks import RESULTS

from stakes.bench.folder import BenchFolder
from stakes.bench.render import render
from stakes.bench.sheet import Layout, picked, sheets

HERE = Path(__file__).resolve().parent
TABLES = HERE / "tables"
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
BLOCKS: dict[str, Callable[[], str]] = {
    "frontier": blocks.frontier,
    "ablation": blocks.ablation,
    "readme": blocks.readme,
    "speed": blocks.speed,
    "milestones": blocks.milestones,
    "logits": lambda: blocks.forms_of("default"),
    "thorough": lambda: blocks.forms_of("thorough"),
    "many-classes": blocks.many_classes,
    "without-batchnorm": blocks.without_batchnorm,
    "sequence": blocks_sequence.sequence,
    "unlabelled": blocks_unlabelled.by_request,
    "unlabelled-few": blocks_unlabelled.by_number,
    "unlabelled-kinds": blocks_unlabelled.by_kind,
    "tuned-faces10": lambda: blocks.tuned("table3-faces10", "faces10"),
    "tuned-cifar10": lambda: blocks.tuned("table2-cifar10", "cifar10", "cifar10-probes"),
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
    if name in BLOCKS:
        return BLOCKS[name]()
    lines = [line for line in WHOLE[name].text().splitlines() if line.startswith("|")]
    titles = [at for at, line in enumerate(lines) if line.startswith("| *")]
    if not titles:
        return "\n".join(lines)
    # The first block is test accuracy, as the page says; its title goes.
    return "\n".join(lines[: titles[0]] + lines[titles[0] + 1 : titles[1]])


if __name__ == "__main__":
    sys.exit(main())
