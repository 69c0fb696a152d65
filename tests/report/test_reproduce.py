"""The command on the page: it says what was run, and running it gives the same model."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pagekit import a_record, a_run

import tinydigits
from stakes import cli
from stakes.config import parse_assignments
from stakes.data import open_source
from stakes.methods import METHODS, find_method
from stakes.models import Classifier, build_network, save_checkpoint
from stakes.records import Hashes, Record, Unlabelled
from stakes.report.reproduce import reproduction

HASHES = a_record().hashes.model_dump()


def told(record: Record, folder: Path = Path("runs/x")) -> dict[str, list[str]]:
    """The command as a shell splits it: options with their values."""
    command = reproduction(record, folder).command
    assert command is not None
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["stakes", "unlearn"]
    found: dict[str, list[str]] = {}
    for word in words[2:]:
        if word.startswith("--"):
            found.setdefault(word, [])
            last = word
        else:
            found[last].append(word)
    return found


def test_the_command_has_what_was_asked() -> None:
    words = told(a_record())
    assert words["--model"] == ["models/before"]
    assert words["--forget"] == ["random:64"]
    assert words["--preset"] == ["paper"]
    assert words["--retain-sample"] == ["500"]
    assert words["--seed"] == ["3"]
    assert words["--out"] == ["runs/x-again"]
    assert "--set" not in words
    assert "--allow-pickle" not in words


def test_what_the_model_was_held_to_is_named() -> None:
    request = a_record().request | {"reference": "models/first", "unlabelled": "my traffic"}
    used = Unlabelled(images=7, hash="e" * 64)
    record = a_record(request=request, unlabelled=used, run=a_record().run | {"unlabelled_most": 7})
    words = told(record)
    assert words["--reference"] == ["models/first"]
    assert words["--unlabelled"] == ["my traffic"]
    assert words["--unlabelled-most"] == ["7"]
    assert not {"--reference", "--unlabelled", "--unlabelled-most"} & told(a_record()).keys()


def test_what_no_option_can_name_is_told() -> None:
    held = Hashes(**(HASHES | {"reference": "e" * 64}))
    in_python = a_record(hashes=held, unlabelled=Unlabelled(images=7, hash="e" * 64))
    assert reproduction(in_python, Path("r")).notes == (
        "It was held to the answers of the model eeeeeeeeeeee…: give its checkpoint with --reference.",
        "It was given 7 unlabelled images in Python: name their folder with --unlabelled.",
    )
    ledger = a_record(hashes=held, request=a_record().request | {"ledger": "x", "reference": "e" * 64})
    assert "--reference" not in told(ledger)
    assert "model eeeeeeeeeeee…" in reproduction(ledger, Path("r")).notes[0]
    other_rows = a_record(request=a_record().request | {"held_back": "test:25"})
    assert "test:25 was held back" in reproduction(other_rows, Path("r")).notes[0]


def test_a_cell_of_a_bench_names_files_not_names() -> None:
    places = {"checkpoint": "${SHARED}/models/before", "source": "${SHARED}/my data"}
    request = {"model": "resnet18", "data": "cifar10", "forget": "random:64"} | places
    record = a_record(request=request)
    words = told(record)
    assert words["--model"] == [places["checkpoint"]]
    assert words["--data"] == [places["source"]]
    assert f'--data "{places["source"]}"' in (reproduction(record, Path("runs/x")).command or "")


def test_words_are_quoted_for_a_shell() -> None:
    request = {"model": "my model; rm -rf ~/x.pt", "data": "$(id) 'a'", "forget": "class:São & `b`\nc"}
    words = told(a_record(request=request))
    assert words["--model"] == [request["model"]]
    assert words["--data"] == [request["data"]]
    assert words["--forget"] == [request["forget"]]
    assert words["--allow-pickle"] == []


@pytest.mark.parametrize("name", sorted(METHODS))
def test_changed_settings_of_every_method_read_back_the_same(name: str) -> None:
    changes = {"lr": 1.25e-05, "max_steps": 7, "probes.epsilons": [0.5, 1.0], "weight_decay": 0.0}
    method = find_method(name).configure(None, changes)
    settings = method.settings.model_dump(mode="json")
    record = a_record(method=name, preset=f"{method.default_preset} with changes", settings=settings)
    words = told(record)
    again = find_method(name).configure(words.get("--preset", [None])[0], parse_assignments(words["--set"]))
    assert again.settings == method.settings


def test_what_a_preset_sets_with_unlabelled_images_is_not_named_again() -> None:
    method = find_method("structguard").configure("thorough").for_images(64, unlabelled=True)
    used = Unlabelled(images=7, hash="e" * 64)
    settings = method.settings.model_dump(mode="json")
    record = a_record(preset="thorough", settings=settings, unlabelled=used)
    assert "--set" not in told(record)
    assert told(record.model_copy(update={"unlabelled": None}))["--set"] == ["margin=2.5"]


def test_a_label_that_is_no_preset_becomes_settings() -> None:
    method = find_method("structguard").configure("paper", {"lr": 0.5, "projector": "none"})
    words = told(a_record(preset="demo", settings=method.settings.model_dump(mode="json")))
    assert sorted(words["--set"]) == ["lr=0.5", "projector=none"]


def test_what_no_command_can_say_is_said() -> None:
    assert reproduction(a_record(request={}), Path("x")).command is None
    for record in (a_record(method="own"), a_record(settings={"lr": 1.0})):
        found = reproduction(record, Path("x"))
        assert found.command is None
        assert found.notes
    run = a_record().run | {"measure_every": 3}
    assert "measure_every = 3" in reproduction(a_record(run=run), Path("x")).notes[0]


def test_milestones_are_asked_for_again() -> None:
    run = a_record().run
    assert "--milestones" in (reproduction(a_record(run=run | {"milestones": True}), Path("x")).command or "")
    assert "--milestones" not in (reproduction(a_record(run=run), Path("x")).command or "")


def test_anchors_are_the_kept_ones_or_named_by_hash(tmp_path: Path) -> None:
    record = a_record(hashes=Hashes(**HASHES | {"anchors": "e" * 64}))
    found = reproduction(record, tmp_path)
    assert "eeeeeeeeeeee" in found.notes[0]
    (tmp_path / "anchors.safetensors").touch()
    assert told(record, tmp_path)["--anchors"] == [str(tmp_path / "anchors.safetensors")]
    assert "--anchors" not in told(a_record(), tmp_path)


def a_model(folder: Path) -> None:
    """A classifier that knows a few handwritten digits."""
    train = open_source("digits").train
    assert train is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network("resnet10", num_classes=10, in_channels=1, width=4)
        model = Classifier.from_network(network, class_names=train.class_names, input_size=train.size).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for step in range(20):
            rows = slice(64 * step, 64 * step + 64)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(train.batch(rows)), train.labels[rows]).backward()
            optimizer.step()
    save_checkpoint(model.eval(), folder)


def test_running_the_command_gives_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *a, **k: str(tmp_path / "cache"))
    a_model(tmp_path / "a model")
    tinydigits.anchors().save(tmp_path / "anchors.safetensors")

    def stakes(words: list[str]) -> Any:
        monkeypatch.setattr(sys, "argv", ["stakes", *words, "--json"])
        with pytest.raises(SystemExit):
            cli.main()
        return json.loads(capsys.readouterr().out)

    sets = [
        "lr=0.001",
        "max_steps=3",
        "probes.per_image=2",
        "probes.iterations=1",
        "probes.epsilons=[0.5,1.0]",
    ]
    first = stakes(
        [
            "unlearn",
            "--model",
            str(tmp_path / "a model"),
            "--data",
            "digits",
            "--forget",
            "random:3",
            "--device",
            "cpu",
        ]
        + [
            "--anchors",
            str(tmp_path / "anchors.safetensors"),
            "--out",
            str(tmp_path / "a run"),
            "--seed",
            "5",
            "--retain-sample",
            "50",
        ]
        + [word for text in sets for word in ("--set", text)]
    )
    assert first["steps"] > 0, "something was done"
    command = reproduction(Record(**first), tmp_path / "a run").command
    assert command is not None
    again = stakes(shlex.split(command.replace("\\\n", " "))[1:])
    assert Record(**again).digest() == Record(**first).digest()
    assert again["hashes"]["model_after"] == first["hashes"]["model_after"]


def test_the_page_shows_it(tmp_path: Path) -> None:
    from pagekit import Page

    from stakes.report.page import render_page

    run = a_run(tmp_path / "run", a_record())
    command = reproduction(a_record(), run).command
    assert Page(render_page(run)).text_with("class", "command") == [command]
