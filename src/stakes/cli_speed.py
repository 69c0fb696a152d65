"""The commands ``bench-speed`` and ``bench-growth``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stakes.cli_inputs import choose_anchors, open_problem
from stakes.cli_options import (
    AnchorsOption,
    AttributesOption,
    Device,
    DeviceOption,
    EncoderOption,
    JsonOption,
    ModelOption,
    PickleOption,
    Precision,
    PrecisionOption,
    RetainSampleOption,
    SeedOption,
    SetOption,
    SourceOption,
    say,
)
from stakes.errors import ConfigError

if TYPE_CHECKING:
    from stakes.bench.growth import GrowthReport
    from stakes.bench.speed import SpeedReport, Variant

commands = typer.Typer()


@commands.command(name="bench-speed")
def bench_speed(
    model: ModelOption,
    data: SourceOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for speed.json and speed.md.")],
    forget: Annotated[
        str, typer.Option("--forget", help="files:LIST, indices:LIST, class:NAME, random:K or images:DIR.")
    ] = "random:256",
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            help="METHOD or METHOD:PRESET, any number; the last is the reference (default: structguard, l2ul).",
        ),
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Option("--steps", help="VARIANT=N: how many steps it takes, from a record of it."),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="VARIANT.key=value, any number.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often each slice is measured.")] = 5,
    most_passes: Annotated[
        int, typer.Option("--most-passes", min=1, help="Images of a phase in a round; longer ones are cut.")
    ] = 1024,
    anchors_file: AnchorsOption = None,
    attributes: AttributesOption = None,
    encoder: EncoderOption = "minilm",
    retain_sample: RetainSampleOption = None,
    allow_pickle: PickleOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Time and passes of each phase of some variants, interleaved in one process, beside the bare network passes."""
    from stakes.bench.speed import SpeedSettings
    from stakes.bench.speed import bench_speed as call
    from stakes.console import live_progress

    chosen = _variants(variants or ["structguard", "l2ul"], steps or [], assignments or [])
    classifier, split, _ = open_problem(model, data, forget, seed, allow_pickle=allow_pickle)
    needed = any("anchors" in one.method.needs for one in chosen)
    anchors = choose_anchors(needed, classifier.class_names, anchors_file, attributes, encoder)
    with live_progress() as progress:
        report = call(
            classifier,
            split,
            chosen,
            anchors=anchors,
            speed=SpeedSettings(rounds=rounds, most_passes=most_passes),
            progress=progress,
            seed=seed,
            device=device.value,
            precision=precision.value,
            retain_sample=retain_sample,
        )
    _tell(report, out, as_json)


@commands.command(name="bench-growth")
def bench_growth(
    model: ModelOption,
    data: SourceOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for growth.json, growth.md and growth.svg.")],
    images: Annotated[
        str | None, typer.Option("--images", help="Sizes of the forget set, with commas; '' leaves it out.")
    ] = None,
    per_image: Annotated[
        str | None, typer.Option("--probes", help="Probes an image, with commas; '' leaves it out.")
    ] = None,
    variant: Annotated[str, typer.Option("--variant", help="METHOD or METHOD:PRESET.")] = "structguard:paper",
    assignments: SetOption = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Processes for each point.")] = 1,
    anchors_file: AnchorsOption = None,
    allow_pickle: PickleOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    as_json: JsonOption = False,
) -> None:
    """Time and peak memory of requests that grow, each in a fresh process, with a fit and a picture."""
    from stakes.bench.growth import IMAGES, PER_IMAGE
    from stakes.bench.growth import bench_growth as call
    from stakes.config import parse_assignments
    from stakes.console import live_progress

    with live_progress() as progress:
        report = call(
            model,
            data,
            images=IMAGES if images is None else _numbers("--images", images),
            per_image=PER_IMAGE if per_image is None else _numbers("--probes", per_image),
            spec=variant,
            settings=parse_assignments(assignments or []),
            anchors=anchors_file,
            repeats=repeats,
            seed=seed,
            device=device.value,
            precision=precision.value,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    _tell(report, out, as_json)


def _tell(report: SpeedReport | GrowthReport, out: Path, as_json: bool) -> None:
    files = report.save(out)
    shown = "\n".join([report.markdown(), *map(str, files)])
    say(report.model_dump(mode="json"), as_json, shown)


def _numbers(option: str, text: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and int(word) for word in words):
        raise ConfigError(option, expected="whole numbers above 0, with commas", got=repr(text))
    return [int(word) for word in words]


def _variants(specs: list[str], steps: list[str], assignments: list[str]) -> list[Variant]:
    """Each variant with the settings and steps that name it."""
    from stakes.bench.speed import variant
    from stakes.config import parse_assignments

    changes: dict[str, dict[str, Any]] = {spec: {} for spec in specs}
    for key, value in parse_assignments(assignments).items():
        label, _, inner = key.partition(".")
        _refuse_unknown("--set", label, specs)
        changes[label][inner] = value
    taken: dict[str, int] = {}
    for label, value in parse_assignments(steps).items():
        _refuse_unknown("--steps", label, specs)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"--steps {label}", expected="a whole number, 1 or more", got=repr(value))
        taken[label] = value
    return [variant(spec, settings=changes[spec], steps=taken.get(spec)) for spec in specs]


def _refuse_unknown(option: str, label: str, specs: list[str]) -> None:
    if label not in specs:
        raise ConfigError(option, expected="a variant: " + ", ".join(specs), got=repr(label))
