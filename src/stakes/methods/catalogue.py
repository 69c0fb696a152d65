"""What a method is, and what can be set, as its class says it: for the command ``methods``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stakes.config import Settings
from stakes.methods.base import ForFew, Method
from stakes.setting_words import accepted


@dataclass(frozen=True)
class Setting:
    """One setting of a method.

    Attributes:
        name: dotted, as ``--set`` takes it.
        value: under the preset that was asked for.
        accepts: type and range.
        text: what it is.
    """

    name: str
    value: Any
    accepts: str
    text: str


@dataclass(frozen=True)
class About:
    """What the docstring and the attributes of a method say.

    Attributes:
        summary: its first line.
        text: the whole of it but the example.
        publication: the paragraph that names it; empty for a method that has none.
        needs: what it works with beside the forget set, for each preset, and for none of them (``None``) unless one is
            taken then.
        default_preset: the one taken where none is named.
        for_few: by preset, the most images of a small request, and what is set otherwise for one.
        without_batchnorm: by preset, what is set otherwise for a network without BatchNorm.
    """

    name: str
    summary: str
    text: str
    publication: str
    needs: Mapping[str | None, tuple[str, ...]]
    default_preset: str | None
    for_few: Mapping[str, ForFew]
    without_batchnorm: Mapping[str, Mapping[str, Any]]


def about(kind: type[Method[Any]]) -> About:
    """Read a method's class.

    Example:
        >>> from stakes.methods import Adv
        >>> about(Adv).needs
        {None: ('probes',)}
    """
    written = (inspect.getdoc(kind) or "").replace("``", "")
    paragraphs = [part for part in written.split("\n\n") if part and not part.startswith("Example:")]
    source = next((part for part in paragraphs if part.startswith("Publication:")), "")
    presets = [*([] if kind.default_preset else [None]), *kind.presets]
    return About(
        name=kind.name,
        summary=paragraphs[0].replace("\n", " ") if paragraphs else "",
        text="\n\n".join(paragraphs),
        publication=" ".join(source.removeprefix("Publication:").split()),
        needs={preset: tuple(sorted(kind.configure(preset).needs)) for preset in presets},
        default_preset=kind.default_preset,
        for_few=kind.for_few,
        without_batchnorm=kind.without_batchnorm,
    )


def settings_of(kind: type[Method[Any]], preset: str | None = None) -> list[Setting]:
    """Every setting with its value under a preset (None: the default one), nested ones by dotted names.

    Raises:
        ConfigError: the method has no such preset.

    Example:
        >>> from stakes.methods import NegGrad
        >>> next(one.accepts for one in settings_of(NegGrad) if one.name == "momentum")
        'number, at least 0, below 1'
    """
    return list(_flat(kind.configure(preset).settings))


def changed_by(kind: type[Method[Any]]) -> dict[str, dict[str, Any]]:
    """What each preset sets otherwise than the one taken where none is named.

    Example:
        >>> from stakes.methods import RandomLabel
        >>> changed_by(RandomLabel)
        {'retain': {'retain_weight': 1.0}}
    """
    usual = {one.name: one.value for one in settings_of(kind)}
    return {
        preset: {one.name: one.value for one in settings_of(kind, preset) if one.value != usual[one.name]}
        for preset in kind.presets
        if preset != kind.default_preset
    }


def _flat(settings: Settings, before: str = "") -> Iterator[Setting]:
    schema = type(settings).model_json_schema()["properties"]
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _flat(value, f"{before}{name}.")
        else:
            plain = list(value) if isinstance(value, tuple) else value
            yield Setting(before + name, plain, accepted(schema[name]), _described(type(settings), name))


def _described(kind: type[Settings], name: str) -> str:
    """Where a method changes no more than the value, its base says what the setting is."""
    bases = [base for base in kind.__mro__ if issubclass(base, Settings) and name in base.model_fields]
    fields = [base.model_fields[name] for base in bases]
    return next((field.description for field in fields if field.description), "")
