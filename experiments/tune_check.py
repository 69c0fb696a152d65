"""How far the order of settings on validation probes is that on test images: each trial of a search, made again.

    STAKES_SHARED=/folder python experiments/tune_check.py experiments/tune-faces10.yaml \\
        experiments/results/tune/faces10.json --out check.json

Looks at test images, so nothing may be chosen by what it says. Prints Spearman's ρ of agreement and test accuracy over
the trials that forgot everything, for each row and for all.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from stakes.bench.cells import Cell, expand
from stakes.bench.opening import Opening
from stakes.files import write_json
from stakes.tune.plan import load_plan
from stakes.tune.record import TuneRecord
from stakes.tune.trials import unlearned


def measured(opening: Opening, cell: Cell, settings: dict[str, Any], cache: Path) -> float:
    """Test accuracy of one request with these settings, percent."""
    return float(unlearned(opening, cell, settings, cache=cache, test=True).record.test_accuracy or 0)


def rank(pairs: list[list[float]]) -> dict[str, float | int]:
    """Spearman's ρ of agreement and test accuracy."""
    one, two = zip(*pairs, strict=True)
    return {"rho": float(spearmanr(one, two).statistic), "trials": len(pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/tune-check"))
    given = parser.parse_args()
    plan, record = load_plan(given.plan), TuneRecord.load(given.record)
    opening, cells = Opening(plan), expand(plan)
    done: dict[str, list[list[float]]] = (
        json.loads(given.out.read_text())["pairs"] if given.out.is_file() else {}
    )
    for row, searched in record.rows.items():
        able = [trial for trial in searched.trials if trial.score is not None and trial.score >= 0]
        for trial in able[len(done.setdefault(row, [])) :]:
            own = [cell for cell in cells if cell.entry.row == row]
            test = statistics.fmean(measured(opening, cell, trial.settings, given.cache) for cell in own)
            done[row].append([float(trial.agreement or 0), test])
            print(f"{row}: agreement {trial.agreement:.2f}, test {test:.2f}, {trial.settings}", flush=True)
            ranks = {name: rank(pairs) for name, pairs in done.items() if len(pairs) > 2}
            everything = [pair for pairs in done.values() for pair in pairs]
            ranks["all"] = rank(everything) if len(everything) > 2 else {}
            write_json(given.out, {"ranks": ranks, "pairs": done})
    print(json.dumps(json.loads(given.out.read_text())["ranks"], indent=1))


if __name__ == "__main__":
    main()
