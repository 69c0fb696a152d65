"""The page of a run: it tells the record, escapes what it is given, and reaches for nothing."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pagekit import PNG, SVG, Page, a_record, a_run, a_section, figure

from stakes.errors import RunFolderError
from stakes.records import Figures
from stakes.report.page import render_page, write_page
from stakes.report.section import Section, Table, folder_of

EVIL = "\"'><script>alert(1)</script><img src=http://evil.test/x onerror=alert(2)>{{ 7*7 }}&lt;b&gt;"


def page_of(run: Path, **options: Any) -> Page:
    return Page(render_page(run, **options))


def test_every_figure_on_the_page_is_that_of_the_record(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", None, a_section())
    record, page = a_record(), page_of(run)
    for side in ("before", "after"):
        for name in ("test_accuracy", "retain_accuracy", "forget_accuracy"):
            value = getattr(getattr(record, side), name)
            assert page.text_with("data-figure", f"{side}.{name}") == [f"{value:.2f} %"]
            full = [a["data-value"] for _, a in page.elements if a.get("data-figure") == f"{side}.{name}"]
            assert [float(str(v)) for v in full] == [value], "the full value stands beside the rounded one"
    for phase in record.phases:
        for value in (phase.seconds, phase.forward_images, phase.backward_images):
            assert str(value) in [a.get("data-value") for a in page.all("td")]
    for text in (record.verdict, "1 of the images were misclassified already", "A note.", "b" * 64, "2.13.0"):
        assert text in page.body()
    assert "−60.07" in page.body()


def test_every_number_of_a_section_is_on_the_page(tmp_path: Path) -> None:
    section = a_section()
    page = page_of(a_run(tmp_path / "run", None, section))
    shown = {str(a["data-number"]): a.get("data-value") for a in page.all("dd") if "data-number" in a}
    assert shown.keys() == section.numbers.keys()
    for name, value in section.numbers.items():
        assert (None if shown[name] is None else float(str(shown[name]))) == value
    assert page.text_with("data-number", "p_value") == ["3.20e-09"]
    assert page.text_with("data-number", "tpr_at_1_percent") == ["unknown"]
    assert section.limit in page.body()
    assert section.sentence.replace(" %", "\u00a0%") in page.body()


def test_the_verdict_comes_first_and_tells_a_failure(tmp_path: Path) -> None:
    after = a_record().after.model_copy(update={"forget_accuracy": 50.0})
    record = a_record(after=after, forgotten=False, stop_reason="step limit")
    text = page_of(a_run(tmp_path / "run", record)).body()
    assert "NOT forgotten: 32 of 64" in text
    assert text.index("NOT forgotten") < text.index("What was asked") < text.index("Before and after")
    assert "✓" not in text


def test_what_was_not_measured_is_unknown(tmp_path: Path) -> None:
    only = Figures(forget_accuracy=0.0, forget_images=64)
    page = page_of(a_run(tmp_path / "run", a_record(before=only, after=only), steps=0))
    assert page.text_with("data-figure", "after.retain_accuracy") == ["unknown"]
    assert "What it cost the model is unknown" in page.body()
    assert "Over the steps" not in page.body()


def test_nothing_is_fetched_and_nothing_foreign_may_run(tmp_path: Path) -> None:
    sections = [a_section(figures=(figure("roc.svg"), figure("rows.png")))]
    text = render_page(a_run(tmp_path / "run", None, *sections), embed_images=True)
    page = Page(text)
    assert all(address.startswith(("#", "data:")) for address in page.reached_for())
    assert not re.search(r"url\((?!#)|@import|expression\(", text)
    assert not {name for name, _ in page.elements} & {
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "frame",
        "video",
    }
    policy = page.all("meta")[1]["content"] or ""
    assert "default-src 'none'" in policy
    assert "img-src data:" in policy
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'" in policy, "no other script runs, not even an inline one"


def hostile(tmp_path: Path) -> Path:
    section = Section(
        name="membership", title=EVIL, sentence=EVIL, limit=EVIL,
        numbers={EVIL: 1.0}, settings={EVIL: EVIL},
        tables=(Table(caption=EVIL, columns=(EVIL, "n"), rows=((EVIL, 1), (EVIL, None))),),
        figures=(figure("roc.svg").model_copy(update={"alt": EVIL, "caption": EVIL}),),
    )  # fmt: skip
    record = a_record(
        method=EVIL, preset=EVIL, notes=(EVIL,), device=EVIL, created=EVIL, versions={EVIL: EVIL},
        request={"model": EVIL, "data": EVIL, "forget": EVIL, EVIL: EVIL}, settings={EVIL: EVIL}, run={EVIL: EVIL},
    )  # fmt: skip
    return a_run(tmp_path / "run", record, section)


def test_what_comes_from_outside_is_text(tmp_path: Path) -> None:
    run = hostile(tmp_path)
    folder_of(run).joinpath("roc.svg").write_bytes(SVG.replace(b"<path", b"<script>alert(3)</script><path"))
    text = render_page(run)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 1
    assert all(str(a["src"]).startswith("data:image/") for a in page.all("img"))
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    assert "alert(3)" not in text, "a picture is never part of the page's own markup"
    assert "49" not in page.body(), "a template inside a text is not carried out"
    assert page.body().count("<script>alert(1)</script>") > 20, "all of it stands there, to be read"


def test_images_of_the_forget_set_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    run = a_run(
        tmp_path / "run", None, a_section(figures=(figure("own.png", personal=True), figure("roc.svg")))
    )
    picture = base64.b64encode(PNG).decode()
    without, with_images = render_page(run), render_page(run, embed_images=True)
    assert picture not in without
    assert "may be personal data" in without
    assert "stakes show --embed-images" in without
    assert "What own.png shows" in without, "what it would show is said"
    assert picture in with_images
    assert "This page holds images of the forget set" in with_images
    assert base64.b64encode(SVG).decode() in without
    write_page(run)
    assert picture not in (run / "report.html").read_text()
    write_page(run, embed_images=True)
    assert picture in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("gone.svg", None, "is missing"),
        ("../record.json", None, "not in the folder of the section"),
        ("page.svg", b"<html>no picture</html>", "neither SVG nor PNG"),
        ("photo.png", b"GIF89a", "neither SVG nor PNG"),
    ],
)
def test_a_figure_that_cannot_be_shown_says_why(
    tmp_path: Path, file: str, content: bytes | None, said: str
) -> None:
    run = a_run(tmp_path / "run", None, a_section(figures=(figure(file),)))
    where = folder_of(run) / file
    if content is not None:
        where.write_bytes(content)
    elif where.parent == folder_of(run):
        where.unlink()
    page = page_of(run)
    assert said in page.body()
    assert not page.all("img")


def test_sections_stand_proof_first_and_unknown_ones_last(tmp_path: Path) -> None:
    names = ["zeal", "gradcam", "streisand", "audit", "retrieval", "distance", "changes", "collapse"]
    page = page_of(a_run(tmp_path / "run", None, *(a_section(name) for name in names)))
    order = [str(a["id"])[8:] for a in page.all("section") if str(a.get("id", "")).startswith("section-")]
    assert order == ["changes", "distance", "streisand", "audit", "retrieval", "collapse", "gradcam", "zeal"]
    verdict = page.texts[[a.get("class") == "findings" for _, a in page.elements].index(True)]
    assert "Title of changes" in verdict
    assert "Title of retrieval" not in verdict
    assert "Title of audit" not in verdict, "the overview repeats the others"


def test_a_model_that_was_not_audited_says_so(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", None, a_section("retrieval"))
    assert "Not audited" in page_of(run).body()
    a_section("changes").save(run)
    assert "Not audited" not in page_of(run).body()


def test_a_section_that_differs_from_the_record_is_told(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", None, a_section())
    assert "holds other numbers" not in page_of(run).body()
    path = folder_of(run) / "membership.json"
    path.write_text(path.read_text().replace("0.3141592", "0.5"))
    assert "holds other numbers" in page_of(run).body()


def test_the_page_is_well_made(tmp_path: Path) -> None:
    sections = [a_section(name, figures=(figure(f"{name}.svg"),)) for name in ("changes", "membership")]
    page = page_of(a_run(tmp_path / "run", None, *sections))
    ids = Counter(str(a["id"]) for _, a in page.elements if "id" in a)
    assert [name for name, count in ids.items() if count > 1] == []
    targets = [address[1:] for address in page.reached_for() if address.startswith("#")]
    assert set(targets) <= set(ids), "every link inside the page leads somewhere"
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("scope") for a in page.all("th"))
    assert all(a.get("aria-label") for _, a in page.elements if a.get("role") == "img")
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), "no level of heading is skipped"


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", None, a_section(figures=(figure(),)))
    assert render_page(run) == render_page(run)


def test_no_finished_run_no_page(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no record"):
        write_page(tmp_path)
    assert not list(tmp_path.iterdir())
