"""StructGuard on a ResNet-50 with random weights, 224×224 and 1000 classes: what it takes, beside what --dry-run said.

    python experiments/scale_imagenet.py --out experiments/results/scale/resnet50.json

Images are noise, written as an image folder under the labels that the model gives them, so that there is something to
forget; anchors are seeded. Nothing is to be learned from the accuracies: the run shows that every phase works at this
size, how long it takes, and how much memory. Peaks are looked at every 20 ms, split into the program's own memory and
pages of mapped files, which the system can drop at any time.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from stakes.anchors import Anchors
from stakes.api import unlearn
from stakes.config import RunSettings
from stakes.data.forget import split_forget
from stakes.data.sources import open_source
from stakes.estimate import estimate
from stakes.files import write_json
from stakes.methods import find_method
from stakes.models import Classifier, build_network
from stakes.runtime import versions

CLASSES, SIDE = 1000, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def memory() -> dict[str, int]:
    """Bytes of this process now: of its own, and of files that it has mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "RssFile")))
    return {name: 1024 * int(value.split()[0]) for name, value in values.items()}


class Peak:
    """The most memory inside the block, looked at every few milliseconds."""

    def __enter__(self) -> Peak:
        self.most: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for name, value in memory().items():
                self.most[name] = max(self.most.get(name, 0), value)


def data(folder: Path, classifier: Classifier, k: int, test: int) -> None:
    """Noise as PNG files, in folders of 1000 classes, each image in that of the class the model takes it for."""
    draws = torch.Generator().manual_seed(0)
    for split, count in (("train", 2 * k), ("test", test)):
        for number in range(CLASSES):
            (folder / split / f"c{number:03d}").mkdir(parents=True)
        for row in range(count):
            pixels = torch.randint(0, 256, (SIDE, SIDE, 3), generator=draws, dtype=torch.uint8)
            with torch.no_grad():
                label = int(classifier(pixels.permute(2, 0, 1).unsqueeze(0) / 255).argmax())
            Image.fromarray(pixels.numpy()).save(folder / split / f"c{label:03d}" / f"{row}.png")


def model() -> Classifier:
    """A ResNet-50 of a seed."""
    network = build_network("resnet50", num_classes=CLASSES, seed=0)
    names = [f"c{number:03d}" for number in range(CLASSES)]
    return Classifier.from_network(network, class_names=names, input_size=(3, SIDE, SIDE), mean=MEAN, std=STD)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("k", 2), ("probes", 4), ("iterations", 3), ("steps", 2), ("batch", 4)):
        words.add_argument(f"--{name}", type=int, default=value)
    words.add_argument("--out", type=Path, required=True)
    given = words.parse_args()
    settings = {
        "probes.per_image": given.probes,
        "probes.iterations": given.iterations,
        "probe_batch": given.batch,
        "max_steps": given.steps,
        "importance_probes": given.batch,
    }
    method = find_method("structguard").configure("paper", settings)
    run = RunSettings(device="cpu", eval_batch=8, probe_chunk=8)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        classifier = model()
        data(home / "data", classifier, given.k, test=4)
        source = open_source(home / "data", size=classifier.input_size)
        split = split_forget(
            f"random:{given.k}", source, class_names=classifier.class_names, size=classifier.input_size
        )
        rows = torch.randn(CLASSES, 384, generator=torch.Generator().manual_seed(1))
        anchors = Anchors(torch.nn.functional.normalize(rows, dim=1), classifier.class_names)
        said = estimate(classifier, split, method, run, out=home / "run", cache=home / "cache")
        started, used = time.perf_counter(), time.process_time()
        with Peak() as peak:
            result = unlearn(
                classifier,
                split,
                anchors=anchors,
                method=method,
                out=home / "run",
                cache=home / "cache",
                **run.model_dump(),
            )
        seconds, used = time.perf_counter() - started, time.process_time() - used
        probes = sum(file.stat().st_size for file in (home / "cache").glob("probes/*/*"))
        disk = {
            "probes": probes,
            "run folder": sum(f.stat().st_size for f in (home / "run").rglob("*") if f.is_file()),
        }
    found: dict[str, Any] = {
        "settings": {key: value for key, value in vars(given).items() if key != "out"},
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": versions(),
        "estimate": said.to_json(),
        "seconds": seconds,
        "processor_seconds": used,
        "phases": [phase.model_dump() for phase in result.record.phases],
        "steps": result.record.steps,
        "stop_reason": result.record.stop_reason,
        "peak_bytes": peak.most,
        "disk_bytes": disk,
    }
    write_json(given.out, found)
    print(
        json.dumps({key: found[key] for key in ("seconds", "phases", "peak_bytes", "disk_bytes")}, indent=1)
    )
    print(f"estimated: {said.seconds:.0f} s, {sum(said.memory.values()) / 1e9:.2f} GB of memory")


if __name__ == "__main__":
    main()
