"""The command line: what a user types, sees, and gets wrong."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from rich.text import Text
from safetensors.torch import load_file, save_file

import stakes
from stakes import cli
from stakes.cli_unlearn import NOT_FORGOTTEN
from stakes.models.recipe import recipe
from stakes.training import train_checkpoint

QUICK = (
    "probes.iterations=2,probes.per_image=4,probes.epsilon=1.0,probe_batch=16,forget_batch=8,max_steps=40,"
    "projector=none,deletion=hinge,retention=soft,batchnorm=freeze,lr=0.003,reg_weight=0,head_weight=0,weight_decay=0,"
    "batch_weights=sum,passes=joint"
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint trained on the handwritten digits."""
    out = tmp_path_factory.mktemp("cli") / "model"
    settings = recipe("demo").with_overrides({"epochs": 3})
    train_checkpoint(
        stakes.open_source("digits"), out, architecture="resnet10", options={"width": 4}, settings=settings
    )
    return out


class Said:
    """What one command gave back."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def stakes_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run one command in this process, with a cache of its own."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *a, **k: str(tmp_path / "cache"))

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["stakes", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return Said(int(left.value.code or 0), said.out, said.err)

    return run


def quick(
    model: Path, out: Path, *more: object, forget: str = "random:4", data: str | None = "digits"
) -> list[object]:
    """The words of a small unlearn command."""
    sets = [word for pair in QUICK.split(",") for word in ("--set", pair)]
    source = ["--data", data] if data else []
    words = ["unlearn", "--model", model, *source, "--preset", "paper", "--forget", forget, "--out", out]
    return [*words, *sets, *more]


def refused(said: Said, *words: str, code: int = 2) -> None:
    """One line on stderr that names the matter, and no traceback."""
    assert said.code == code, said.err
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err, said.err


# -- the way it should go ----------------------------------------------------------------------------------


def test_unlearn_show_and_evaluate_agree(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = stakes_cli(*quick(model, run, "--json"))
    assert done.code == 0, done.err
    record = done.json
    assert record == json.loads((run / "record.json").read_text())
    assert record["after"]["forget_accuracy"] == 0.0
    assert record["forgotten"] is True
    for side in ("before", "after"):
        assert set(record[side]) >= {"test_accuracy", "retain_accuracy", "forget_accuracy"}
    for name in (
        "config.yaml",
        "record.json",
        "history.jsonl",
        "anchors.safetensors",
        "model.safetensors",
        "config.json",
        "report.html",
    ):
        assert (run / name).is_file(), name
    assert not (run / "state").exists()
    assert stakes_cli("show", run, "--json").json == record
    measured = stakes_cli(
        "evaluate", "--model", run, "--data", "digits", "--forget", "random:4", "--json"
    ).json
    assert measured["figures"] == record["after"]
    assert measured["hashes"]["model"] == record["hashes"]["model_after"]


def test_one_command_unlearns_and_audits(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    run, apart = tmp_path / "run", tmp_path / "apart"
    done = stakes_cli(*quick(model, run, "--audit"))
    assert done.code == 0, done.err
    assert "changes:" in done.out
    assert "limit:" in done.out
    assert "Not audited" not in done.out
    said = stakes_cli(*quick(model, apart))
    assert f"stakes audit {apart}" in said.out
    assert stakes_cli("audit", apart).code == 0
    together, later = (json.loads((where / "record.json").read_text())["analyses"] for where in (run, apart))
    assert together == later
    assert {"audit", "changes", "membership", "relearning", "linear-probe"} <= set(together)
    again = stakes_cli(*quick(model, run, "--audit", "--json"))
    assert again.code == 0, again.err
    assert again.json == json.loads((run / "record.json").read_text())
    assert again.json["analyses"] == together


def test_an_audit_is_the_work_of_one_process(
    stakes_cli: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    refused(stakes_cli(*quick(model, tmp_path / "run", "--audit")), "--audit", "one process")
    assert not (tmp_path / "run").exists()


def test_a_model_that_forgot_before_aims_at_the_first(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert stakes_cli(*quick(model, first)).code == 0
    second = quick(first, tmp_path / "second", "--reference", model, "--json", forget="random:6")
    done = stakes_cli(*second)
    assert done.code == 0, done.err
    hashes = done.json["hashes"]
    assert hashes["reference"] == json.loads((first / "record.json").read_text())["hashes"]["model_before"]
    assert hashes["model_before"] != hashes["reference"]
    said = stakes_cli(*quick(first, tmp_path / "third", "--reference", tmp_path / "nowhere"))
    refused(said, "nowhere")


def test_unlabelled_images_from_a_folder(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "traffic" / "monday"
    pictures.mkdir(parents=True)
    draws = torch.Generator().manual_seed(0)
    for row in range(6):
        pixels = torch.randint(256, (8, 8), generator=draws, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(pictures / f"{row}.png")
    words = ["--unlabelled", tmp_path / "traffic", "--unlabelled-most", 5]
    done = stakes_cli(*quick(model, tmp_path / "run", *words))
    assert done.code == 0, done.err
    assert "held to its answers on probes and on 5 unlabelled images" in done.out
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["unlabelled"]["images"] == 5
    assert f"they lie {record['unlabelled']['shift']:.2f} standard deviations" in done.out.replace("\n", " ")
    assert record["request"]["unlabelled"] == str(tmp_path / "traffic")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "probes, and 5 unlabelled images" in page
    assert "standard deviations from what it was trained on" in page
    assert record["unlabelled"]["hash"] in page
    card = (tmp_path / "run" / "README.md").read_text()
    assert "unlabelled images that it was held to its answers on" in card
    assert "their shift from what it was trained on" in card
    assert "traffic" not in card
    estimate = stakes_cli(*quick(model, tmp_path / "other", *words, "--dry-run", "--json"))
    assert estimate.code == 0, estimate.err
    assert estimate.json["phases"]["unlabelled"]["forward"] == 5
    refused(stakes_cli(*quick(model, tmp_path / "third", "--unlabelled", tmp_path / "no")), "no such folder")
    counted = ["unlearn", "--model", model, "--data", "digits", "--forget", "random:4", "--method", "neggrad"]
    said = stakes_cli(*counted, "--out", tmp_path / "third", *words, "--dry-run")
    refused(said, "expected a method that trains on probes")
    refused(stakes_cli(*quick(model, tmp_path / "third", "--unlabelled", "test:0")), "N from 1 to 359")
    assert not (tmp_path / "third").exists()


def test_evaluate_leaves_out_what_a_run_held_back(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    run, words = tmp_path / "run", ["--unlabelled", "test:40"]
    done = stakes_cli(*quick(model, run, *words, "--json"))
    assert done.json["after"]["test_images"] == 320
    measured = ["evaluate", "--model", run, "--data", "digits", "--forget", "random:4", "--json"]
    assert stakes_cli(*measured, *words).json["figures"] == done.json["after"]
    assert stakes_cli(*measured).json["figures"]["test_images"] == 360
    refused(stakes_cli(*measured[:-1], "--unlabelled", tmp_path), "images of the test split to leave out")


def test_no_word_of_the_help_is_taken_for_markup() -> None:
    """A word in square brackets would be a style, and not be shown."""

    def helps(command: Any, path: str) -> Iterator[tuple[str, str]]:
        yield path, command.help or ""
        yield from ((f"{path} {one.name}", getattr(one, "help", None) or "") for one in command.params)
        for name, inner in getattr(command, "commands", {}).items():
            yield from helps(inner, f"{path} {name}")

    found = dict(helps(typer.main.get_command(cli.app), "stakes"))
    assert len(found) > 150
    assert [path for path, text in found.items() if Text.from_markup(text).plain != text] == []


def test_the_version_is_that_of_the_installed_package(command: Any) -> None:
    assert command("--version") == (0, f"stakes {metadata.version('stakes')}\n", "")


def test_json_leaves_stdout_to_the_result(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    done = stakes_cli(*quick(model, tmp_path / "run", "--json"))
    json.loads(done.out)
    assert "unlearn" in done.err


def test_the_page_tells_the_record_and_loads_nothing(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    record = stakes_cli(*quick(model, run, "--json")).json
    page = (run / "report.html").read_text()
    assert "Forgotten: all 4 images" in page
    assert f"{record['after']['test_accuracy']:.2f} %" in page
    # Addresses may stand in a page as names of XML vocabularies, never where a browser would fetch them.
    fetched = r"""(?:src|href)\s*=\s*["'](?!#|data:)|url\((?!#)|@import|<iframe"""
    assert not re.search(fetched, page)
    assert (run / "README.md").read_text().startswith("---\n")


def test_an_unlearning_that_fails_never_looks_like_one_that_succeeded(
    stakes_cli: Any, model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = stakes_cli(*quick(model, run, "--set", "max_steps=1", "--set", "lr=1e-9"))
    assert done.code == NOT_FORGOTTEN
    assert "NOT forgotten" in done.out
    record = json.loads((run / "record.json").read_text())
    assert record["forgotten"] is False
    assert record["stop_reason"] == "step limit"
    assert "NOT forgotten" in (run / "report.html").read_text()


def test_images_alone_need_no_training_data(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    images = stakes.open_source("digits").train
    assert images is not None
    for row in range(3):
        folder = tmp_path / "forget" / images.class_names[int(images.labels[row])]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (images.batch([row])[0, 0] * 255).round().to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{row}.png")
    done = stakes_cli(
        *quick(model, tmp_path / "run", "--json", forget=f"images:{tmp_path / 'forget'}", data=None)
    )
    assert done.code == 0, done.err
    for side in ("before", "after"):
        assert done.json[side]["retain_accuracy"] is None
        assert done.json[side]["test_accuracy"] is None
    assert "unknown" in stakes_cli("show", tmp_path / "run").out


def test_anchors_from_classes_and_data_are_the_same(stakes_cli: Any, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(str(digit) for digit in range(10)) + "\n")
    one = stakes_cli(
        "anchors", "--classes", tmp_path / "classes.txt", "--out", tmp_path / "a.safetensors", "--json"
    )
    two = stakes_cli("anchors", "--data", "digits", "--out", tmp_path / "b.safetensors", "--json")
    assert one.code == two.code == 0, one.err + two.err
    assert one.json["hash"] == two.json["hash"]
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_pretrain_writes_a_checkpoint_and_repeats_to_the_byte(stakes_cli: Any, tmp_path: Path) -> None:
    words = ["--data", "digits", "--arch", "resnet10", "--preset", "demo", "--set", "epochs=1", "--json"]
    first = stakes_cli("pretrain", "--out", tmp_path / "a", *words)
    again = stakes_cli("pretrain", "--out", tmp_path / "b", *words)
    assert first.code == again.code == 0, first.err
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model.safetensors"
    ).read_bytes()
    assert stakes.load_checkpoint(tmp_path / "a").class_names == tuple(str(digit) for digit in range(10))
    refused(stakes_cli("pretrain", "--out", tmp_path / "a", *words, "--seed", "1"), "holds another training")


# -- what bad input gets -----------------------------------------------------------------------------------


def test_unknown_class_name(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    refused(stakes_cli(*quick(model, tmp_path / "run", forget="class:cat")), "cat")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("1437\n", ("1437", "line 1")),
        ("3\n3\n", ("line 2",)),
        ("\n", ("at least one",)),
        ("x\n", ("line 1",)),
    ],
)
def test_wrong_rows(stakes_cli: Any, model: Path, tmp_path: Path, lines: str, words: tuple[str, ...]) -> None:
    (tmp_path / "rows.txt").write_text(lines)
    refused(stakes_cli(*quick(model, tmp_path / "run", forget=f"indices:{tmp_path / 'rows.txt'}")), *words)


@pytest.mark.parametrize("spec", ["random:0", "random:99999", "random:x", "everything"])
def test_wrong_spec(stakes_cli: Any, model: Path, tmp_path: Path, spec: str) -> None:
    refused(stakes_cli(*quick(model, tmp_path / "run", forget=spec)))


def test_data_are_needed_for_rows(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    refused(stakes_cli(*quick(model, tmp_path / "run", data=None)), "--data")


def test_classes_that_are_not_the_models(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "train"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / name / "1.png")
    refused(
        stakes_cli(*quick(model, tmp_path / "run", data=str(tmp_path / "data"), forget="random:1")), "classes"
    )


def test_anchors_of_other_classes(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    stakes.build_anchors(["cat", "dog", "frog"]).save(tmp_path / "a.safetensors")
    said = stakes_cli(*quick(model, tmp_path / "run", "--anchors", tmp_path / "a.safetensors"))
    refused(said, "anchors")


def test_anchors_and_attributes_exclude_each_other(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    said = stakes_cli(*quick(model, tmp_path / "run", "--anchors", "a", "--attributes", "b"))
    refused(said, "--anchors or --attributes")


def broken_copy(model: Path, folder: Path, change: Any) -> Path:
    """A copy of a checkpoint with changed weights."""
    folder.mkdir()
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    tensors = load_file(model / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(stakes_cli: Any, model: Path, tmp_path: Path, value: float) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["fc.weight"][0, 0] = value
        return tensors

    refused(stakes_cli(*quick(broken_copy(model, tmp_path / "m", change), tmp_path / "run")), "fc.weight")


def test_outputs_that_are_not_the_labels(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return tensors | {
            "fc.weight": tensors["fc.weight"][:7].clone(),
            "fc.bias": tensors["fc.bias"][:7].clone(),
        }

    refused(stakes_cli(*quick(broken_copy(model, tmp_path / "m", change), tmp_path / "run")), "fc.")


def test_truncated_checkpoint(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    folder = broken_copy(model, tmp_path / "m", lambda tensors: tensors)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(stakes_cli(*quick(folder, tmp_path / "run")), "model.safetensors")


def test_pickle_is_refused_unless_allowed(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    torch.save(load_file(model / "model.safetensors"), folder / "model.pt")
    refused(stakes_cli(*quick(folder / "model.pt", tmp_path / "run")), "--allow-pickle")
    assert stakes_cli(*quick(folder / "model.pt", tmp_path / "run", "--allow-pickle")).code == 0


def test_corrupt_image_is_named(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "forget" / "3").mkdir(parents=True)
    (tmp_path / "forget" / "3" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    said = stakes_cli(*quick(model, tmp_path / "run", forget=f"images:{tmp_path / 'forget'}", data=None))
    refused(said, "broken.png")


def test_existing_folder_of_another_request(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert stakes_cli(*quick(model, run)).code == 0
    record = (run / "record.json").read_bytes()
    again = stakes_cli(*quick(model, run, "--json"))
    assert again.code == 0
    assert (run / "record.json").read_bytes() == record
    refused(stakes_cli(*quick(model, run, forget="random:5")), "another request", "random:5")


def test_existing_folder_that_is_no_run(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    refused(stakes_cli(*quick(model, tmp_path / "run")), "not a run folder")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"


def test_output_that_cannot_be_written(stakes_cli: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(stakes_cli(*quick(model, tmp_path / "file" / "run")), "cannot write", code=4)


def test_full_disk(stakes_cli: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    refused(stakes_cli(*quick(model, tmp_path / "run")), "full disk", code=4)
    assert not (tmp_path / "run" / "record.json").exists()


@pytest.mark.parametrize("phase", ["evaluate before", "probes", "unlearn", "evaluate after"])
def test_ctrl_c_in_each_phase_then_resume_gives_the_same_bytes(
    stakes_cli: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert stakes_cli(*quick(model, whole, "--cache", tmp_path / "one")).code == 0
    from stakes import console

    plain = console._plain

    def interrupting(terminal: Any) -> Any:
        report, sent = plain(terminal), []

        def wrapped(now: str, done: int, total: int, **figures: float) -> None:
            report(now, done, total, **figures)
            if now == phase and not sent:
                sent.append(now)
                signal.raise_signal(signal.SIGINT)

        return wrapped

    monkeypatch.setattr(console, "_plain", interrupting)
    stopped = stakes_cli(*quick(model, cut, "--cache", tmp_path / "two"))
    refused(stopped, "Interrupted", code=cli.INTERRUPTED)
    assert not (cut / "record.json").exists()
    monkeypatch.setattr(console, "_plain", plain)
    assert stakes_cli(*quick(model, cut, "--cache", tmp_path / "two")).code == 0
    for name in ("model.safetensors", "history.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "lr"], "key=value"),
        (["--set", "lr=fast"], "lr"),
        (["--set", "learning=1"], "learning"),
        (["--preset", "papers"], "paper"),
        (["--method", "structgard"], "structguard"),
        (["--device", "cuda"], "cuda"),
        (["--device", "tpu"], "tpu"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_wrong_words(stakes_cli: Any, model: Path, tmp_path: Path, words: list[str], said: str) -> None:
    if words == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    refused(stakes_cli(*quick(model, tmp_path / "run", *words)), said)
    assert not (tmp_path / "run").exists()


def test_show_without_a_run(stakes_cli: Any, tmp_path: Path) -> None:
    refused(stakes_cli("show", tmp_path / "nothing"), "no record")


def test_json_errors_are_json(stakes_cli: Any, tmp_path: Path) -> None:
    said = stakes_cli("show", tmp_path / "nothing", "--json")
    assert said.json["exit_code"] == said.code == 2


def test_a_seed_that_no_generator_takes_is_refused(stakes_cli: Any) -> None:
    refused(stakes_cli("unlearn", "--model", "x", "--forget", "random:1", "--seed", "9" * 23), "--seed")
