"""The model card of a run, in the hub's format: what the model is, how it measures, and what that does not promise.

A card is made to be published with the weights. It holds no picture, no path, no class name, no word of the request
but its kind, and no hash of the forget set: with that, who has an image could tell that it was among them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from stakes.files import write_bytes
from stakes.records import Record
from stakes.report.arrangement import audit_of, audited
from stakes.report.figures import ACCURACIES, accuracy_row, price
from stakes.report.formatting import flat, percent, shown
from stakes.report.section import Section, sections

_TAGS = ["machine-unlearning", "image-classification", "stakes"]
_ASKED = {
    "random": "drawn at random from the training data",
    "indices": "named by their rows in the training data",
    "files": "named by their files in the training data",
    "class": "those of one class",
    "images": "handed over as files",
}


def write_card(folder: Path) -> Path:
    """Write the card of a finished run as ``README.md`` beside its model, and give its path.

    Raises:
        RunFolderError: the folder holds no finished run, or a damaged section.
        OutputError: it cannot be written.
    """
    path = folder / "README.md"
    write_bytes(path, model_card(folder).encode())
    return path


_NAMED = ("forget", "model", "data", "note", "reference", "unlabelled")
"""Parts of a request that are a user's own words or places."""


def model_card(folder: Path) -> str:
    """The card of a finished run: YAML metadata with its figures, then Markdown.

    Example:
        >>> text = model_card(Path("runs/request-17"))  # doctest: +SKIP

    Raises:
        RunFolderError: the folder holds no finished run, or a damaged section.
    """
    record = Record.load(folder / "record.json")
    config = _config(folder)
    found = sections(folder)
    kept, withheld = _publishable(audit_of(found), record)
    body = (
        _environment()
        .get_template("card.md.j2")
        .render(
            method=record.method,
            verdict=record.verdict,
            images=_images(record),
            price=price(record.before, record.after, record.unlabelled),
            accuracies=[accuracy_row(name, record.before, record.after) for name in ACCURACIES],
            audit=kept,
            withheld=withheld,
            audited=audited(section.name for section in found),
            own_class=not config.get("architecture"),
            size=", ".join(str(side) for side in config.get("input_size", ("C", "H", "W"))),
            facts=_facts(record, config),
            settings=[(key, _without_paths(value)) for key, value in sorted(flat(record.settings).items())],
        )
    )
    return f"---\n{_metadata(record)}\n---\n\n{body}"


def request_kind(request: str) -> str:
    """The kind of a request and its size, without what it names.

    Example:
        >>> [request_kind(text) for text in ("random:64", "images:/home/ann/photos", "class:ann")]
        ['random:64', 'images', 'class']
    """
    kind, _, value = request.partition(":")
    if kind == "random" and value.strip().isdigit():
        return f"random:{value.strip()}"
    return kind if kind in _ASKED else "given in Python"


def _metadata(record: Record) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type="private",
            dataset_config=row["key"].removesuffix("_accuracy"),
            dataset_name=row["name"],
            dataset_split="test" if row["key"] == "test_accuracy" else "train",
            metric_type="accuracy",
            metric_name=f"{row['key'].replace('_', ' ')} in percent",
            metric_value=row["after"],
        )
        for row in (accuracy_row(name, record.before, record.after) for name in ACCURACIES)
        if row["after"] is not None
    ]
    data = ModelCardData(
        library_name="stakes",
        pipeline_tag="image-classification",
        tags=_TAGS,
        model_name=f"unlearned-by-{record.method}",
        eval_results=results,
    )
    return data.to_yaml()


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("stakes.report"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    made.filters |= {"md": _markdown, "shown": shown, "percent": percent}
    return made


def _markdown(text: object) -> str:
    """Text that Markdown and HTML take as text, on one line."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", line)


def _images(record: Record) -> str:
    count = record.after.forget_images
    how = _ASKED.get(request_kind(str(record.request.get("forget") or "")).partition(":")[0])
    return f"{count:,} training image{' was' if count == 1 else 's were'} to be forgotten" + (
        f", {how}" if how else ""
    )


def _shift(record: Record) -> str | None:
    return None if record.unlabelled is None or (found := record.unlabelled.shift) is None else f"{found:.2f}"


def _facts(record: Record, config: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("method", record.method),
        ("preset", record.preset),
        ("request", request_kind(str(record.request.get("forget") or ""))),
        (
            "unlabelled images that it was held to its answers on",
            record.unlabelled and record.unlabelled.images,
        ),
        ("their shift from what it was trained on, in standard deviations", _shift(record)),
        ("seed", record.seed),
        ("steps", f"{record.steps:,}, {record.stop_reason}"),
        ("network", _without_paths(config.get("architecture"))),
        ("classes", config.get("num_classes")),
        ("made", record.created),
        ("stakes", record.versions.get("stakes")),
        ("SHA-256 of the original model", record.hashes.model_before),
        ("SHA-256 of this model", record.hashes.model_after),
    ]
    return [(key, str(value)) for key, value in rows if value is not None]


def _publishable(found: list[Section], record: Record) -> tuple[list[Section], int]:
    """The findings whose words repeat nothing of the request, and how many others there are."""
    request = {key: str(record.request.get(key) or "").strip() for key in _NAMED}
    kind, _, named = request["forget"].partition(":")
    # A bare word such as `digits` may be part of any sentence; a path is not.
    words = [request[key] for key in _NAMED if key != "forget" and re.search(r"[/\\\s]", request[key])]
    words += [named.strip()] if kind != "random" else []
    secret = [re.compile(rf"(?<![\w.]){re.escape(word)}(?![\w])", re.IGNORECASE) for word in words if word]
    kept = [
        section
        for section in found
        if not any(
            word.search(text) for word in secret for text in (section.title, section.sentence, section.limit)
        )
    ]
    return kept, len(found) - len(kept)


def _without_paths(value: Any) -> str | None:
    if value is None:
        return None
    return "(a path, left out)" if isinstance(value, str) and re.search(r"[/\\]", value) else str(value)


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
