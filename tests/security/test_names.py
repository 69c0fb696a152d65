"""Class names from strangers: shown as text everywhere, never paths, never terminal commands."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from stakes.anchors import Anchors, build_anchors
from stakes.api import unlearn
from stakes.data.images import ImageSet
from stakes.errors import AnchorError, DataError, ModelError
from stakes.models import Classifier, build_network, load_checkpoint
from stakes.report.page import write_page
from stakes.report.section import Figure, Section, Table, folder_of

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"
PATHS = ("../x", "/etc/passwd", "..\\x", "a/b", "~", "con", "-rf")


def classifier(names) -> Classifier:
    return Classifier.from_network(
        build_network("resnet10", num_classes=len(names), width=4), class_names=names, input_size=(3, 8, 8)
    ).eval()


def forgotten(folder: Path, names) -> Path:
    """A finished run of a model with these class names; images of the classes in turn."""
    pixels = torch.rand((2 * len(names), 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images = ImageSet.from_tensors(pixels, torch.arange(len(pixels)) % len(names), names)
    few = {"probes.per_image": 1, "probes.iterations": 1, "max_steps": 1}
    anchors = Anchors(torch.eye(len(names), 8), names)
    request = {"forget": f"class:{EVIL}", "note": EVIL, "model": "a\nb"}
    unlearn(
        classifier(names),
        images,
        anchors=anchors,
        preset="paper",
        settings=few,
        out=folder / "run",
        cache=folder / "cache",
        device="cpu",
        request=request,
    )
    return folder / "run"


class Found(HTMLParser):
    """All tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def risky(text: str) -> list[str]:
    """Scripts, handlers, images and links that reach out."""
    found = []
    for tag, attributes in Found(text).tags:
        found += [f"{tag} {name}" for name in attributes if name.startswith("on")]
        found += [tag] if tag in ("script", "iframe", "object", "embed", "base", "form") else []
        reach = [attributes.get(name) or "" for name in ("src", "href", "action")]
        found += [f"{tag} {value}" for value in reach if value and not value.startswith(("#", "data:"))]
    return sorted(found)


def test_html_in_names_requests_and_sections_stays_text(tmp_path):
    harmless = risky(write_page(forgotten(tmp_path / "plain", ("ant", "bee", "cow"))).read_text())
    run = forgotten(tmp_path / "evil", (EVIL, "</title><b>", "javascript:alert(3)"))
    folder_of(run).mkdir()
    (folder_of(run) / "shot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Section(
        name="evil",
        title=EVIL,
        sentence=EVIL,
        limit=EVIL,
        numbers={"auc": 0.5},
        settings={EVIL: EVIL},
        tables=(Table(caption=EVIL, columns=(EVIL, "b"), rows=((EVIL, 1.0), (None, EVIL))),),
        figures=(Figure(file="shot.png", alt=EVIL, caption=EVIL),),
    ).save(run)
    page = write_page(run).read_text()
    assert risky(page) == harmless
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page, "it stands there, to be read"
    assert "{{ 7*7 }}" in page, "and is no template"


def test_names_that_look_like_paths_are_names(tmp_path):
    """Nothing is written outside the folders that were named, and no file is named after a class."""
    run = forgotten(tmp_path / "inside", PATHS)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(tmp_path / "inside") for path in written)
    assert not [path for path in written if path.name in {Path(name).name for name in PATHS}]
    assert load_checkpoint(run).class_names == PATHS


@pytest.mark.parametrize(
    "name", ["cat\0", "cat\x1b[2J", "a\nb", "a\rb", "a\tb", "\u202egod", "\ud800", "a\x85b"]
)
def test_control_characters_are_refused(name):
    names = ("dog", name)
    with pytest.raises(DataError, match=r"class name 1: expected no control characters") as caught:
        ImageSet.from_tensors(torch.zeros(2, 3, 8, 8), [0, 1], names)
    assert name not in str(caught.value), "the message does not do what it warns of"
    with pytest.raises(ModelError, match="no control characters"):
        classifier(names)
    with pytest.raises(AnchorError, match="no control characters"):
        build_anchors(names, attributes=None)


@pytest.mark.parametrize("name", ["été", "猫", "tench, Tinca tinca", "n/a", "emoji 🐈", "C++", "עברית"])
def test_names_of_the_world_are_taken(name):
    assert ImageSet.from_tensors(torch.zeros(2, 3, 8, 8), [0, 1], ["dog", name]).class_names[1] == name


def test_a_folder_with_such_a_name(tmp_path):
    from PIL import Image

    from stakes.data import open_source

    place = tmp_path / "train" / "cat\x1b[31m"
    place.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(place / "0.png")
    with pytest.raises(DataError, match=r"no control characters.*Rename"):
        open_source(tmp_path)
