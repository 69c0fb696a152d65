"""Requests one after another against all at once: what it costs, and what comes back on the way.

    python experiments/sequential.py --model CKPT --data DIR --work DIR --out JSON \\
        [--requests 16] [--images 16] [--method structguard] [--preset paper] [--set key=value …] [--anchors FILE] \\
        [--[no-]reference-first] [--unlabelled DIR|test:N] [--test N]

The forget set random:N·K is cut into N requests of K images. In WORK/sequential they arrive one after another, each
carried out before the next one is asked; in WORK/together all N are one batch on the same first model. Both are
ordinary ledgers (docs/requests.md): stopped or killed, the same command goes on. A request that is not done ends the
sequence, and the result says so; it is written anew after each. With --half sequential or together one of the two
is brought on its way, beside the other on another core. --test N looks at the first N test images alone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import stakes
from stakes.config import parse_assignments
from stakes.console import live_progress
from stakes.data.forget import ForgetSplit
from stakes.data.sources import Source
from stakes.files import write_json
from stakes.ledger import Ledger, add_request, create_ledger, open_ledger, run_requests
from stakes.ledger.events import Created
from stakes.ledger.view import Attempt, Batch
from stakes.methods import find_method
from stakes.records import Record


def main(words: list[str] | None = None) -> None:
    given = _arguments(words)
    sequential, together = (_ledger(given, name) for name in ("sequential", "together"))
    made = sequential.view().created.body
    source = _source(given, made)
    parts = _parts(given, made, source)
    with live_progress() as progress:
        for number, part in enumerate(parts if given.half != "together" else (), start=1):
            if len(sequential.view().requests) < number:
                add_request(sequential, part)
            done = _run(given, sequential, source, progress)
            _write(given, sequential, together)
            if not done:
                break
        if given.half != "sequential":
            for part in parts[len(together.view().requests) :]:
                add_request(together, part)
            _run(given, together, source, progress, together=True)
    result = _write(given, sequential, together)
    for name in ("sequential", "together"):
        for row in result[name]:
            print(f"{name} {row['requests']}: {_said(row)}")


def _write(given: argparse.Namespace, sequential: Ledger, together: Ledger) -> dict[str, Any]:
    """Everything so far, so that a sequence that is stopped has its result too."""
    attempts = (sequential if given.half != "together" else together).view().attempts
    result = {
        "requests": given.requests,
        "images": given.images,
        "seed": given.seed,
        "reference_first": given.reference_first,
        "unlabelled": given.unlabelled,
        "options": attempts[1].started.body.options.model_dump(mode="json"),
        "model": sequential.view().created.body.model,
        "sequential": _rows(sequential),
        "together": _rows(together),
    }
    write_json(Path(given.out), result)
    return result


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--data", "--work", "--out"):
        parser.add_argument(name, required=True)
    for name, default in (("--requests", 16), ("--images", 16), ("--seed", 0), ("--repair-rounds", 3)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--method", default="structguard")
    parser.add_argument("--reference-first", action=argparse.BooleanOptionalAction)
    parser.add_argument("--unlabelled")
    parser.add_argument("--test", type=int)
    parser.add_argument("--half", choices=("sequential", "together"))
    for name in ("--preset", "--anchors"):
        parser.add_argument(name)
    parser.add_argument("--retain-sample", type=int)
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    return parser.parse_args(words)


def _ledger(given: argparse.Namespace, name: str) -> Ledger:
    path = Path(given.work) / name
    return open_ledger(path) if path.exists() else create_ledger(path, given.model, data=given.data)


def _source(given: argparse.Namespace, made: Created) -> Source:
    """The data, with the first so many test images alone where that was asked."""
    source = stakes.open_source(given.data, size=made.input_size)
    if given.test is None or source.test is None:
        return source
    return replace(source, test=source.test.subset(range(given.test)))


def _parts(given: argparse.Namespace, made: Created, source: Source) -> list[ForgetSplit]:
    """N disjoint requests of K images: pieces of one seeded permutation."""
    split = stakes.split_forget(
        f"random:{given.requests * given.images}",
        source,
        class_names=made.class_names,
        size=made.input_size,
        seed=given.seed,
    )
    rows = split.indices or ()
    return [
        ForgetSplit(
            split.forget.subset(range(start, start + given.images)),
            spec=split.spec,
            indices=rows[start : start + given.images],
        )
        for start in range(0, len(rows), given.images)
    ]


def _run(
    given: argparse.Namespace, ledger: Ledger, source: Source, progress: Any, *, together: bool = False
) -> bool:
    method = find_method(given.method)
    configured = method.configure(given.preset, parse_assignments(given.assignments))
    name = given.preset or method.default_preset
    anchors = None
    if given.anchors and "anchors" in configured.needs:
        anchors = stakes.Anchors.load(given.anchors).for_classes(ledger.view().created.body.class_names)
    return run_requests(
        ledger,
        data=source,
        together=together,
        reference_first=given.reference_first,
        unlabelled=given.unlabelled,
        anchors=anchors,
        method=configured,
        preset=f"{name} with changes" if name and given.assignments else name,
        repair_rounds=given.repair_rounds,
        progress=progress,
        seed=given.seed,
        device=given.device,
        precision=given.precision,
        retain_sample=given.retain_sample,
    ).done


def _rows(ledger: Ledger) -> list[dict[str, Any]]:
    """One row a batch, but for one that was cut off."""
    return [_row(ledger, batch) for batch in ledger.view().batches if batch.attempts[-1].finished]


def _row(ledger: Ledger, batch: Batch) -> dict[str, Any]:
    """One batch: accuracies after its last run, what its own run brought back, and the cost of all its runs."""
    first, last = batch.attempts[0], batch.attempts[-1]
    back = first.checked.body.recognised if first.checked else {}
    records = [
        Record.load(ledger.run(attempt.started.body.run) / "record.json") for attempt in batch.attempts
    ]
    return {
        "requests": list(batch.requests),
        "outcome": batch.outcome,
        "came_back_images": sum(len(names) for number, names in back.items() if number not in batch.requests),
        "came_back_requests": len(set(back) - set(batch.requests)),
        "repairs": len(batch.attempts) - 1,
        "before": _figures(first, "before"),
        "after_own_run": _figures(first, "after"),
        "after": _figures(last, "after"),
        "steps": sum(record.steps for record in records),
        "seconds": round(sum(phase.seconds for record in records for phase in record.phases), 3),
        "images_forward": sum(phase.forward_images for record in records for phase in record.phases),
        "images_backward": sum(phase.backward_images for record in records for phase in record.phases),
        "device": records[-1].device,
    }


def _figures(attempt: Attempt, side: str) -> dict[str, Any] | None:
    return getattr(attempt.finished.body, side).model_dump(mode="json") if attempt.finished else None


def _said(row: dict[str, Any]) -> str:
    test = (row["after"] or {}).get("test_accuracy")
    shown = "unknown" if test is None else f"{test:.2f} %"
    return (
        f"{row['outcome']}, test {shown}, {row['came_back_images']} images came back, {row['repairs']} repairs, "
        f"{row['steps']} steps"
    )


if __name__ == "__main__":
    main()
