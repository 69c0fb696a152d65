"""The accuracies of a record as rows and as a sentence, for page, card and comparison."""

from __future__ import annotations

from typing import Any

from stakes.records import Figures, Unlabelled
from stakes.report.formatting import percent, points

ACCURACIES = ("test", "retain", "forget")
_SETS = {"test": "test images", "retain": "images to keep", "forget": "images to forget"}


def accuracy_row(name: str, before: Figures, after: Figures) -> dict[str, Any]:
    """One accuracy before and after, in percent; None where there were no images to measure it on."""
    first, last = (getattr(figures, f"{name}_accuracy") for figures in (before, after))
    return {
        "key": f"{name}_accuracy",
        "name": _SETS[name],
        "images": getattr(after, f"{name}_images"),
        "before": first,
        "after": last,
        "change": last - first if first is not None and last is not None else None,
    }


def price(before: Figures, after: Figures, unlabelled: Unlabelled | None = None) -> str:
    """What the forgetting cost, in a sentence that stands beside the verdict, and another of unlabelled images."""
    agrees = unlabelled.agrees if unlabelled is not None else ""
    parts = [
        f"{name} accuracy from {percent(first)} to {percent(last)} ({points(first, last)} points)"
        for name in ("test", "retain")
        for first, last in [(getattr(before, f"{name}_accuracy"), getattr(after, f"{name}_accuracy"))]
        if first is not None and last is not None
    ]
    if not parts and agrees:
        return f"{agrees} There were no other images with labels to measure on."
    if not parts:
        return "What it cost the model is unknown: there were no other images to measure on."
    text = " and ".join(parts)
    return f"{text[0].upper()}{text[1:]}. {agrees}".rstrip()
