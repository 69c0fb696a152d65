"""What two processes do together in a test, and one process alone to compare: ``torchrun processes_job.py OUT``."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import stakes.spread
from stakes.anchors.anchors import Anchors
from stakes.api import evaluate, unlearn
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.errors import RunFolderError
from stakes.launcher import rank
from stakes.models.checkpoint import load_checkpoint, save_checkpoint
from stakes.models.classifier import Classifier
from stakes.processes import current
from stakes.unlearning import Unlearned

STEPS = {"max_steps": 5, "lr": 1e-3}
PROBES = {"probes.per_image": 3, "probes.iterations": 4, "probes.epsilon": 1.0, "probes.step_size": 0.3}
FEW = PROBES | STEPS
METHODS: dict[str, dict[str, Any]] = {
    # Cosines of the columns of S, BatchNorm in training mode, a batch that does not divide by two.
    "structguard": FEW | {"probe_batch": 7, "projector_init": "random", "align_axis": "anchor"},
    # Inverted and mixed probes, copies, and P of each layer from all probes: of a share it would be another.
    "structguard-everything": STEPS
    | {
        "probes.kind": "inverted",
        "probes.inversion.batches": 1,
        "probes.inversion.batch": 9,
        "probes.inversion.iterations": 2,
        "retention": "soft",
        "probe_mixing": True,
        "variants": 1,
        "precondition": "patches",
        "settle": 9,
        "batchnorm": "freeze",
        "probe_batch": 7,
    },
    # Labels of the unlabelled images from passes that the processes share, of a number that does not divide by two.
    "structguard-unlabelled": FEW | {"probe_batch": 7, "importance_probes": None},
    # A gradient of the parameters without a step.
    "l2ul": FEW | {"probe_batch": 7},
    # Gradients to the pixels.
    "unsir": {"max_steps": 5, "noise_images": 2, "noise_repeats": 1, "noise_steps": 2, "forget_batch": 16},
}
RUN: dict[str, Any] = {"device": "cpu", "eval_batch": 16, "probe_chunk": 4}
INTERRUPTED_AT = 3


def put_down(out: Path) -> None:
    """Write model and images, so that no process has to train or to load scikit-learn."""
    from PIL import Image

    import tinydigits

    save_checkpoint(tinydigits.digits_model("resnet10"), out / "model")
    split = tinydigits.split(5)
    for name, images in (("forget", split.forget), ("test", split.test), ("retain", split.retain)):
        assert images is not None
        torch.save({"pixels": images.batch(slice(None)), "labels": images.labels}, out / f"{name}.pt")
    for row, label in enumerate(split.forget.labels[:3].tolist()):
        (out / "pictures" / str(label)).mkdir(parents=True, exist_ok=True)
        pixels = (split.forget.batch([row])[0, 0] * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(out / "pictures" / str(label) / f"{row}.png")


@functools.cache
def problem(out: Path) -> tuple[Classifier, ForgetSplit]:
    """What `put_down` wrote."""
    model = load_checkpoint(out / "model").eval().requires_grad_(False)
    sets = {}
    for name in ("forget", "test", "retain"):
        kept = torch.load(out / f"{name}.pt", weights_only=True)
        sets[name] = ImageSet.from_tensors(kept["pixels"], kept["labels"], model.class_names)
    return model, ForgetSplit(**sets)


def run(name: str, out: Path, folder: str | None = None, **more: Any) -> Unlearned:
    """One unlearning of five digits."""
    model, split = problem(out)
    if name.endswith("unlabelled") and split.test is not None:
        split = replace(split, unlabelled=split.test.subset(range(33)))
    return unlearn(
        model,
        split,
        anchors=Anchors(torch.eye(10, 12), tuple("0123456789")),
        method=name.partition("-")[0],
        preset="paper" if name.startswith("structguard") else None,
        settings=METHODS[name],
        out=out / (folder or name),
        cache=out / "cache",
        **RUN | more,
    )


def together(out: Path) -> dict[str, Any]:
    """Every method; what each process holds in the end."""
    return {name: _said(run(name, out)) for name in METHODS}


def apart(out: Path) -> dict[str, Any]:
    """What only many processes can get wrong."""
    with other_value(stakes.spread, "_takes_statistics", lambda layer: False):
        unsynchronised = _said(run("structguard", out, "unsynchronised"))
    figures = evaluate(*problem(out), **RUN)
    with contextlib.suppress(KeyboardInterrupt):
        run("structguard", out, "interrupted", progress=_pressing, checkpoint_seconds=1e9)
    kept = (out / "interrupted" / "state" / "job.pt").is_file()
    try:
        run("l2ul", out, "interrupted")
        refused = ""
    except RunFolderError as error:
        refused = str(error)
    return {
        "unsynchronised": unsynchronised,
        "figures": figures.model_dump(),
        "kept": kept,
        "resumed": _said(run("structguard", out, "interrupted")),
        "refused": refused,
        "sum": current().sum(1 + rank()),
        "gathered": current().gather(torch.arange(5)[current().share(5)], 5).tolist(),
        "dropout": _dropout(),
    }


def _said(result: Unlearned) -> dict[str, Any]:
    return {"model": result.classifier.fingerprint(), "history": result.history, "costs": _costs(result)}


def _costs(result: Unlearned) -> list[Any]:
    return [[one.name, one.forward_images, one.backward_images] for one in result.record.phases]


def _pressing(phase: str, done: int, total: int, **figures: float) -> None:
    """Ctrl-C reaches one process alone."""
    if phase == "unlearn" and done == INTERRUPTED_AT and rank() == current().count - 1:
        signal.raise_signal(signal.SIGINT)


def _dropout() -> list[bool]:
    """Whether the shares of one batch get masks of their own, and the generators stay in step."""
    torch.manual_seed(0)
    drop = nn.Dropout(0.5).train()
    with stakes.processes.spread():
        rows = stakes.spread.shared_pass(drop, drop, torch.ones(2, 64))
    after = torch.rand(8)
    mine = current().gather(after.unsqueeze(0), current().count)
    return [not torch.equal(rows[0], rows[1]), torch.equal(mine[0], mine[-1])]


@contextlib.contextmanager
def other_value(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def words(out: Path, run: Path) -> list[str]:
    """``stakes unlearn`` on what `put_down` wrote."""
    said = ["unlearn", "--model", out / "model", "--forget", f"images:{out / 'pictures'}"]
    said += ["--method", "neggrad", "--out", run, "--cache", out / "cache", "--device", "cpu"]
    return [*map(str, said), "--set", "max_steps=2", "--set", "lr=1e-9", "--json"]


def command(out: Path) -> None:
    """``stakes unlearn`` on the command line; one of the processes speaks."""
    from stakes import cli

    sys.argv = ["stakes", *words(out, out / "cli")]
    with contextlib.suppress(SystemExit):
        cli.main()


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    found = together(out) | apart(out)
    (out / f"process{rank()}.json").write_text(json.dumps(found))
    command(out)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(__file__))
    main()
