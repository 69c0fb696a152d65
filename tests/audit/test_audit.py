"""A whole audit: in Python, on the command line, with references, and what it leaves in the run folder."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import stakes
from stakes import cli, opened
from stakes.audit import ATTACKS, AuditSettings, audit
from stakes.audit.references import Reference, expanded, halves, load_reference, train_references
from stakes.data.images import ImageSet
from stakes.data.sources import open_source
from stakes.errors import CheckpointError, ConfigError, DataError, RunFolderError
from stakes.models.checkpoint import load_checkpoint
from stakes.models.recipe import recipe
from stakes.opened import open_run
from stakes.records import Record
from stakes.report.arrangement import is_attack
from stakes.report.section import sections
from stakes.training import train_checkpoint

SMALL = {
    "architecture": "resnet10",
    "options": {"width": 2},
    "settings": recipe("demo").with_overrides({"epochs": 2}),
}
QUICK = {
    "membership.unseen": 100,
    "membership.population": 60,
    "membership.resamples": 99,
    "relearning.max_steps": 5,
    "relearning.retain_steps": 4,
    "relearning.search": 100,
    "probe.images": 60,
    "probe.train": 80,
    "distance.images": 60,
    "changes.draws": 1,
    "changes.unseen": 20,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the digits, two reference models, and a run that forgot six images."""
    home = tmp_path_factory.mktemp("audit")
    source = open_source("digits")
    train_checkpoint(source, home / "model", **SMALL)  # type: ignore[arg-type]
    train_references(source, home / "references", models=2, **SMALL)  # type: ignore[arg-type]
    model = load_checkpoint(home / "model")
    split = stakes.split_forget("random:6", source, class_names=model.class_names, size=model.input_size)
    stakes.unlearn(
        model,
        split,
        method="neggrad",
        out=home / "run",
        cache=home / "cache",
        request={"model": str(home / "model"), "data": "digits", "forget": "random:6"},
        retain_sample=50,
    )
    train_references(source, home / "retrained", models=1, without=split.forget, **SMALL)  # type: ignore[arg-type]
    return home


def digest_of(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "analyses").iterdir())}


def test_pages_know_every_attack():
    assert all(map(is_attack, ATTACKS))
    assert not is_attack("streisand")


def test_everything_in_one_go(home: Path) -> None:
    told: list[str] = []

    def progress(phase: str, done: int, total: int, **figures: float) -> None:
        assert done <= total
        told.append(phase)

    report = audit(
        home / "run",
        reference=[home / "references"],
        retrained=[home / "retrained"],
        settings=QUICK,
        device="cpu",
        progress=progress,
    )
    assert list(report.sections) == list(ATTACKS)
    assert report.skipped == {}
    assert {"changes", "membership", "relearning", "linear probe", "distance"} <= set(told)
    record = Record.load(home / "run" / "record.json")
    assert set(record.analyses) >= {*ATTACKS, "audit"}
    assert record.analyses["membership"]["reference_models"] == 2
    for section in sections(home / "run"):
        assert section.sentence.endswith(".")
        assert section.limit
        assert "guaranteed" not in section.model_dump_json()
        for figure in section.figures:
            assert (home / "run" / "analyses" / figure.file).read_text().count("<svg") == 1
    changes = report.sections["changes"]
    assert changes.settings["images forward"] == (2 * 6 + QUICK["changes.unseen"]) * (2 + 7)
    assert changes.tables[0].columns == ("change", "before", "after", "unseen images, before")
    assert report.page.read_text()


def test_the_same_call_gives_the_same_bytes(home: Path) -> None:
    found = []
    for _ in range(2):
        audit(home / "run", attacks=["membership", "relearning", "changes"], settings=QUICK, device="cpu")
        found.append(digest_of(home / "run"))
    assert found[0] == found[1]


def test_what_is_not_possible_is_said(home: Path) -> None:
    report = audit(home / "run", attacks=["distance", "changes"], settings=QUICK, device="cpu")
    assert list(report.sections) == ["changes"]
    assert "--retrained" in report.skipped["distance"]
    assert report.overview.numbers["skipped"] == 1


def test_numbers_astray_in_one_attack_leave_the_others(home: Path) -> None:
    report = audit(
        home / "run",
        attacks=["relearning", "changes"],
        settings=QUICK | {"relearning.lr": 1e30},
        device="cpu",
    )
    assert "astray" in report.skipped["relearning"]
    assert list(report.sections) == ["changes"]


def test_an_opened_run_is_taken_as_it_is(home: Path) -> None:
    run = open_run(home / "run", device="cpu")
    kept = run.before.fingerprint(), run.after.fingerprint()
    report = audit(run, attacks=["relearning"], settings=QUICK)
    assert list(report.sections) == ["relearning"]
    assert kept == (run.before.fingerprint(), run.after.fingerprint())


def test_a_test_set_that_is_another_is_left_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that the model was trained on, moved there since, would be taken for unseen ones."""
    source = open_source("digits")
    assert source.train is not None
    moved = replace(source, test=source.train.subset(range(100)))
    monkeypatch.setattr(opened, "open_source", lambda *_, **__: moved)
    run = open_run(home / "run", device="cpu")
    assert run.split.test is None
    assert run.split.retain is not None
    report = audit(run, attacks=["membership"], settings=QUICK)
    assert "no test images" in report.skipped["membership"]
    assert report.notes == run.notes
    assert "The test set is left out" in report.overview.limit


def test_bad_input_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="some of changes, membership"):
        audit(home / "run", attacks=["magic"])
    with pytest.raises(ConfigError, match="some of changes"):
        audit(home / "run", attacks=[])
    with pytest.raises(ConfigError, match="membership"):
        audit(home / "run", settings={"membership.unseem": 3})
    with pytest.raises(RunFolderError):
        audit(tmp_path)
    assert AuditSettings().membership.offline_a == 0.3


def test_references_know_what_they_saw(home: Path) -> None:
    source = open_source("digits")
    assert source.train is not None
    like = load_checkpoint(home / "model")
    first, second = (load_reference(home / "references" / f"reference-0{at}", like) for at in (0, 1))
    assert ((~first.unseen(source.train)) ^ (~second.unseen(source.train))).mean() > 0.99  # but for twins
    kept = json.loads((home / "references" / "reference-00" / "reference.json").read_text())
    assert set(kept["rows"]) == set(halves(len(source.train), 2, 0)[0])
    assert not first.unseen(source.train.subset(kept["rows"])).any()
    assert Reference("other", like).unseen(source.train.subset(range(5))).all()


def test_references_stay_and_are_found_by_their_folder(home: Path) -> None:
    before = (home / "references" / "reference-00" / "model.safetensors").stat().st_mtime_ns
    folders = train_references(open_source("digits"), home / "references", models=2, **SMALL)  # type: ignore[arg-type]
    assert (folders[0] / "model.safetensors").stat().st_mtime_ns == before
    assert list(expanded([home / "references", "one.safetensors"])) == [*map(str, folders), "one.safetensors"]


def test_a_retrained_model_that_saw_the_images_is_refused(home: Path) -> None:
    with pytest.raises(
        CheckpointError, match="saw none of the images to forget, got one that was trained on"
    ):
        audit(
            home / "run", attacks=["distance"], retrained=[home / "references"], settings=QUICK, device="cpu"
        )


def test_training_without_images_that_are_not_there_is_refused(home: Path, tmp_path: Path) -> None:
    """Saved again they have another hash, and would all have been trained on."""
    source = open_source("digits")
    assert source.train is not None
    some = source.train.subset(range(5))
    pixels = (some.batch(slice(None)) + 1 / 255).clamp(0, 1)
    again = ImageSet.from_tensors(pixels, some.labels, some.class_names)
    with pytest.raises(DataError, match="got 5 of 5 that are not in it"):
        train_references(source, tmp_path, models=1, without=again, **SMALL)  # type: ignore[arg-type]


def test_halves_are_seeded_and_even() -> None:
    chosen = halves(11, 4, seed=5)
    assert chosen == halves(11, 4, seed=5) != halves(11, 4, seed=6)
    seen = torch.zeros(11)
    for rows in chosen:
        seen[rows] += 1
    assert (seen == 2).all()


def test_references_that_do_not_fit_are_refused(home: Path, tmp_path: Path) -> None:
    like = load_checkpoint(home / "model")
    like.class_names = tuple("abcdefghij")
    with pytest.raises(CheckpointError, match="class names"):
        load_reference(home / "model", like)
    source = open_source("digits")
    with pytest.raises(DataError, match="training split"):
        train_references(
            stakes.data.Source(None, source.test, source.class_names, "x"),
            tmp_path,
            models=1,
            **SMALL,  # type: ignore[arg-type]
        )


def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: Any, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["stakes", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def test_command(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    words = [item for pair in QUICK.items() for item in ("--set", f"{pair[0]}={pair[1]}")]
    code, out, _ = run_cli(
        monkeypatch, capsys, "audit", home / "run", "--attacks", "changes,distance", "--json", *words
    )
    assert code == 7, "asked for by name, and not carried out"
    found = json.loads(out)
    assert list(found["sections"]) == ["changes"]
    assert "distance" in found["skipped"]
    code, out, _ = run_cli(
        monkeypatch, capsys, "audit", home / "run", "--attacks", "changes,distance", *words
    )
    assert code == 7
    assert "limit:" in out
    assert "distance: skipped" in out
    assert run_cli(monkeypatch, capsys, "audit", home / "run", "--attacks", "changes", *words)[0] == 0
    code, _, err = run_cli(monkeypatch, capsys, "audit", home / "run", "--attacks", "magic")
    assert code == 2
    assert "linear-probe" in err


def test_command_for_references(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    words = ("--data", "digits", "--arch", "resnet10", "--preset", "demo", "--set", "epochs=1", "--models", 1)
    code, out, _ = run_cli(
        monkeypatch,
        capsys,
        "audit-references",
        *words,
        "--out",
        home / "one",
        "--json",
        "--without",
        home / "run",
    )
    assert code == 0
    assert json.loads(out)["models"] == [str(home / "one" / "retrained-00")]
    run = open_run(home / "run", device="cpu")
    retrained = load_reference(home / "one" / "retrained-00", run.before)
    assert run.split.retain is not None
    assert retrained.unseen(run.split.forget).all()
    assert not retrained.unseen(run.split.retain.subset(range(20))).any()
    assert list(expanded([home / "one"])) == [retrained.name]
