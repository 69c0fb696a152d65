"""The command ``methods``: which there are, and what can be set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stakes.cli_options import (
    Device,
    HiddenDevice,
    HiddenPrecision,
    HiddenSeed,
    JsonOption,
    PluginsOption,
    Precision,
    print_json,
)

if TYPE_CHECKING:
    from stakes.methods import Method
    from stakes.methods.catalogue import About

commands = typer.Typer()


@commands.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One of them: what it does, and its settings.")] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Show values of this preset; with a name.")
    ] = None,
    plugins: PluginsOption = None,
    as_json: JsonOption = False,
    seed: HiddenSeed = 0,
    device: HiddenDevice = Device.auto,
    precision: HiddenPrecision = Precision.fp32,
) -> None:
    """List methods and presets; of one method, what it does and every setting that --set takes."""
    from stakes.bench.plugins import load_plugins
    from stakes.errors import ConfigError

    del seed, device, precision
    registry = load_plugins(plugins or [])
    if name is not None:
        _tell_one(registry.find(name), preset, as_json)
        return
    if preset is not None:
        raise ConfigError("--preset", expected="the name of a method before it", got=repr(preset))
    _tell_all(registry.methods.values(), as_json)


def _tell_all(kinds: Iterable[type[Method[Any]]], as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from stakes.methods.catalogue import about

    found = [about(kind) for kind in kinds]
    if as_json:
        print_json([_plain(one) for one in found])
        return
    table = Table()
    for title in ("method", "what it does", "needs beside the forget set", "presets"):
        table.add_column(title, overflow="fold")
    for one in found:
        presets = [_marked(preset, one.default_preset) for preset in one.needs if preset]
        table.add_row(one.name, one.summary, _needed(one.needs), ", ".join(presets) or "–")
    Console().print(table)
    typer.echo("* taken where none is named. Settings of one: stakes methods NAME [--preset PRESET]")


def _tell_one(kind: type[Method[Any]], preset: str | None, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from stakes.config import assigned
    from stakes.methods.catalogue import about, changed_by, settings_of

    one, settings = about(kind), settings_of(kind, preset)
    chosen = preset or one.default_preset
    if as_json:
        print_json(_plain(one) | {"preset": chosen, "settings": [asdict(setting) for setting in settings]})
        return
    typer.echo(one.text + "\n")
    table = Table(title="Settings" + (f" of preset {chosen}" if chosen else ""), title_justify="left")
    for title in ("--set", "value", "takes", "what it is"):
        table.add_column(title, overflow="fold", no_wrap=title == "--set")
    for setting in settings:
        table.add_row(setting.name, assigned(setting.value), setting.accepts, setting.text)
    Console().print(table)

    def told(changes: Mapping[str, Any]) -> str:
        return ", ".join(f"{key}={assigned(to)}" for key, to in changes.items()) or "the same"

    for other, changes in changed_by(kind).items():
        typer.echo(f"--preset {other}: {told(changes)}")
    for which, few in one.for_few.items():
        typer.echo(f"--preset {which}, at most {few.images} images to forget: {told(few.changes)}")
    for which, others in one.without_batchnorm.items():
        typer.echo(f"--preset {which}, other requests of a network without BatchNorm: {told(others)}")


def _plain(one: About) -> dict[str, Any]:
    """For JSON: presets by name, and what is needed without one under an empty name."""
    told = asdict(one)
    return told | {"needs": {preset or "": list(needs) for preset, needs in one.needs.items()}}


def _needed(needs: Mapping[str | None, tuple[str, ...]]) -> str:
    """Once where all presets need the same."""
    told = {preset: ", ".join(names) or "nothing" for preset, names in needs.items()}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return "; ".join(f"{preset or 'no preset'}: {names}" for preset, names in told.items())


def _marked(preset: str, default: str | None) -> str:
    return preset + "*" if preset == default else preset
