"""Peak memory and time against the number of images to forget, the side of an image, and the size of the data.

    python experiments/scale_memory.py --out experiments/results/scale/memory.json

Every line of the result is one process of its own. Budgets (probes, encoded and decoded images held in memory) are
lowered to 64 MiB, so that small sets stand for large ones. ``probes``: a probe set is made with one step of PGD and a
network of one layer (the network is not what is measured), then read in random batches of 256 as a method reads it.
``stream``: a Parquet file of noise is hashed and read image by image. ``index``: an image folder is opened; nothing is
decoded. Seconds are those of the processor, since the machine may have been shared.
Peaks are split into the program's own memory and pages of mapped files, which the system drops when it needs them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CASES: list[dict[str, Any]] = [
    *({"what": "probes", "k": k, "side": 224, "per_image": 20} for k in (8, 16, 32, 64)),
    *({"what": "probes", "k": 16, "side": side, "per_image": 20} for side in (56, 112)),
    {"what": "probes", "k": 4, "side": 224, "per_image": 200},
    *({"what": "stream", "images": count, "side": 224} for count in (800, 2400)),
    *({"what": "index", "images": count} for count in (10_000, 50_000)),
]
BUDGET = 64 * 2**20


def probes(home: Path, k: int, side: int, per_image: int) -> dict[str, float]:
    import torch
    from scale_imagenet import Peak
    from torch import nn

    from stakes import probe_store
    from stakes.config import ProbeSettings
    from stakes.data.images import ImageSet
    from stakes.models import Classifier

    probe_store.IN_MEMORY_BYTES = BUDGET
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (k, 3, side, side), generator=draws, dtype=torch.uint8)
    names = [str(number) for number in range(10)]
    forget = ImageSet.from_tensors(pixels, torch.arange(k) % 10, names)
    layers = nn.Sequential(nn.AvgPool2d(side // 4), nn.Flatten(), nn.Linear(48, 10))
    model = Classifier.from_network(layers, class_names=names, input_size=(3, side, side))
    found: dict[str, float] = {}
    with Peak() as peak:
        started = time.process_time()
        made = probe_store.ProbeStore(home).build(
            model, forget, ProbeSettings(per_image=per_image, iterations=1), chunk=per_image
        )
        found["seconds_to_make"] = time.process_time() - started
    found |= {f"making_{name}": value for name, value in peak.most.items()}
    with Peak() as peak:
        started = time.process_time()
        order = torch.randperm(len(made), generator=draws)[: 10 * 256].split(256)
        for part in order:
            made.batch(part)
        found["seconds_a_batch_of_256"] = (time.process_time() - started) / len(order)
    found |= {f"reading_{name}": value for name, value in peak.most.items()}
    found["bytes_on_disk"] = sum(file.stat().st_size for file in home.rglob("*.safetensors"))
    return found


def stream(home: Path, images: int, side: int) -> dict[str, float]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image
    from scale_imagenet import Peak

    from stakes.data import open_source, parquet, stores

    parquet.IN_MEMORY_BYTES = stores.CACHE_BYTES = BUDGET
    draws = np.random.default_rng(0)
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary()}), "label": pa.int64()})
    with pq.ParquetWriter(home / "test.parquet", schema) as writer:
        for start in range(0, images, 100):
            rows = []
            for row in range(start, start + 100):
                file = home / "one.png"
                Image.fromarray(draws.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file)
                rows.append({"image": {"bytes": file.read_bytes()}, "label": row % 10})
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    with Peak() as peak:
        started = time.process_time()
        test = open_source(home).test
        if test is None:
            raise SystemExit("no test split")
        test.fingerprint()
        for start in range(0, images, 50):
            test.batch(slice(start, start + 50))
        seconds = time.process_time() - started
    size = (home / "test.parquet").stat().st_size
    return {"bytes_on_disk": size, "seconds": seconds} | {f"reading_{k}": v for k, v in peak.most.items()}


def index(home: Path, images: int) -> dict[str, float]:
    from scale_imagenet import Peak, memory

    from stakes.data import open_source

    for number in range(1000):
        folder = home / "train" / f"c{number:03d}"
        folder.mkdir(parents=True)
        for row in range(images // 1000):
            (folder / f"{row}.png").touch()
    open_source("digits")
    before = memory()["RssAnon"]
    with Peak() as peak:
        started = time.process_time()
        source = open_source(home, size=(3, 224, 224))
        seconds = time.process_time() - started
    if source.train is None:
        raise SystemExit("no training split")
    return {"seconds": seconds, "bytes_an_image": (peak.most["RssAnon"] - before) / images}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--out", type=Path)
    words.add_argument(
        "--only", choices=("probes", "stream", "index"), help="measure that kind anew, keep the rest"
    )
    words.add_argument("--case", help="one case as JSON; for this script's own use")
    given = words.parse_args()
    if given.case:
        case = json.loads(given.case)
        work = {"probes": probes, "stream": stream, "index": index}[case.pop("what")]
        with tempfile.TemporaryDirectory() as home:
            print(json.dumps(work(Path(home), **case)))
        return
    from stakes.files import write_json

    rows = []
    if given.only:
        rows = [row for row in json.loads(given.out.read_text()) if row["what"] != given.only]
    for case in [case for case in CASES if given.only in (None, case["what"])]:
        said = subprocess.run(
            [sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True, check=True
        )
        rows.append(case | json.loads(said.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
        write_json(given.out, rows)


if __name__ == "__main__":
    main()
