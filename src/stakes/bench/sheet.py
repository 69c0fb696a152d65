"""From records to the content of tables: means, spreads, the best; no format and no computation beyond that."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stakes.bench.ablations import PUBLISHED_ROWS
from stakes.bench.alike import refuse_other_images, refuse_others
from stakes.bench.published import BLOCKS, PUBLISHED, Block, Published
from stakes.errors import ConfigError, RunFolderError
from stakes.methods import METHODS
from stakes.records import Record

Layout = Literal["table2", "table3", "table4", "table5", "table6", "plain"]
BLOCK_TITLES: dict[Block, str] = {
    "test": "test accuracy",
    "retain": "retain accuracy",
    "forget": "100 − forget accuracy",
}
# References, not competitors: BEFORE forgets nothing, ORACLE trains on the retain set.
REFERENCES = {"before", "oracle", "oracle-finetune"}


@dataclass(frozen=True)
class Entry:
    """One number of a table.

    Attributes:
        mean, std: over seeds, percent; std is the sample's (n − 1), None for one seed. Both None: not known.
        n: seeds.
        published: the figure of the paper.
        best: highest mean of its column among methods, references left out, that forgot with every seed; single runs
            do not count where others have several, since one may have been lucky.
        unforgotten: some seed's forget accuracy is above 0.
    """

    mean: float | None
    std: float | None
    n: int
    published: float | None = None
    best: bool = False
    unforgotten: bool = False


@dataclass(frozen=True)
class Sheet:
    """The tables of one data set and model: blocks of rows over columns of k.

    Attributes:
        mixed_retain: the k whose rows were measured on different samples of the retain set, so that none is best.
    """

    title: str
    published_title: str | None
    k: tuple[int, ...]
    rows: tuple[str, ...]
    entries: Mapping[tuple[Block, str, int], Entry]
    failed: int = 0
    mixed_retain: tuple[int, ...] = ()

    def get(self, block: Block, row: str, k: int) -> Entry:
        """An entry; one without values where no record is."""
        return self.entries.get((block, row, k), Entry(None, None, 0))


def picked(
    records: Mapping[str, Record], rows: Sequence[str] | None, k: Sequence[int] | None
) -> dict[str, Record]:
    """Of these records those of some rows and sizes of forget sets; None: of all.

    Raises:
        ConfigError: a row or size that no record has.
    """
    there_rows = dict.fromkeys(_row(record) for record in records.values())
    there_k = dict.fromkeys(record.after.forget_images for record in records.values())
    for name, wanted, there in (("--rows", rows, there_rows), ("--k", k, there_k)):
        for one in wanted or ():
            if one not in there:
                known = ", ".join(sorted(map(str, there)))
                raise ConfigError(name, expected=f"of these: {known}", got=repr(one))
    return {
        name: record
        for name, record in records.items()
        if (rows is None or _row(record) in rows) and (not k or record.after.forget_images in k)
    }


def sheets(records: Mapping[str, Record], layout: Layout, *, failed: int = 0) -> list[Sheet]:
    """The tables of some records, by data set and model.

    Args:
        records: by the name of their cell.
        layout: ``table2`` to ``table6`` print the paper's figures beside ours, where the data have some.
        failed: cells that have no record.

    Raises:
        RunFolderError: no record, two of one row, k and seed, other settings in those of one row and k, or records
            of different models, test splits or forget sets under one name.
    """
    groups: dict[str, dict[str, Record]] = defaultdict(dict)
    for name, record in records.items():
        groups[f"{_asked(record, 'data')}, {_asked(record, 'model')}"][name] = record
    if not groups:
        raise RunFolderError(
            "the folder has no records", expected="cells/*.json", got="none", fix="Run stakes bench first."
        )
    return [_sheet(title, group, layout, failed) for title, group in groups.items()]


def _sheet(title: str, records: Mapping[str, Record], layout: Layout, failed: int) -> Sheet:
    _refuse_mixed(title, records)
    refuse_other_images(title, records)
    found: dict[tuple[str, int], dict[int, Record]] = defaultdict(dict)
    cells: dict[tuple[str, int], dict[str, Record]] = defaultdict(dict)
    methods: dict[str, str] = {}
    for name, record in records.items():
        row, k = _row(record), record.after.forget_images
        if record.seed in found[row, k]:
            raise RunFolderError(
                f"two records of {row}, k = {k}, seed {record.seed}",
                expected="one",
                got=f"{name} and another",
                fix="Were settings changed in between? Keep one, or give the rows labels.",
            )
        found[row, k][record.seed] = cells[row, k][name] = record
        methods[row] = record.method
    for (row, k), of_row in cells.items():
        refuse_others(f"{row}, k = {k}", of_row)
    # A grid can be told of the published columns after its first cells.
    told = (record.request.get("published") for record in records.values())
    reference = _reference(layout, str(next(filter(None, told), None)))
    entries: dict[tuple[Block, str, int], Entry] = {}
    for (row, k), by_seed in found.items():
        group = [by_seed[seed] for seed in sorted(by_seed)]
        for block in BLOCKS:
            known = row if reference is not None and reference.by_row else methods[row]
            published = reference.value(block, known, k) if reference else None
            entries[block, row, k] = _entry(block, group, published)
    ks = tuple(sorted({k for _, k in found}))
    variants = list(reference.values["test"]) if reference is not None and reference.by_row else []
    rows = sorted(
        methods,
        key=lambda row: (variants.index(row) if row in variants else -1, _place(methods[row]), row),
    )
    competing = [row for row in rows if methods[row] not in REFERENCES]
    mixed = _mixed_retain(found, competing, ks)
    _mark_best(entries, competing, {"test": ks, "retain": [k for k in ks if k not in mixed]})
    return Sheet(title, reference.title if reference else None, ks, tuple(rows), entries, failed, mixed)


def _mixed_retain(
    found: Mapping[tuple[str, int], Mapping[int, Record]], rows: Sequence[str], columns: Sequence[int]
) -> tuple[int, ...]:
    """Sizes of forget sets whose rows were measured on other samples of the retain set: not to be compared."""
    samples: dict[int, set[tuple[Any, int]]] = {
        k: {
            (record.run.get("retain_sample"), record.after.retain_images)
            for row in rows
            for record in found.get((row, k), {}).values()
            if record.retain_accuracy is not None
        }
        for k in columns
    }
    return tuple(k for k, some in samples.items() if len(some) > 1)


def _reference(layout: Layout, data: str) -> Published | None:
    """The published figures that a layout prints beside those of a data set."""
    if layout in PUBLISHED_ROWS:
        return PUBLISHED_ROWS[layout].get(data)
    found = PUBLISHED.get(data)
    return found if found is not None and found.table == layout else None


def _entry(block: Block, records: Sequence[Record], published: float | None) -> Entry:
    values = [_value(block, record) for record in records]
    known = [value for value in values if value is not None]
    unforgotten = any(record.forget_accuracy > 0 for record in records)
    if len(known) < len(values):
        # A mean over the seeds that happen to have a value would be of another set of runs.
        return Entry(None, None, len(values), published, unforgotten=unforgotten)
    std = statistics.stdev(known) if len(known) > 1 else None
    return Entry(statistics.fmean(known), std, len(known), published, unforgotten=unforgotten)


def _value(block: Block, record: Record) -> float | None:
    if block == "forget":
        return 100.0 - record.forget_accuracy
    return record.test_accuracy if block == "test" else record.retain_accuracy


def _mark_best(
    entries: dict[tuple[Block, str, int], Entry],
    rows: Sequence[str],
    columns: Mapping[Block, Sequence[int]],
) -> None:
    for block, sizes in columns.items():
        for k in sizes:
            able = {row: entries[block, row, k] for row in rows if (block, row, k) in entries}
            able = {row: e for row, e in able.items() if e.mean is not None and not e.unforgotten}
            several = any(e.n > 1 for e in able.values())
            means = {
                row: e.mean for row, e in able.items() if e.mean is not None and (e.n > 1 or not several)
            }
            for row, mean in means.items():
                # As printed: two that read alike are both the best.
                if round(mean, 2) == round(max(means.values()), 2):
                    old = able[row]
                    entries[block, row, k] = Entry(old.mean, old.std, old.n, old.published, True, False)


def _refuse_mixed(title: str, records: Mapping[str, Record]) -> None:
    for what in ("model_before", "test_set"):
        seen: dict[str | None, str] = {}
        for name, record in records.items():
            seen.setdefault(getattr(record.hashes, what), name)
        if len(seen) > 1:
            one, two, *_ = seen.values()
            raise RunFolderError(
                f"records of {title}",
                expected=f"one {what.replace('_', ' ')} for all",
                got=f"different ones in {one} and {two}",
                fix="Keep the records of one.",
            )


def _row(record: Record) -> str:
    return str(record.request.get("row", record.method))


def _asked(record: Record, key: str) -> str:
    return str(record.request.get(key) or "unnamed")


def _place(method: str) -> int:
    return list(METHODS).index(method) if method in METHODS else len(METHODS)
