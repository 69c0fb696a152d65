"""Settings chosen for one request: what is looked at, what is chosen, where it is kept, and what is refused."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import stakes
import tinydigits
from stakes.config import ProbeSettings, RunSettings
from stakes.errors import ConfigError, MissingExtraError, ModelError, NumericalError, RunFolderError
from stakes.estimate import estimate
from stakes.methods import find_method
from stakes.models.checkpoint import save_checkpoint
from stakes.records import Record
from stakes.tune.judge import Judge
from stakes.tune.record import TuneRecord
from stakes.tune.request import Tuned, tune_request

QUICK = {"max_steps": 6}


def search(out: Path, **changes: Any) -> Tuned:
    """A search of a request of five images."""
    words: dict[str, Any] = {"method": "neggrad", "settings": QUICK, "trials": 3, "device": "cpu"}
    words["cache"] = out / "cache"
    return tune_request(tinydigits.digits_model(), tinydigits.split(5), out=out, **words | changes)


@pytest.fixture(autouse=True)
def few_validation_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty in place of 512."""
    few = ProbeSettings(kind="inverted").with_overrides(
        {name.removeprefix("probes."): value for name, value in tinydigits.FEW_INVERTED.items()}
    )
    monkeypatch.setattr("stakes.tune.judge.VALIDATION", few)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any], Record]]:
    """What each trial was given, and its record."""
    real, seen = stakes.unlearn, []

    def watched(model: Any, split: Any, **words: Any) -> Any:
        found = real(model, split, **words)
        seen.append((split, words, found.record))
        return found

    monkeypatch.setattr("stakes.api.unlearn", watched)
    return seen


def test_the_first_trial_is_the_start_and_the_best_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which trial wins is up to the judge alone: here it prefers the second, then the third."""
    start = find_method("neggrad").configure(None, QUICK).settings
    for favoured in (0, 1, 2):
        marks = [50.0, 50.0, 50.0]
        marks[favoured] = 60.0
        given = iter(marks)
        with monkeypatch.context() as patch:
            patch.setattr(Judge, "agreement", lambda self, classifier, given=given: next(given))
            tuned = search(tmp_path / str(favoured), settings={"max_steps": 40, "lr": 0.01})
        trials = tuned.searched.trials
        assert [trial.forget_accuracy for trial in trials] == [0.0] * 3, "or the judge has no say"
        assert trials[0].settings == {"lr": 0.01}
        assert len({trial.settings["lr"] for trial in trials}) == 3
        assert tuned.method.settings.lr == trials[favoured].settings["lr"]
        assert tuned.changed == (favoured > 0)
        rest = tuned.method.settings.model_dump(exclude={"lr"})
        assert rest == start.model_dump(exclude={"lr"}) | {"max_steps": 40}, "nothing else changes"


def test_who_does_not_forget_loses_to_who_does(tmp_path: Path) -> None:
    tuned = search(tmp_path, settings={"max_steps": 8, "lr": 0.01}, trials=5)
    forgetting = [trial for trial in tuned.searched.trials if trial.forget_accuracy == 0]
    assert 0 < len(forgetting) < 5, "otherwise this shows nothing"
    best = max(trial.agreement or 0.0 for trial in forgetting)
    assert {"lr": tuned.method.settings.lr} in [t.settings for t in forgetting if t.agreement == best]


def test_no_test_image_is_opened_and_no_retained_one_but_by_methods_that_train_on_them(
    tmp_path: Path, calls: list[tuple[Any, dict[str, Any], Record]]
) -> None:
    search(tmp_path / "neggrad", trials=2)
    search(tmp_path / "unsir", method="unsir", settings={}, trials=2)
    assert [split.test for split, _, _ in calls] == [None] * 4
    assert [split.retain is None for split, _, _ in calls] == [True, True, False, False]


def test_a_search_that_was_killed_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(tmp_path / "whole", trials=4)
    real, done = stakes.unlearn, []

    def dies(*args: Any, **words: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args, **words)

    with monkeypatch.context() as patch:
        patch.setattr("stakes.api.unlearn", dies)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "killed", trials=4)
    assert len(TuneRecord.load(tmp_path / "killed").rows["neggrad"].trials) == 2
    assert search(tmp_path / "killed", trials=4).method.settings == whole.method.settings
    files = [tmp_path / name / "tune.json" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_finished_search_is_read_and_not_made_again(
    tmp_path: Path, calls: list[tuple[Any, dict[str, Any], Record]]
) -> None:
    first = search(tmp_path)
    assert len(calls) == 3
    again = search(tmp_path)
    assert len(calls) == 3
    assert again.method.settings == first.method.settings


def test_a_search_is_read_by_a_grid(tmp_path: Path) -> None:
    """``tuned:`` takes what a search of one request chose, with the settings it started from."""
    tuned = search(tmp_path)
    chosen = TuneRecord.load(tmp_path).chosen("neggrad", None)
    assert find_method("neggrad").configure(None, chosen).settings == tuned.method.settings


def test_another_search_in_the_folder_is_refused(tmp_path: Path) -> None:
    search(tmp_path)
    for changes, what in (
        ({"trials": 4}, "trials"),
        ({"settings": QUICK | {"lr": 0.002}}, "plan"),
        ({"seed": 1}, "plan"),
    ):
        with pytest.raises(RunFolderError, match=f"other {what}"):
            search(tmp_path, **changes)
    with pytest.raises(RunFolderError, match="other hashes"):
        tune_request(
            tinydigits.digits_model(),
            tinydigits.split(6),
            out=tmp_path,
            method="neggrad",
            settings=QUICK,
            trials=3,
            device="cpu",
        )


def test_what_cannot_be_searched_is_refused_before_a_trial(
    tmp_path: Path, calls: list[tuple[Any, dict[str, Any], Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="2 or more"):
        search(tmp_path / "one", trials=1)
    with pytest.raises(ConfigError, match="both ways"):
        search(tmp_path / "both", method=find_method("neggrad").configure())
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match="optuna"):
        search(tmp_path / "without")
    assert not calls
    assert not any(tmp_path.iterdir())


def test_what_the_run_would_refuse_is_refused_before_validation_probes_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "__init__", lambda *args, **words: pytest.fail("too early"))
    with pytest.raises(ModelError):
        search(tmp_path, reference=tinydigits.digits_model("resnet10"))


def test_a_search_and_its_run_in_python_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/tuning.md has it: a network of the user's own, no cache named."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *a, **k: str(tmp_path / "home"))
    network, split = tinydigits.digits_model().to_network(), tinydigits.split(5)
    tuned = tune_request(
        network, split, method="neggrad", settings=QUICK, trials=2, out=tmp_path / "run", device="cpu"
    )
    result = stakes.unlearn(network, split, method=tuned.method, out=tmp_path / "run", device="cpu")
    assert result.record.settings == tuned.method.settings.model_dump(mode="json")
    assert TuneRecord.load(tmp_path / "run") == tuned.record


def test_trials_that_all_diverge_are_told_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(*args: Any, **words: Any) -> Any:
        raise NumericalError("loss", expected="a finite number", got="nan")

    monkeypatch.setattr("stakes.api.unlearn", diverges)
    with pytest.raises(RunFolderError, match="a trial that worked"):
        search(tmp_path)
    assert all(trial.failed for trial in TuneRecord.load(tmp_path).rows["neggrad"].trials)


def test_the_estimate_counts_the_trials(
    tmp_path: Path, calls: list[tuple[Any, dict[str, Any], Record]]
) -> None:
    method, split = find_method("neggrad").configure(None, QUICK), tinydigits.split(5)
    model, run = tinydigits.digits_model(), RunSettings(device="cpu")
    words: dict[str, Any] = {"out": tmp_path / "run", "cache": tmp_path / "cache"}
    found = estimate(model, split, method, run, trials=3, **words).phases["trials"]
    search(tmp_path)
    phases = [phase for _, _, record in calls for phase in record.phases]
    assert 0 < sum(phase.forward_images for phase in phases) < found.forward
    assert 0 < sum(phase.backward_images for phase in phases) < found.backward
    assert "trials" not in estimate(model, split, method, run, **words).phases


# -- on the command line -----------------------------------------------------------------------------------


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A small unlearn command that searches first."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *a, **k: str(tmp_path / "cache"))
    save_checkpoint(tinydigits.digits_model("resnet10"), tmp_path / "model")
    return [
        *(
            "unlearn",
            "--model",
            tmp_path / "model",
            "--data",
            "digits",
            "--forget",
            "random:4",
            "--device",
            "cpu",
        ),
        *("--method", "neggrad", "--set", "max_steps=40", "--set", "lr=0.01", "--tune", 3),
        *("--out", tmp_path / "run"),
    ]


def test_the_run_has_what_was_chosen_and_its_evidence(
    command: Any, words: list[object], tmp_path: Path, calls: list[tuple[Any, dict[str, Any], Record]]
) -> None:
    code, said, heard = command(*words)
    assert code == 0, heard
    assert "3 trials each" in said
    run = tmp_path / "run"
    record, trials = Record.load(run / "record.json"), TuneRecord.load(run)
    best = trials.rows["neggrad"].best
    assert best is not None
    assert record.settings["lr"] == best.settings["lr"]
    digest = hashlib.sha256((run / "tune.json").read_bytes()).hexdigest()
    assert digest in record.request["tuned"]
    assert digest in (run / "report.html").read_text(encoding="utf-8")
    assert trials.hashes["forget_set"] == record.hashes.forget_set
    assert trials.hashes["model"] == record.hashes.model_before
    before = len(calls), (run / "record.json").read_bytes()
    code, said, _ = command(*words)
    assert code == 0
    assert (len(calls), (run / "record.json").read_bytes()) == (before[0] + 1, before[1]), "no trial again"


def test_a_search_that_was_changed_since_is_noticed(
    command: Any, words: list[object], tmp_path: Path
) -> None:
    assert command(*words)[0] == 0
    file = tmp_path / "run" / "tune.json"
    told = json.loads(file.read_text())
    told["rows"]["neggrad"]["trials"][0]["agreement"] = 100.0
    file.write_text(json.dumps(told))
    code, _, heard = command(*words)
    assert code == 2
    assert "holds another request" in heard


@pytest.mark.parametrize("kind", ["run", "foreign"])
def test_a_folder_with_something_else_is_left_as_it_is(
    command: Any,
    words: list[object],
    tmp_path: Path,
    kind: str,
    calls: list[tuple[Any, dict[str, Any], Record]],
) -> None:
    place = words.index("--tune")
    if kind == "run":
        assert command(*words[:place], *words[place + 2 :])[0] == 0
    else:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "letter.txt").write_text("dear")
    calls.clear()
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    code, _, heard = command(*words)
    assert code == 2
    assert ("without a search" if kind == "run" else "is not a run folder") in heard
    assert not calls
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_a_dry_run_counts_the_trials(command: Any, words: list[object], tmp_path: Path) -> None:
    code, said, heard = command(*words, "--dry-run", "--json")
    assert code == 0, heard
    assert json.loads(said)["phases"]["trials"]["forward"] > 0
    assert not (tmp_path / "run").exists()


def test_one_trial_is_no_search(command: Any, words: list[object]) -> None:
    place = words.index("--tune")
    code, _, heard = command(*words[: place + 1], 1, *words[place + 2 :])
    assert code == 2
    assert "--tune" in heard
    assert "Traceback" not in heard


def test_a_request_of_images_alone_can_be_searched(tmp_path: Path) -> None:
    """No training data: what a request by folder has."""
    split = replace(tinydigits.split(5), test=None, retain=None)
    tuned = tune_request(
        tinydigits.digits_model(),
        split,
        out=tmp_path,
        method="neggrad",
        settings=QUICK,
        trials=2,
        device="cpu",
    )
    assert len(tuned.searched.trials) == 2
