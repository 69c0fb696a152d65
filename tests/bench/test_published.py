"""The published figures, typed in, against the paper's text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
