"""Made-up finished runs, and an eye for what a page holds."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from stakes.methods import find_method
from stakes.records import Figures, Hashes, Phase, Record
from stakes.report.section import Figure, Section, Table, folder_of

VOID = {"meta", "link", "img", "br", "input", "hr"}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 10" width="40" height="10"><path d="M0 0H9"/></svg>'
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def a_record(**changes: Any) -> Record:
    """A record like that of a real run."""
    values: dict[str, Any] = {
        "created": "2026-11-24T10:53:45+00:00",
        "method": "structguard",
        "preset": "paper",
        "settings": find_method("structguard").configure("paper").settings.model_dump(mode="json"),
        "run": {"seed": 3, "device": "cpu", "precision": "fp32", "retain_sample": 500, "measure_every": 10},
        "request": {"model": "models/before", "data": "data/cifar10", "forget": "random:64", "note": ""},
        "seed": 3,
        "before": Figures(
            test_accuracy=87.98, retain_accuracy=97.91, forget_accuracy=98.4375,
            test_images=10000, retain_images=500, forget_images=64,
        ),
        "after": Figures(
            test_accuracy=27.913, retain_accuracy=28.82, forget_accuracy=0.0,
            test_images=10000, retain_images=500, forget_images=64,
        ),
        "forgotten": True,
        "steps": 30,
        "stop_reason": "forgotten",
        "already_misclassified": 1,
        "phases": (
            Phase(name="probes", seconds=12.5, forward_images=128000, backward_images=127999),
            Phase(name="unlearn", seconds=835.889, forward_images=167636, backward_images=148192),
        ),
        "hashes": Hashes(
            model_before="b" * 64, model_after="a" * 64, forget_set="f" * 64, test_set="c" * 64, retain_set="d" * 64
        ),
        "versions": {"stakes": "0.1.0", "torch": "2.13.0"},
        "device": "cpu",
        "notes": ("A note.",),
    }  # fmt: skip
    return Record(**(values | changes))


def a_section(name: str = "membership", **changes: Any) -> Section:
    """A section with a table, and numbers of every kind."""
    values: dict[str, Any] = {
        "name": name,
        "title": f"Title of {name}",
        "sentence": "AUC 0.3141 (95 % interval 0.22 to 0.41).",
        "limit": "64 images only.",
        "numbers": {"auc": 0.3141592, "members": 12345, "p_value": 3.2e-9, "tpr_at_1_percent": None},
        "tables": (
            Table(
                caption="Attacks",
                columns=("attack", "auc", "images"),
                rows=(("b", 0.9, 10), ("a", 0.31, 9), ("c", None, 1200)),
            ),
        ),
        "settings": {"folds": 5},
    }
    return Section(**(values | changes))


def a_run(folder: Path, record: Record | None = None, *found: Section, steps: int = 30) -> Path:
    """A folder as `unlearn` and some analyses leave it, without weights; figures of sections are made up too."""
    folder.mkdir(parents=True)
    (record or a_record()).save(folder / "record.json")
    rows: list[dict[str, float]] = [
        {"step": float(i), "loss": 5.0 / i, "loss_del": -float(i)} for i in range(1, steps + 1)
    ]
    for row in rows[9::10]:
        row["forget_accuracy"] = max(0.0, 100 - 100 * row["step"] / steps)
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "architecture": "resnet18",
        "class_names": ["ann", "bob"],
        "num_classes": 2,
        "input_size": [3, 32, 32],
    }
    (folder / "config.json").write_text(json.dumps(config))
    for section in found:
        section.save(folder)
        for figure in section.figures:
            if Path(figure.file).name == figure.file:
                (folder_of(folder) / figure.file).write_bytes(PNG if figure.file.endswith("png") else SVG)
    return folder


def figure(file: str = "roc.svg", *, personal: bool = False) -> Figure:
    return Figure(file=file, alt=f"What {file} shows", caption=f"Caption of {file}", personal=personal)


class Page(HTMLParser):
    """Elements with their attributes and texts, flat and in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self.elements[self._open.pop()][0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for index in self._open:
            self.texts[index] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text_with(self, attribute: str, value: str | None = None) -> list[str]:
        """Texts of the elements that have an attribute (of that value)."""
        return [
            text.strip()
            for (_, attributes), text in zip(self.elements, self.texts, strict=True)
            if attribute in attributes and (value is None or attributes[attribute] == value)
        ]

    def body(self) -> str:
        return self.texts[[name for name, _ in self.elements].index("main")]

    def reached_for(self) -> list[str]:
        """Every address that a browser would fetch or go to."""
        names = (
            "src",
            "href",
            "xlink:href",
            "srcset",
            "data",
            "action",
            "formaction",
            "poster",
            "background",
        )
        return [str(a[name]) for _, a in self.elements for name in names if a.get(name) is not None]
