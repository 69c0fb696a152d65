"""What a grid file says: data × model × method × k × seed, typed and strict."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

import yaml
from pydantic import Field, PrivateAttr, field_validator, model_validator

from stakes.config import RunSettings, Settings, build
from stakes.data.unlabelled import held_back
from stakes.errors import ConfigError, DataError
from stakes.files import digest
from stakes.places import filled

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$", max_length=60)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
PROTOTYPES = "prototypes"  # in place of a file of anchors


class Facts(Settings):
    """Sizes of a data set, so that a dry run can count without it. A real run counts for itself."""

    train_images: Count
    test_images: int = Field(0, ge=0)
    classes: int = Field(ge=2)
    image_size: tuple[Count, Count, Count] = Field(description="(C, H, W) that the model takes")
    unlabelled: int = Field(0, ge=0, description="unlabelled images, for the rows that train on them")


class AnchorSource(Settings):
    """How anchors are made: attributes from a JSON file (default: the bundled ones), and an encoder."""

    attributes: str | None = None
    encoder: str = "minilm"


class ModelEntry(Settings):
    """A BEFORE model: a checkpoint file or folder, or a hub id."""

    name: Name
    path: str


class DataEntry(Settings):
    """A data set with the models that were trained on it.

    ``source``, ``models``, ``anchors`` and ``unlabelled`` take ``${VARIABLE}`` and paths beside the grid file; see
    `Grid.locate`.
    """

    name: Name
    source: str
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    anchors: str | AnchorSource = Field(AnchorSource(), description="a safetensors file, or how to make them")
    published: Literal["cifar10", "cifar100", "imagenet", "lacuna10"] | None = Field(
        None, description="the published columns to print beside ours"
    )
    facts: Facts | None = None
    unlabelled: str | None = Field(
        None,
        description="a folder, or test:N, which no row is measured on then; for rows that say unlabelled",
    )

    @field_validator("models", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A path alone stands for a model named after its last part."""
        if isinstance(value, str | dict):
            value = [value]
        if not isinstance(value, list | tuple):
            return value
        return [{"name": _last_part(one), "path": one} if isinstance(one, str) else one for one in value]


class MethodEntry(Settings):
    """A row of the tables: a method with its settings; ``k`` and ``seeds`` narrow those of the grid.

    ``anchors`` gives the row others than the data's: a file, how to make them (another encoder, supplement C), or
    ``prototypes``: class means over the retain set (Table 4).
    """

    method: str
    preset: str | None = None
    settings: dict[str, Any] = Field({})
    label: Name | None = Field(None, description="name of the row; by default method[-preset]")
    k: tuple[Count, ...] | None = Field(None, min_length=1)
    seeds: tuple[Seed, ...] | None = Field(None, min_length=1)
    anchors: str | AnchorSource | None = Field(None, description="prototypes, or as those of the data")
    unlabelled: bool = Field(False, description="whether the row trains on the data's unlabelled images too")
    tuned: str | None = Field(None, description="record of stakes tune, whose choice comes before settings")

    @property
    def row(self) -> str:
        """Name of the row."""
        parts = [
            self.method,
            self.preset,
            "tuned" if self.tuned else None,
            "unlabelled" if self.unlabelled else None,
        ]
        return self.label or "-".join(part for part in parts if part)


class Grid(Settings):
    """A grid of unlearnings; every combination is one cell.

    Example:
        >>> grid = build(Grid, {
        ...     "name": "tiny", "data": [{"name": "digits", "source": "digits", "models": ["model"]}],
        ...     "methods": ["before", {"method": "structguard", "preset": "authors"}], "k": [2], "seeds": [0, 1],
        ... })
        >>> [entry.row for entry in grid.methods]
        ['before', 'structguard-authors']
    """

    name: Name
    data: tuple[DataEntry, ...] = Field(min_length=1)
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    k: tuple[Count, ...] = Field(min_length=1, description="sizes of the forget set, drawn by random:K")
    seeds: tuple[Seed, ...] = Field(min_length=1)
    run: RunSettings = RunSettings()
    cache: str | None = Field(None, description="folder for probes and predictions; null: OUT/cache")
    keep_models: bool = Field(False, description="keep the run folder of every cell, weights included")
    # Where the file lies: relative paths start there.
    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @field_validator("methods", mode="before")
    @classmethod
    def _plain_names(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"method": one} if isinstance(one, str) else one for one in value]

    @field_validator("run", mode="before")
    @classmethod
    def _no_seed(cls, value: Any) -> Any:
        if isinstance(value, dict) and "seed" in value:
            raise ValueError("the seeds of a grid stand in seeds, not in run")
        return value

    @model_validator(mode="after")
    def _different(self) -> Grid:
        for title, names in (
            ("k", self.k),
            ("seeds", self.seeds),
            ("names of data", [entry.name for entry in self.data]),
            ("rows of methods (tell them apart by label)", [entry.row for entry in self.methods]),
            *((f"models of {entry.name}", [one.name for one in entry.models]) for entry in self.data),
        ):
            twice = {str(name) for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"{title}: each once, but there are two of {', '.join(sorted(twice))}")
        using = [entry.row for entry in self.methods if entry.unlabelled]
        without = [entry.name for entry in self.data if entry.unlabelled is None]
        if using and without:
            raise ValueError(f"row {using[0]} wants unlabelled images, and data {without[0]} name none")
        return self

    def locate(self, text: str, *, strict: bool = True) -> str:
        """A place of the grid as a path that can be opened, or the text itself where it is no path.

        ``${VARIABLE}`` comes from the environment. What then starts with ``.``, ``/`` or ``~``, or lies beside
        the grid file, is a path; all else (``digits``, a hub id) stays as it is.

        Args:
            strict: whether a variable that is not set is an error; otherwise it stays as written.

        Raises:
            ConfigError: a variable is not set.
        """
        found = filled(text, owner=f"grid {self.name}", strict=strict)
        if found.startswith(("/", "~", "$")):
            return str(Path(found).expanduser())
        beside = self._folder / found
        if found.startswith(".") or (found != "digits" and beside.exists()):
            return str(beside.resolve())
        return found

    def check_places(self) -> None:
        """Refuse to start where a named file or folder is missing, before any work is done.

        Raises:
            ConfigError: a variable of the environment is not set.
            DataError: a path is not there.
        """
        for entry in self.data:
            anchors = [entry.anchors, *(row.anchors for row in self.methods)]
            files = [file for one in anchors if (file := _anchor_file(one)) is not None]
            if entry.unlabelled is not None and not held_back(entry.unlabelled):
                files.append(entry.unlabelled)
            for text in dict.fromkeys([entry.source, *(model.path for model in entry.models), *files]):
                found = self.locate(text)
                # A source or a model that is no path may be a hub id; the others are always files.
                if (found.startswith("/") or text in files) and not Path(found).exists():
                    raise DataError(
                        f"{text} of {entry.name} in grid {self.name}",
                        expected="a file or folder",
                        got=f"nothing at {found}",
                        fix="A --dry-run needs no data.",
                    )


G = TypeVar("G", bound=Grid)


@overload
def load_grid(path: Path) -> Grid: ...


@overload
def load_grid(path: Path, kind: type[G]) -> G: ...


def load_grid(path: Path, kind: type[Grid] = Grid) -> Grid:
    """Read a grid file, as a `Grid` or as a kind of it.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or a wrong value, named.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"grid {path}", expected="a YAML file", got=" ".join(str(error).split()), fix="See experiments/."
        ) from None
    if not isinstance(data, dict):
        raise ConfigError(f"grid {path}", expected="names and values", got=type(data).__name__)
    grid = build(kind, {"name": re.sub(r"[^A-Za-z0-9.+-]", "-", path.stem)} | data)
    grid._folder = path.resolve().parent
    return grid


def _anchor_file(anchors: str | AnchorSource | None) -> str | None:
    """The file that anchors are, or are made from, where there is one."""
    named = anchors.attributes if isinstance(anchors, AnchorSource) else anchors
    return None if named == PROTOTYPES else named


def _last_part(text: str) -> str:
    """A name for a model that has none: the last part of its path."""
    part = re.sub(r"[^A-Za-z0-9.+-]", "-", text.rstrip("/").rsplit("/", 1)[-1]).strip("-.")
    return part[:60] or digest(text)[:8]
