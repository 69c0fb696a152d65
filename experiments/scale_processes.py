"""One process against several, gloo on the CPU: largest difference of weights and losses, by number of steps.

    python experiments/scale_processes.py --out experiments/results/scale/processes.json

StructGuard (preset ``paper``, BatchNorm in training mode) on a small ResNet trained on the handwritten digits, 16
images to forget, one thread a process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STEPS = (1, 10, 50)
SETTINGS = [
    "probes.per_image=10",
    "probes.iterations=10",
    "probe_batch=63",
    "lr=0.001",
    "importance_probes=64",
]


def launch(count: int, model: Path, out: Path, cache: Path, steps: int) -> dict[str, Any]:
    """One unlearning by so many processes; its record."""
    start = [sys.executable, "-m"]
    if count > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
    words = ["stakes", "unlearn", "--model", str(model), "--data", "digits", "--forget", "random:16"]
    words += ["--preset", "paper", "--out", str(out), "--cache", str(cache), "--device", "cpu"]
    for setting in (*SETTINGS, f"max_steps={steps}"):
        words += ["--set", setting]
    subprocess.run(start + words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    found: dict[str, Any] = json.loads((out / "record.json").read_text())
    return found


def furthest(one: Path, other: Path) -> float:
    """The largest difference between the weights and statistics of two models."""
    from safetensors.torch import load_file

    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def furthest_loss(one: Path, other: Path) -> float:
    """The largest difference between the losses of two histories."""
    rows = [
        [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
        for path in (one, other)
    ]
    return max(abs(a[name] - b[name]) for a, b in zip(*rows, strict=True) for name in a)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--processes", type=int, default=2)
    given = words.parse_args()

    from stakes.data.sources import open_source
    from stakes.files import write_json
    from stakes.models.recipe import recipe
    from stakes.training import train_checkpoint

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        train_checkpoint(
            open_source("digits"),
            home / "model",
            architecture="resnet10",
            options={"width": 8},
            settings=recipe("demo").with_overrides({"epochs": 4}),
        )
        for steps in STEPS:
            runs = [home / f"one{steps}", home / f"many{steps}"]
            one = launch(1, home / "model", runs[0], home / "cache1", steps)
            many = launch(given.processes, home / "model", runs[1], home / "cache2", steps)
            rows.append(
                {
                    "steps": one["steps"],
                    "same_steps": one["steps"] == many["steps"],
                    "same_probes": one["hashes"]["probes"] == many["hashes"]["probes"],
                    "same_figures_before": one["before"] == many["before"],
                    "same_figures_after": one["after"] == many["after"],
                    "largest_difference_of_a_weight": furthest(*runs),
                    "largest_difference_of_a_loss": furthest_loss(*runs),
                    "seconds": [
                        {phase["name"]: phase["seconds"] for phase in record["phases"]}
                        for record in (one, many)
                    ],
                }
            )
            print(rows[-1], flush=True)
        made = [sorted((home / f"cache{n}").glob("probes/*/*.safetensors")) for n in (1, 2)]
        same = all(a.read_bytes() == b.read_bytes() for a, b in zip(*made, strict=True))
    write_json(given.out, {"processes": given.processes, "probe_files_same_bytes": same, "rows": rows})


if __name__ == "__main__":
    main()
