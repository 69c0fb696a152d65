"""A section of a report: what one analysis or attack found, in a form that page, record and comparison all read."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import pydantic
from pydantic import BaseModel, ConfigDict

from stakes.errors import RunFolderError
from stakes.files import write_json
from stakes.locks import alone
from stakes.records import Record

Cell = str | float | int | None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Table(_Part):
    """Rows of cells under named columns; numbers stay numbers, None is "unknown"."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Figure(_Part):
    """A picture beside the section's file.

    Attributes:
        file: name of an SVG or PNG in the folder of the section.
        alt: what it shows, for who cannot see it.
        personal: it shows images of the forget set; the page leaves it out unless images are asked for.
    """

    file: str
    alt: str
    caption: str = ""
    personal: bool = False


class Section(_Part):
    """What one analysis found.

    Attributes:
        name: file name and key in the record: lower case with hyphens.
        title: heading.
        sentence: the finding with its number; never a promise.
        limit: what the finding does not show.
        numbers: the row for the record; fractions, percents and counts as their names say.
        settings: what it was made with.
    """

    name: str = pydantic.Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    title: str
    sentence: str
    limit: str
    numbers: dict[str, float | int | None] = {}
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    settings: dict[str, Cell] = {}

    def save(self, run: Path) -> Path:
        """Write ``analyses/NAME.json`` in a run folder and put the numbers into its record.

        Raises:
            RunFolderError: the folder holds no finished run.
            OutputError: it cannot be written.
        """
        recorded, path = run / "record.json", folder_of(run) / f"{self.name}.json"
        Record.load(recorded)  # refused before anything is made
        # Two analyses of one run may end together, and neither may take the other's numbers out of the record.
        with alone(path.parent / ".lock", what=f"{run}", fix="Wait for the other one.", wait=60.0):
            record = Record.load(recorded)
            write_json(path, self.model_dump(mode="json"))
            analyses = record.analyses | {self.name: self.numbers}
            record.model_copy(update={"analyses": analyses}).save(recorded)
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a section.

        Raises:
            RunFolderError: no such file, or a damaged one.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, pydantic.ValidationError) as error:
            raise RunFolderError(
                f"section {path}",
                expected="a file that an analysis of this version wrote",
                got=str(error).splitlines()[0],
                fix="Run the analysis again.",
            ) from None


def folder_of(run: Path) -> Path:
    """Where the sections of a run and their pictures are."""
    return run / "analyses"


def sections(run: Path) -> list[Section]:
    """All sections of a run, by name."""
    return [Section.load(path) for path in sorted(folder_of(run).glob("*.json"))]
