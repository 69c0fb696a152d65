"""Whether records may be averaged: what all of one row and size of forget set have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stakes.bench.grid import PROTOTYPES
from stakes.config import QUIET, RunSettings
from stakes.errors import RunFolderError, shown
from stakes.methods import METHODS
from stakes.records import Record
from stakes.report.formatting import flat


def refuse_others(what: str, records: Mapping[str, Record]) -> None:
    """Make sure that the records of one row and k, by name of cell, are of one request but for the seed.

    Raises:
        RunFolderError: they are not; it says in what, and names two of them.
    """
    (name, first), *others = records.items()
    wanted = _request(first)
    for other, record in others:
        found = _request(record)
        # A setting that an older record lacks, and whose default is not known, cannot be compared.
        for key in wanted:
            if key in found and wanted[key] != found[key]:
                raise RunFolderError(
                    f"records of {what}",
                    expected=f"one {key} for all seeds",
                    got=f"{shown(wanted[key])} in {name} and {shown(found[key])} in {other}",
                    fix="Were settings changed in between? Keep one, or give the rows labels.",
                )


def refuse_other_images(what: str, records: Mapping[str, Record]) -> None:
    """Make sure that all records with one seed that were asked to forget the same forgot the same images.

    They did not where the training data were others, or sorted otherwise.

    Raises:
        RunFolderError: they did not; it names two of them.
    """
    found: dict[tuple[Any, int], tuple[str, str]] = {}
    for name, record in records.items():
        if (asked := record.request.get("forget")) is None:
            continue
        key = asked, record.seed
        first, images = found.setdefault(key, (name, record.hashes.forget_set))
        if images != record.hashes.forget_set:
            raise RunFolderError(
                f"records of {what}",
                expected=f"one forget set for {key[0]} with seed {key[1]}",
                got=f"one in {first} and another in {name}",
                fix="Were the training data changed in between? Keep the cells of one of them.",
            )


def _request(record: Record) -> dict[str, Any]:
    """What was asked, whatever the seed; what a record lacks since it came later is at its default."""
    kind = METHODS.get(record.method)
    settings = kind.settings_type().model_dump(mode="json") if kind is not None else {}
    run = {name: field.default for name, field in RunSettings.model_fields.items()} | record.run
    asked = {key: record.request.get(key) for key in ("plugin", "unlabelled", "held_back")}
    found: dict[str, Any] = {"method": record.method, "preset": record.preset}
    found |= flat(settings) | flat(record.settings)
    found |= {key: value for key, value in run.items() if key not in {*QUIET, "seed"}} | asked
    wanted = record.request.get("anchors")
    if isinstance(wanted, Mapping):
        # An encoder's, which two machines round otherwise: what it read is compared, where the record is new enough.
        found |= {"anchors": text} if (text := record.hashes.anchors_text) else {}
    elif wanted != PROTOTYPES:  # means over the retain set, which differs by seed
        found["anchors"] = record.hashes.anchors
    return found
