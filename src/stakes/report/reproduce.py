"""The command that makes a run again, from its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stakes.config import RunSettings, assigned, parse_assignments
from stakes.errors import ConfigError
from stakes.places import data_of, model_of, shell_word
from stakes.records import Record
from stakes.report.formatting import changed_from, shown

if TYPE_CHECKING:
    from stakes.methods import Method

_PICKLES = (".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Reproduction:
    """A command for a shell, or None where the record cannot say it; and what to know about it."""

    command: str | None
    notes: tuple[str, ...]


def reproduction(record: Record, folder: Path) -> Reproduction:
    """The ``stakes unlearn`` command of a record, quoted for a POSIX shell.

    Settings that differ from the preset's are written as ``--set``; read back they give the record's settings
    exactly, or no command is given.
    """
    request = record.request
    model = model_of(request)
    if not model or not request.get("forget"):
        return Reproduction(None, ("It was made in Python, without a request that a command could repeat.",))
    try:
        preset, sets = _method_words(record)
    except ConfigError as error:
        return Reproduction(None, (f"The method cannot be named on this command line: {error}",))
    anchors, notes = _anchors(record, folder)
    pairs = [
        ("--model", model),
        ("--data", data_of(request)),
        ("--forget", request["forget"]),
        ("--reference", None if "ledger" in request else request.get("reference")),
        ("--unlabelled", request.get("unlabelled")),
        ("--unlabelled-most", record.run.get("unlabelled_most")),
        ("--method", record.method),
        ("--preset", preset),
        *(("--set", text) for text in sets),
        ("--anchors", anchors),
        ("--retain-sample", record.run.get("retain_sample")),
        ("--seed", record.seed),
        ("--precision", record.run.get("precision")),
        ("--device", record.run.get("device")),
        ("--out", f"{folder}-again"),
    ]
    lines = [
        "stakes unlearn",
        *(f"{name} {shell_word(str(value))}" for name, value in pairs if value is not None),
    ]
    if model.endswith(_PICKLES):
        lines.append("--allow-pickle")
    if record.run.get("milestones"):
        lines.append("--milestones")
    return Reproduction(" \\\n  ".join(lines), (*notes, *_run_notes(record), *_request_notes(record)))


def _method_words(record: Record) -> tuple[str | None, list[str]]:
    """The preset to name and the assignments on top of it, proved by reading them back."""
    from stakes.methods import find_method

    method = find_method(record.method)
    preset = (record.preset or "").removesuffix(" with changes")
    # A label of somebody's own is told from the preset that it is nearest to.
    bases: list[str | None] = (
        [preset] if preset in method.presets else [method.default_preset, *method.presets]
    )
    base, sets = min(
        ((name, _changes(method, name, record)) for name in bases), key=lambda pair: len(pair[1])
    )
    again = _settings(method, base, record, parse_assignments(sets))
    if again != record.settings:
        raise ConfigError("settings of the record", expected="settings of this version of the method")
    return base, sets


def _changes(method: type[Method[Any]], preset: str | None, record: Record) -> list[str]:
    """Assignments that make the record's settings from those of a preset."""
    changed = changed_from(_settings(method, preset, record, {}), record.settings)
    return [f"{key}={assigned(value)}" for key, value in changed.items()]


def _settings(
    method: type[Method[Any]], preset: str | None, record: Record, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Settings of a preset for as many images as the record is about, and for unlabelled ones if it had some."""
    ready = method.configure(preset, overrides).for_images(
        record.after.forget_images, unlabelled=record.unlabelled is not None
    )
    found: dict[str, Any] = ready.settings.model_dump(mode="json")
    return found


def _anchors(record: Record, folder: Path) -> tuple[str | None, list[str]]:
    if record.hashes.anchors is None:
        return None, []
    kept = folder / "anchors.safetensors"
    if kept.is_file():
        return str(kept), []
    short = record.hashes.anchors[:12]
    return "ANCHORS.safetensors", [
        f"ANCHORS.safetensors stands for the anchors with hash {short}…, not kept in this run."
    ]


def _request_notes(record: Record) -> list[str]:
    """What a request names that no option of the command line says."""
    notes = []
    if record.hashes.reference is not None and (
        "ledger" in record.request or "reference" not in record.request
    ):
        short = record.hashes.reference[:12]
        notes.append(
            f"It was held to the answers of the model {short}…: give its checkpoint with --reference."
        )
    if record.unlabelled is not None and not record.request.get("unlabelled"):
        notes.append(f"It was given {record.unlabelled.said} in Python: name their folder with --unlabelled.")
    if record.request.get("held_back"):
        notes.append(
            f"{record.request['held_back']} was held back from the test set for other rows of the bench; this command "
            "measures on all of it."
        )
    return notes


def _run_notes(record: Record) -> list[str]:
    """Settings of the run that change the result and have no option on the command line."""
    default: Mapping[str, Any] = RunSettings().model_dump(mode="json")
    name = "measure_every"
    if record.run.get(name, default[name]) == default[name]:
        return []
    return [f"The run was made in Python with {name} = {shown(record.run[name])}."]
