"""Build source archive and wheel, install the wheel into an empty environment, and use it there: `make wheel-check`.

The wheel is made from the source archive, so a file missing from either shows. First without extras, then with those
that are small; ``zoo`` has `make test-zoo`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "llm,track"
TINY = (
    "probes.iterations=2 probes.per_image=4 probes.epsilon=1.0 probe_batch=16 forget_batch=8 max_steps=40 "
    "projector=none deletion=hinge retention=soft batchnorm=freeze lr=0.003 reg_weight=0 head_weight=0 "
    "weight_decay=0 batch_weights=sum passes=joint"
)


def main() -> None:
    """Everything in a temporary folder; the first failure ends it."""
    with tempfile.TemporaryDirectory(prefix="stakes-wheel-") as temporary:
        work = Path(temporary)
        run(sys.executable, "-m", "build", "--outdir", work / "dist", ROOT, cwd=work)
        (wheel,), (archive,) = (work / "dist").glob("*.whl"), (work / "dist").glob("*.tar.gz")
        check_contents(wheel, archive)
        venv.create(work / "empty", with_pip=True)
        programs = work / "empty" / ("Scripts" if os.name == "nt" else "bin")
        install(programs, str(wheel))
        use(programs, work / "plain")
        install(programs, f"{wheel}[{EXTRAS}]")
        use(programs, work / "extras", "--track", "tensorboard")
        if not list((work / "extras" / "run" / "tracking").rglob("events.*")):
            raise SystemExit("TensorBoard wrote nothing")
    print("wheel and source archive are sound")


def check_contents(wheel: Path, archive: Path) -> None:
    """Every file of the package that git knows is in the wheel, and in the archive."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "src"], check=True, capture_output=True, text=True
    ).stdout
    known = {line.removeprefix("src/") for line in listed.splitlines()}
    packed = set(zipfile.ZipFile(wheel).namelist())
    if missing := sorted(known - packed):
        raise SystemExit(f"not in the wheel: {missing}")
    if not any(name.endswith("licenses/LICENSE") for name in packed):
        raise SystemExit("no licence in the wheel")
    with tarfile.open(archive) as opened:
        stored = {name.partition("/src/")[2] for name in opened.getnames()}
    if missing := sorted(known - stored):
        raise SystemExit(f"not in the source archive: {missing}")


def install(programs: Path, what: str) -> None:
    """Install with the pinned versions, and see that they agree."""
    python = programs / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", what)
    run(python, "-m", "pip", "check")


def use(programs: Path, folder: Path, *more: str) -> None:
    """Import, help, and a small unlearning with all that hangs on packaged files: attributes, encoder, page, card."""
    folder.mkdir()
    python, stakes = programs / "python", programs / "stakes"
    code = "import stakes, sys; assert 'torch' not in sys.modules; print(stakes.__version__, stakes.__file__)"
    run(python, "-c", code, cwd=folder)
    run(stakes, "--help", cwd=folder)
    common = ("--data", "digits", "--device", "cpu")
    small = ("--arch", "resnet10", "--preset", "demo", "--set", "epochs=3")
    run(stakes, "pretrain", *common, *small, "--out", "model", cwd=folder)
    words = ["--model", "model", "--forget", "random:4", "--out", "run", "--cache", "cache", *more]
    settings = [word for pair in TINY.split() for word in ("--set", pair)]
    run(stakes, "unlearn", *common, *words, *settings, cwd=folder)
    run(stakes, "show", "run", cwd=folder)
    run(stakes, "push", "run", "--to-folder", "hub", cwd=folder)
    for name in ("run/report.html", "hub/README.md", "hub/config.json", "hub/model.safetensors"):
        if not (folder / name).stat().st_size:
            raise SystemExit(f"{name} is empty")


def run(*words: object, cwd: Path | None = None) -> None:
    """Run a command outside the repository, shown first."""
    print("$", *(str(word) for word in words), flush=True)
    subprocess.run([str(word) for word in words], check=True, cwd=cwd)


if __name__ == "__main__":
    main()
