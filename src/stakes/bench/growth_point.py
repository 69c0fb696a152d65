"""One point of `stakes.bench.growth`, in a process of its own: an order as JSON comes in, a point as JSON goes out."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """Unlearn in memory, and say what it took.

    Args:
        order: ``model``, ``data``, ``forget``, ``seed``, ``device``, ``precision``, ``allow_pickle``, ``variant``,
            ``settings``, ``anchors`` (a file) and ``budget`` (bytes of probes to be held in memory).
    """
    from stakes import probe_store
    from stakes.anchors.anchors import Anchors
    from stakes.api import unlearn
    from stakes.bench.speed import variant
    from stakes.data.forget import ForgetSplit, split_forget
    from stakes.data.sources import open_source
    from stakes.models.checkpoint import load_checkpoint

    probe_store.IN_MEMORY_BYTES = order["budget"]
    classifier = load_checkpoint(order["model"], allow_pickle=order["allow_pickle"])
    size, names = classifier.input_size, classifier.class_names
    source = open_source(order["data"], size=size)
    split = split_forget(order["forget"], source, class_names=names, size=size, seed=order["seed"])
    # Test and retain images are the same whatever is to be forgotten.
    forget = ForgetSplit(split.forget)
    chosen = variant(order["variant"], settings=order["settings"])
    anchors = Anchors.load(Path(order["anchors"])) if order["anchors"] else None
    with tempfile.TemporaryDirectory() as cache:
        wall, processor = time.perf_counter(), time.process_time()
        result = unlearn(
            classifier,
            forget,
            anchors=anchors,
            method=chosen.method,
            cache=cache,
            seed=order["seed"],
            device=order["device"],
            precision=order["precision"],
        )
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "seconds": wall,
        "processor_seconds": processor,
        "peak_bytes": peak_bytes(),
        "steps": result.record.steps,
        "passes": sum(phase.forward_images + phase.backward_images for phase in result.record.phases),
        "phases": {phase.name: phase.seconds for phase in result.record.phases},
    }


def peak_bytes() -> int:
    """The most memory that this process has had, mapped files included."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: there a child starts with the peak of its parent.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main() -> None:
    """Read the order from stdin; write the point, or what is wrong, to stdout."""
    from stakes.errors import StakesError

    try:
        found = measure(json.loads(sys.stdin.read()))
    except StakesError as error:
        found = {"error": str(error)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
