"""The block of docs/results.md about requests one after another."""

from __future__ import annotations

import json
from typing import Any

from blocks import RESULTS

FORMS = {
    "as it is": "default-in-sequence.json",
    "one seed for all runs": "default-in-sequence-one-seed.json",
    "as it was": "default-reference-first.json",
}


def sequence() -> str:
    """Points lost after each request since before the first, in each form, and images that came back."""
    rows = {form: _rows(name) for form, name in FORMS.items()}
    heads = [f"{form}: test lost | retain lost | back (repairs)" for form in FORMS]
    lines = [f"| after request | {' | '.join(heads)} |", "|---" * (1 + 3 * len(FORMS)) + "|"]
    for number in range(max(map(len, rows.values()))):
        cells = [" | ".join(found[number]) if number < len(found) else " |  | " for found in rows.values()]
        lines.append(f"| {number + 1} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(name: str) -> list[tuple[str, str, str]]:
    found = json.loads((RESULTS / "sequential-cifar10" / name).read_text())["sequential"]
    return [(_lost(found, row, "test"), _lost(found, row, "retain"), _back(row)) for row in found]


def _lost(found: list[dict[str, Any]], row: dict[str, Any], of: str) -> str:
    return f"{found[0]['before'][f'{of}_accuracy'] - row['after'][f'{of}_accuracy']:.2f}"


def _back(row: dict[str, Any]) -> str:
    back = str(row["came_back_images"])
    return f"{back} ({row['repairs']})" if row["repairs"] else back
