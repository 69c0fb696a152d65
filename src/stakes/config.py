"""Typed settings: the one home of every default that more than one method shares.

A method's own settings stand in its own file as a subclass of `MethodSettings`; nothing else holds a default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

import pydantic
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from stakes.errors import ConfigError
from stakes.setting_words import refused, unknown, within

Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda", "mps"]


def _has_truth(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_truth(item) for item in value)
    return isinstance(value, bool)


def _takes_truth(kind: Any) -> bool:
    return kind is bool or kind is True or kind is False or any(map(_takes_truth, get_args(kind)))


class Settings(BaseModel):
    """Frozen, strict about unknown names; the base of all settings.

    Example:
        >>> ProbeSettings(epsilon=3.0).epsilon
        3.0
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )
    later: ClassVar[frozenset[str]] = frozenset()
    """Settings that came after records had been made: told only where they are not at their defaults, so that other
    runs and cells keep their names. No preset may name one, for few images neither: a record without it would be read
    as having that value."""

    @model_serializer(mode="wrap")
    def _without_later(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = plain(self)
        for key in self.later:
            if told.get(key) == type(self).model_fields[key].default:
                told.pop(key, None)
        return told

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes, no, on and off as truth values, and Python takes those for 1 and 0."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if _has_truth(value) and not _takes_truth(kind):
            raise PydanticCustomError("truth", "A number or a name, not yes or no (true or false)")
        return value

    def with_overrides(self, overrides: Mapping[str, Any]) -> Self:
        """Return a copy with dotted keys replaced (``{"probes.epsilon": 3.0}``), validated anew.

        Nested ones mean the same: ``{"probes": {"epsilon": 3.0}}`` leaves the other settings of probes alone.

        Raises:
            ConfigError: unknown key or a value of the wrong type or range.
        """
        data = dict(self) | self.model_dump()
        for key, value in dotted(type(self), overrides).items():
            _place(data, key, value, type(self).__name__)
        return build(type(self), data)


class InversionSettings(Settings):
    """How images are made from the model alone, starting from mixtures of the forget set (`stakes.inversion`)."""

    batches: int = Field(2, ge=1, description="batches made, each alone")
    batch: int = Field(128, ge=2, description="images whose joint statistics are matched")
    iterations: int = Field(15, ge=1, description="steps of Adam")
    lr: float = Field(0.05, gt=0, description="of Adam, in pixel units, falling to a tenth")
    statistics_weight: float = Field(
        5.0,
        ge=0,
        description="of the distance to BatchNorm's running statistics, or, where there is no BatchNorm, to those that "
        "forget images have",
    )
    smoothness: float = Field(
        1e-3, ge=0, description="weight of the squared differences of neighbouring pixels"
    )


class ProbeSettings(Settings):
    """How the probe set D_s is made: targeted L2-PGD on pixels in [0, 1] (paper section 3.2, settings of L2UL).

    With ``kind="inverted"`` it is made by inverting the model instead, and only ``inversion`` counts.
    ``epsilon`` and ``step_size`` are L2 norms over a whole image in pixel units. Where ``epsilons`` is given,
    the probes of an image take its radii in turn and ``epsilon`` is unused.
    """

    kind: Literal["adversarial", "inverted"] = Field(
        "adversarial", description="targeted attacks on the forget images, or images inverted from the model"
    )
    per_image: int = Field(20, ge=1, description="N_adv: probes for each image to forget")
    epsilon: float = Field(
        4.0, gt=0, description="radius of the attack: L2 over a whole image, in pixel units"
    )
    epsilons: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="several radii, taken in turn by the probes of an image, in place of epsilon"
    )
    step_size: float = Field(0.1, gt=0, description="of the attack, measured like epsilon")
    iterations: int = Field(100, ge=0, description="steps of the attack")
    inversion: InversionSettings = InversionSettings()

    def number(self, forget: int) -> int:
        """Probes for so many images to forget."""
        if self.kind == "inverted":
            return self.inversion.batches * self.inversion.batch
        return forget * self.per_image

    def passes(self, forget: int) -> int:
        """Images sent forward and backward while they are made."""
        each = self.inversion.iterations if self.kind == "inverted" else self.iterations
        return self.number(forget) * each

    def radius(self, probe: int) -> float:
        """The radius of an image's probe number ``probe``."""
        return self.epsilons[probe % len(self.epsilons)] if self.epsilons else self.epsilon


class MethodSettings(Settings):
    """What every unlearning method has: its optimiser, batches, limits, BatchNorm and probes."""

    lr: float = Field(0.001, gt=0, description="learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(1e-4, ge=0, description="of the optimiser")
    probe_batch: int = Field(256, ge=1, description="probes a step")
    forget_batch: int = Field(32, ge=1, description="forget images a step")
    max_epochs: int = Field(1000, ge=1, description="most passes over the probes (or the forget set)")
    max_steps: int | None = Field(None, ge=1, description="a limit on steps beside that on epochs")
    batchnorm: Literal["update", "freeze"] = Field(
        "update",
        description="update: training mode, with statistics of the batch, and running ones that follow; freeze: "
        "running statistics are used and stay, and dropout and stochastic depth are off, as when the model is used",
    )
    probes: ProbeSettings = ProbeSettings()

    def batches(self, images: int) -> int:
        """Steps of a round through so many forget images."""
        return -(-images // self.forget_batch)

    def limit(self, per_epoch: int) -> int:
        """The most steps: ``max_epochs`` passes of so many steps, or ``max_steps`` if that is fewer."""
        epochs = self.max_epochs * per_epoch
        return min(epochs, self.max_steps or epochs)

    def schedule(self, batches: int, most: int) -> int:
        """Steps before it is asked whether all is forgotten, for so many forget batches and steps at most."""
        return 0

    def copies(self, images: int, batches: int) -> int:
        """Images that a step adds to so many forget images, where a round takes so many steps."""
        return 0


# Fields of `RunSettings` that cannot change a figure: no part of what makes two requests the same.
QUIET = {"device", "eval_batch", "probe_chunk", "checkpoint_seconds"}


class RunSettings(Settings):
    """How a run is carried out, whatever the method."""

    later = frozenset({"milestones", "unlabelled_most"})

    seed: int = Field(0, ge=0, le=2**63 - 1)
    device: Device = "auto"
    precision: Precision = "fp32"
    eval_batch: int = Field(256, ge=1)
    probe_chunk: int = Field(128, ge=1, description="images a network pass while probes are made")
    retain_sample: int | None = Field(
        None, ge=1, description="measure retain accuracy on this many seeded images instead of all"
    )
    measure_every: int = Field(10, ge=1, description="steps between full measurements of the forget set")
    checkpoint_seconds: float = Field(60.0, gt=0)
    milestones: bool = Field(
        False, description="keep the deployed classifier when 50, 80, 95 and 100 % are misclassified"
    )
    unlabelled_most: int = Field(
        4096, ge=1, description="of the unlabelled images given, at most this many are taken, drawn by seed"
    )


S = TypeVar("S", bound=Settings)


def build(kind: type[S], data: Mapping[str, Any]) -> S:
    """Validate ``data`` as settings of ``kind``.

    Raises:
        ConfigError: naming each wrong key, what it takes and what came.
    """
    try:
        return kind.model_validate(dict(data))
    except pydantic.ValidationError as error:
        raise refused(kind, error.errors()[0]) from None


def dotted(kind: type[Settings], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by dotted keys alone, the later of two for one setting; two such can be put together with ``|``.

    Example:
        >>> dotted(MethodSettings, {"lr": 0.1, "probes": {"inversion": {"batches": 3}}})
        {'lr': 0.1, 'probes.inversion.batches': 3}
    """
    found: dict[str, Any] = {}
    for key, value in overrides.items():
        inner = within(kind, str(key).split(".")) if isinstance(value, Mapping) else None
        if inner is not None and issubclass(inner, Settings):
            found |= {f"{key}.{name}": one for name, one in dotted(inner, value).items()}
        else:
            found[str(key)] = value
    return found


def chosen(what: str, names: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The named ones of ``known`` in its order; all of them where ``names`` is None.

    Raises:
        ConfigError: an unknown name, or none at all.
    """
    if names is None:
        return list(known)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(what, expected="some of " + ", ".join(known), got=", ".join(unknown) or "none")
    return [name for name in known if name in names]


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` strings of the command line; values are YAML scalars or lists.

    Raises:
        ConfigError: no ``=``, an empty key, or a value that is not YAML.

    Example:
        >>> parse_assignments(["lr=0.01", "probes.epsilons=[0.5, 1]"])
        {'lr': 0.01, 'probes.epsilons': [0.5, 1]}
    """
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign or not key.strip():
            raise ConfigError(
                "--set", expected="key=value", got=repr(assignment), fix="For example --set lr=0.005."
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {key}", expected="a YAML value", got=repr(text)) from None
        parsed[key.strip()] = _number(value)
    return parsed


def assigned(value: Any) -> str:
    """A value as ``parse_assignments`` reads it back: YAML, of which JSON is a part.

    Example:
        >>> [assigned(value) for value in ("mean", "yes", None, 1e-5)]
        ['mean', '"yes"', 'null', '1e-05']
    """
    plain = str(value)
    if isinstance(value, str):
        return plain if yaml.safe_load(plain) == value else json.dumps(value)
    return plain if isinstance(value, float) else json.dumps(value)


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a string; a user means the number."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _place(data: dict[str, Any], key: str, value: Any, owner: str) -> None:
    *parents, last = key.split(".")
    here: Any = data
    for name in parents:
        if not isinstance(here, dict) or name not in here:
            raise unknown(key, here, owner)
        here = here[name]
    if not isinstance(here, dict) or last not in here:
        raise unknown(key, here, owner)
    here[last] = value
