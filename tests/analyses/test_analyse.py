"""All analyses of a run: what is written, what is skipped and why, and that it repeats."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import xml.etree.ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from runkit import SMALL

from stakes.analyses import ANALYSES, AnalysisSettings, analyse, gradcam
from stakes.analyses.context import Context, outputs_of
from stakes.errors import ConfigError, MissingExtraError, NumericalError
from stakes.models.projector import Projector
from stakes.opened import OpenedRun
from stakes.records import Record
from stakes.report.section import Section, folder_of, sections

NEVER = re.compile("guarantee", re.IGNORECASE)


def written_in(run: Path) -> list[Path]:
    """The files of the sections, in the order of their names; the lock is none."""
    return [path for path in sorted(folder_of(run).iterdir()) if path.name != ".lock"]


def anchors_of(run: OpenedRun) -> Path:
    return Path(run.record.request["model"]).parent / "anchors.safetensors"


@pytest.fixture(scope="module")
def whole(finished: OpenedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder after all analyses."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(finished.path, folder)
    run = dataclasses.replace(finished, path=folder)
    found = analyse(run, anchors=anchors_of(run), settings=SMALL)
    assert [one.name for one in found.skipped] == ["milestones"], "this run kept none"
    assert [section.name for section in found.sections] == [name for name in ANALYSES if name != "milestones"]
    return folder


def test_sections_that_end_together_all_stand_in_the_record(run: OpenedRun) -> None:
    made = [
        Section(name=f"part-{n}", title="A part", sentence="One.", limit="None.", numbers={"number": n})
        for n in range(16)
    ]
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(lambda section: section.save(run.path), made))
    recorded = Record.load(run.path / "record.json").analyses
    assert {name: row for name, row in recorded.items() if name.startswith("part-")} == {
        section.name: section.numbers for section in made
    }


def test_sections_and_figures_are_written(whole: Path) -> None:
    found = sections(whole)
    assert {section.name for section in found} == set(ANALYSES) - {"milestones"}
    record = Record.load(whole / "record.json")
    named = {figure.file for section in found for figure in section.figures}
    for section in found:
        assert record.analyses[section.name] == section.numbers
        assert section.sentence
        assert section.limit
        for text in (section.sentence, section.limit, section.title):
            assert not NEVER.search(text)
        for figure in section.figures:
            assert len(figure.alt) > 20
            path = folder_of(whole) / figure.file
            if path.suffix == ".svg":
                xml.etree.ElementTree.parse(path)
            else:
                with Image.open(path) as image:
                    image.verify()
    assert named == {path.name for path in written_in(whole) if path.suffix != ".json"}


def test_the_request_of_the_record_is_untouched(whole: Path, finished: OpenedRun) -> None:
    assert Record.load(whole / "record.json").digest() == finished.record.digest()


def test_pictures_of_forgotten_images_are_personal(whole: Path) -> None:
    for section in sections(whole):
        for figure in section.figures:
            assert figure.personal == ("forgotten" in figure.file)


def test_the_same_analysis_writes_the_same_bytes(whole: Path, run: OpenedRun) -> None:
    analyse(run, only=["retrieval", "anchors"], anchors=anchors_of(run), settings=SMALL)
    written = written_in(run.path)
    assert len(written) == 6
    for path in written:
        assert (folder_of(whole) / path.name).read_bytes() == path.read_bytes(), path.name


def test_svgs_keep_their_text_and_tell_no_time(whole: Path) -> None:
    text = (folder_of(whole) / "retrieval-scores.svg").read_text()
    assert "R@10" in text
    assert "<dc:date>" not in text


def test_only_some(run: OpenedRun) -> None:
    found = analyse(run, only=["consistency"], settings=SMALL)
    assert [section.name for section in found.sections] == ["consistency"]
    assert [path.name for path in written_in(run.path)] == ["consistency.json", "consistency.svg"]
    for wrong in (["retrieve"], []):
        with pytest.raises(ConfigError, match="retrieval, class-level"):
            analyse(run, only=wrong)
    with pytest.raises(ConfigError, match="galery"):
        analyse(run, settings={"galery": 3})


def test_what_a_run_gives_no_ground_for_is_skipped_with_reasons(run: OpenedRun) -> None:
    bare = dataclasses.replace(run, split=dataclasses.replace(run.split, test=None, retain=None))
    found = analyse(bare, anchors=anchors_of(run), settings=SMALL)
    assert [section.name for section in found.sections] == ["consistency"]
    assert {one.name for one in found.skipped} == set(ANALYSES) - {"consistency"}
    reasons = {one.name: one.reason for one in found.skipped}
    assert "--milestones" in reasons.pop("milestones")
    assert all("--data" in reason for reason in reasons.values())


def test_a_missing_library_is_an_error_only_where_it_was_asked_for(
    run: OpenedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(context: Context) -> Section:
        raise MissingExtraError("Grad-CAM", fix="Install stakes[analyses].")

    monkeypatch.setattr("stakes.analyses.ANALYSES", {"gradcam": absent})
    found = analyse(run)
    assert "stakes[analyses]" in found.skipped[0].reason
    with pytest.raises(MissingExtraError):
        analyse(run, only=["gradcam"])
    assert callable(gradcam.analysis)


def test_features_are_those_the_head_reads(context: Context) -> None:
    model = context.run.before.clone()
    model.projector = Projector(model.feature_width)
    images = context.run.split.forget
    found = outputs_of(model, images, batch=3)
    with torch.no_grad():
        torch.testing.assert_close(found.logits, model(images.batch(slice(None))))
        torch.testing.assert_close(model.head(found.features), found.logits)
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    with pytest.raises(NumericalError, match="features"):
        outputs_of(model, images)


def test_samples_are_seeded_and_capped(context: Context) -> None:
    gallery = context.images("retain")
    assert gallery is not None
    assert len(gallery) == SMALL["gallery"]
    again = Context(context.run, context.settings).images("retain")
    assert again is not None
    assert again.hashes() == gallery.hashes()
    other = Context(context.run, context.settings.model_copy(update={"seed": 1})).images("retain")
    assert other is not None
    assert other.hashes() != gallery.hashes()
    whole = Context(context.run, AnalysisSettings()).images("test")
    assert whole is not None
    assert whole.hashes() == context.run.split.test.hashes()  # type: ignore[union-attr]


def test_the_command(stakes_cli: Any, run: OpenedRun) -> None:
    code, found, err = stakes_cli(
        "analyse", run.path, "--only", "class-level,streisand", "--set", "test_images=80",
        "--seed", 3, "--device", "cpu", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert [section["name"] for section in found["sections"]] == ["class-level", "streisand"]
    assert found["sections"][1]["numbers"]["unseen_images"] == 80
    assert found["sections"][1]["settings"]["seed"] == 3
    assert found["skipped"] == {}
    assert json.loads((run.path / "record.json").read_text())["analyses"].keys() >= {"streisand"}
    code, said, err = stakes_cli(
        "analyse", run.path, "--only", "anchors", "--set", "gallery=3", "--anchors", anchors_of(run)
    )
    assert code == 0, err
    assert "skipped anchors: visual prototypes cannot be made" in said
    assert (run.path / "report.html").is_file()
    code, _, err = stakes_cli("analyse", run.path, "--only", "nonsense")
    assert (code, "nonsense" in err) == (2, True)
    code, _, err = stakes_cli("analyse", run.path.parent)
    assert code == 2
