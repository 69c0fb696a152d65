"""The published figures, typed in, against the paper's text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stakes.bench.ablations import ALIGNMENTS, PARTS, PUBLISHED_ROWS
from stakes.bench.published import BLOCKS, NAMES, PUBLISHED
from stakes.methods import METHODS


def test_every_block_has_every_method_and_k() -> None:
    for published in PUBLISHED.values():
        assert set(published.values) == set(BLOCKS)
        for rows in published.values.values():
            assert set(rows) == set(NAMES.values()) <= set(METHODS)
            assert all(len(row) == len(published.k) for row in rows.values())
            assert all(0 <= value <= 100 for row in rows.values() for value in row)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("start", "names"), [("Table 2.", ("cifar10", "cifar100", "imagenet")), ("Table 3.", ("lacuna10",))]
)
def test_they_are_the_papers(shared: Path, start: str, names: tuple[str, ...]) -> None:
    text = (shared / "paper" / "stake-the-points.txt").read_text(encoding="utf-8")
    lines = text[text.index(start) :].splitlines()
    sets = [PUBLISHED[name] for name in names]
    heads = [[int(k) for k in re.findall(r"k = (\d+)", line)] for line in lines[:6]]
    assert [k for one in sets for k in one.k] in heads
    blocks = iter(BLOCKS)
    block, read = next(blocks), 0
    for line in lines[:40]:
        cells = [re.sub(r"</?b>", "", cell).strip() for cell in line.split("\t")]
        if len(cells) < 3 or cells[1] not in NAMES:
            continue
        if cells[0].startswith("$") and read:
            block = next(blocks)
        values = [float(cell) for cell in cells[2:] if cell]
        ours = [value for one in sets for value in one.values[block][NAMES[cells[1]]]]
        assert values == ours, f"{block}, {cells[1]}"
        read += 1
    assert read == len(BLOCKS) * len(NAMES)


VARIANTS = {
    "L2UL": "l2ul", "Ours-vis": "visual", "Ours": "semantic",
    "MSE": "mse", "MMD": "mmd", "KL": "kl", "WD": "wasserstein", "CS (Ours)": "cosine",
}  # fmt: skip


@pytest.mark.realdata
@pytest.mark.parametrize("table", list(PUBLISHED_ROWS))
def test_variants_are_the_papers(shared: Path, table: str) -> None:
    text = (shared / "paper" / "stake-the-points.txt").read_text(encoding="utf-8")
    lines = text[text.index(f"Table {table[-1]}.") :].splitlines()[:12]
    sets = list(PUBLISHED_ROWS[table].values())
    assert all(f"{one.title}" in "\n".join(lines) for one in sets)
    parts = iter(PARTS)
    read = 0
    for line in lines:
        cells = [re.sub(r"</?b>", "", cell).strip() for cell in line.split("\t")]
        values = [float(cell) for cell in cells if re.fullmatch(r"\d+\.\d+", cell)]
        if len(values) != 6:
            continue
        row = next(parts) if table == "table5" else VARIANTS[cells[0]]
        assert values == [one.values[block][row][0] for one in sets for block in BLOCKS], row
        read += 1
    assert read == len(sets[0].values["test"])


def test_the_rows_of_the_ablation_are_told_by_the_papers_words() -> None:
    small, large = (
        {row: one.values["test"][row][0] for row in PARTS} for one in PUBLISHED_ROWS["table5"].values()
    )
    for found in (small, large):
        assert min(found, key=found.__getitem__) == "no-alignment", "removing SA causes the largest drop"
        assert max(found, key=found.__getitem__) == "full"
    assert small["no-head-penalty"] < small["no-regularisation"], "CIFAR-10: CR matters more than SR"
    assert large["no-regularisation"] < large["no-head-penalty"], "CIFAR-100: SR matters more than CR"


def test_the_whole_method_is_one_figure_in_all_tables() -> None:
    for name, row in (("table4", "semantic"), ("table5", "full"), ("table6", "cosine")):
        for data, published in PUBLISHED_ROWS[name].items():
            for block in BLOCKS:
                assert published.value(block, row, 256) == PUBLISHED[data].value(block, "structguard", 256)
    assert set(PUBLISHED_ROWS["table6"]["cifar10"].values["test"]) == set(ALIGNMENTS)
