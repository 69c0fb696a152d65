"""Kills `stakes unlearn` with SIGKILL at random moments of all its phases, lets it resume, and compares.

    python tests/faults/killer.py FOLDER --times 50 --seed 0

It imports once and forks for each call, so that fifty kills take seconds. Every round kills one run once in each phase
and then lets it finish; the finished folder and its cache must hold the bytes of a run that nobody touched.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import itertools
import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faultkit

PHASES = ("opening", "evaluate before", "probes", "unlearn", "saving", "evaluate after", "record")
HEAVY = (
    "torch._dynamo",
    "torch.fx.experimental.optimization",
    "torch.func",
    "sklearn.datasets",
    "stakes.cli",
)
NOT_FORGOTTEN = 3
_LATEST = 300.0


def prepare(folder: Path) -> None:
    """The problem of `faultkit` as files."""
    from PIL import Image

    from stakes.data import open_source
    from stakes.models import save_checkpoint

    for where, images in (("train", faultkit.noise(30, 1)), ("test", faultkit.noise(12, 2))):
        for number, label in enumerate(images.labels.tolist()):
            place = folder / "data" / where / faultkit.NAMES[label]
            place.mkdir(parents=True, exist_ok=True)
            pixels = (images.batch([number])[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
            Image.fromarray(pixels).save(place / f"{number:03}.png")
    train = open_source(folder / "data").train
    assert train is not None
    known = faultkit.right(faultkit.model(), train).nonzero().flatten().tolist()
    (folder / "forget.txt").write_text(f"{known[0]}\n{known[1]}\n")
    save_checkpoint(faultkit.model(), folder / "model")
    faultkit.anchors().save(folder / "anchors.safetensors")


def command(folder: Path, out: Path, cache: Path) -> list[str]:
    """The words of one call."""
    words = [
        "unlearn",
        "--model",
        folder / "model",
        "--data",
        folder / "data",
        "--out",
        out,
        "--cache",
        cache,
    ]
    words += ["--forget", f"indices:{folder / 'forget.txt'}", "--anchors", folder / "anchors.safetensors"]
    words += ["--preset", "paper", "--device", "cpu"]
    return [str(word) for word in words] + [
        part for pair in faultkit.SETTINGS.items() for part in ("--set", "=".join(map(str, pair)))
    ]


def call(words: list[str], tell: Callable[[str], None] = lambda phase: None) -> int:
    """The command in this process, saving its state after every step, and telling of each phase that begins."""
    from functools import partial

    import stakes.api
    import stakes.report.page
    import stakes.unlearning
    from stakes.cli import app
    from stakes.meter import Meter
    from stakes.runs import RunFolder

    def first(told: str, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def telling(*args: Any, **named: Any) -> Any:
            tell(told or args[1])
            return real(*args, **named)

        setattr(owner, name, telling)

    first("", Meter, "phase")
    first("saving", stakes.unlearning, "save_checkpoint")
    first("record", RunFolder, "finish")
    # Drawing takes longer than all the rest; the file is written all the same.
    stakes.report.page.render_page = lambda *_, **__: "page"  # type: ignore[assignment]
    stakes.api.unlearn = partial(stakes.api.unlearn, checkpoint_seconds=1e-9)  # type: ignore[assignment]
    tell("opening")
    code = app(words, standalone_mode=False)
    return code if isinstance(code, int) else 0


@dataclass
class Child:
    """One call in a fork of this process, and what it tells."""

    pid: int
    pipe: int
    began: dict[str, float] = field(default_factory=dict)
    _said: bytes = b""

    @classmethod
    def start(cls, words: list[str], log: Path) -> Child:
        """Fork, and carry the command out there."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writing)
            return cls(pid, reading)
        status = 70
        try:
            os.close(reading)
            with log.open("ab") as lines:
                os.dup2(lines.fileno(), 1)
                os.dup2(lines.fileno(), 2)
            status = call(words, lambda phase: os.write(writing, f"{phase}\n".encode()) and None)
        except BaseException:  # noqa: BLE001 - told by the exit code, and in the log
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)

    def wait_for(self, phase: str | None) -> bool:
        """Until that phase begins (True) or the child has ended; None: until it has ended."""
        end = time.monotonic() + _LATEST
        while phase is None or phase not in self.began:
            if not select.select([self.pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"no {phase or 'end'} within {_LATEST} s")
            said = os.read(self.pipe, 4096)
            if not said:
                self.began["end"] = time.monotonic()
                return False
            self._said += said
            *whole, self._said = self._said.split(b"\n")
            for line in whole:
                self.began.setdefault(line.decode(), time.monotonic())
        return True

    def status(self) -> int:
        """How it ended: an exit code, or minus the signal."""
        os.close(self.pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def finish(words: list[str], log: Path) -> Child:
    """One call that nobody kills."""
    child = Child.start(words, log)
    child.wait_for(None)
    status = child.status()
    if status not in (0, NOT_FORGOTTEN):
        raise RuntimeError(f"the call ended with {status}:\n{log.read_text()[-2000:]}")
    return child


def torment(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """Kill so many times; how often in which phase, and what was lost or changed by it."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    log, draws, began = folder / "log.txt", random.Random(seed), time.monotonic()
    for name in HEAVY:
        importlib.import_module(name)
    torch.set_num_threads(1)
    _in_a_fork(lambda: prepare(folder))
    _in_a_fork(lambda: _list_imports(command(folder, folder / "first", folder / "first-cache"), folder))
    for name in (folder / "modules.txt").read_text().split():
        with contextlib.suppress(Exception):  # some exist only as a part of another
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # pages that nobody touches are not copied into each fork
    whole = finish(command(folder, folder / "whole", folder / "whole-cache"), log)
    order = [*PHASES, "end"]
    lengths = {name: whole.began[after] - whole.began[name] for name, after in itertools.pairwise(order)}
    wanted = faultkit.contents(folder / "whole"), faultkit.contents(folder / "whole-cache")
    kills: Counter[str] = Counter()
    lost = changed = late = rounds = 0
    while sum(kills.values()) < times:
        rounds += 1
        out, cache = folder / f"run{rounds}", folder / f"cache{rounds}"
        words = command(folder, out, cache)
        for phase in PHASES:
            if sum(kills.values()) == times:
                break
            child = Child.start(words, log)
            if child.wait_for(phase):
                time.sleep(draws.random() * lengths[phase])
                os.kill(child.pid, signal.SIGKILL)
            status = child.status()
            if status != -signal.SIGKILL:
                late += 1
                break
            kills[phase] += 1
        try:
            finish(words, log)
        except RuntimeError as error:
            lost += 1
            sys.stderr.write(f"{error}\n")
        other = _differences(wanted, (faultkit.contents(out), faultkit.contents(cache)))
        changed += bool(other)
        sys.stderr.write("".join(f"run {rounds}: {line}\n" for line in other))
    return {
        "kills": sum(kills.values()),
        "by_phase": dict(kills),
        "runs": rounds,
        "ended_before_the_kill": late,
        "lost": lost,
        "changed": changed,
        "seconds": round(time.monotonic() - began, 1),
    }


def _differences(wanted: Iterable[dict[str, str]], found: Iterable[dict[str, str]]) -> list[str]:
    """Each file that is missing, is one too many or has other bytes."""
    return [
        f"{name}: {was.get(name)} was expected, {now.get(name)} found"
        for was, now in zip(wanted, found, strict=True)
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]


def _in_a_fork(work: Callable[[], None]) -> None:
    """PyTorch's backward pass does not survive a fork, so what needs one is done in a fork of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError("preparation failed")


def _list_imports(words: list[str], folder: Path) -> None:
    with (folder / "log.txt").open("ab") as lines:
        os.dup2(lines.fileno(), 1)
        os.dup2(lines.fileno(), 2)
    call(words)
    (folder / "modules.txt").write_text("\n".join(sorted(sys.modules)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.stdout.write(json.dumps(torment(given.folder, given.times, given.seed), indent=1) + "\n")
