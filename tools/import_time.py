"""Seconds from nothing to `import stakes` and to `stakes --help`, each the median of fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 11
CALLS = {
    "python (nothing)": ["-c", "pass"],
    "import stakes": ["-c", "import stakes"],
    "stakes --help": [
        "-c",
        "import sys; sys.argv = ['stakes', '--help']; from stakes.cli import main; main()",
    ],
}


def seconds(words: list[str]) -> float:
    """Wall time of one fresh process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    for name, words in CALLS.items():
        seconds(words)  # files into the page cache
        taken = [seconds(words) for _ in range(ROUNDS)]
        print(f"{name:20} {statistics.median(taken):.3f} s  (best {min(taken):.3f})")
