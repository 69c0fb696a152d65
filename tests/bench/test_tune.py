"""Search for settings: what is looked at, what is chosen, and that it goes on where it was."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from benchkit import PLUGIN, STRUCTGUARD, plan_of

import stakes
from stakes.bench.cells import configured, expand
from stakes.bench.grid import Grid, load_grid
from stakes.bench.plugins import load_plugins
from stakes.config import build
from stakes.data.images import ImageSet
from stakes.errors import ConfigError, DataError, OutputError, RunFolderError, StakesError
from stakes.files import digest_file
from stakes.methods import find_method
from stakes.tune.engine import run_tune
from stakes.tune.judge import Judge
from stakes.tune.plan import SearchEntry, Span, space_of
from stakes.tune.record import Searched, Trial, TuneRecord
from stakes.tune.sampling import exhausted, suggest
from stakes.tune.search import Search
from stakes.tune.trials import Trials

WHOLE = {"low": 1.5, "high": 2.0, "whole": True}


def searched(**rows: Any) -> TuneRecord:
    return TuneRecord(plan={}, hashes={}, trials=1, rows=rows, versions={})


def test_every_row_gets_the_same_number_of_trials_and_starts_where_it_stood(
    home: Path, tmp_path: Path
) -> None:
    rows = ["neggrad", {"method": "rawp", "settings": {"gamma": 0.02}}]
    record = run_tune(plan_of(home, methods=rows, trials=3), tmp_path / "out")
    assert {name: len(row.trials) for name, row in record.rows.items()} == {"neggrad": 3, "rawp": 3}
    assert record.rows["neggrad"].trials[0].settings == {"lr": find_method("neggrad").configure().settings.lr}
    assert record.rows["rawp"].trials[0].settings == {"gamma": 0.02}
    for row in record.rows.values():
        (name,) = row.space
        values = [trial.settings[name] for trial in row.trials]
        assert len(set(values)) == 3
        assert all(row.space[name]["low"] <= value <= row.space[name]["high"] for value in values)
    assert TuneRecord.load(tmp_path / "out") == record


def test_a_search_that_was_killed_ends_with_the_same_bytes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(home, methods=["neggrad"], trials=4)
    run_tune(plan, tmp_path / "whole")
    real, calls = stakes.unlearn, []

    def dies(*args: Any, **words: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **words)

    with monkeypatch.context() as patch:
        patch.setattr("stakes.api.unlearn", dies)
        with pytest.raises(KeyboardInterrupt):
            run_tune(plan, tmp_path / "killed")
    assert len(TuneRecord.load(tmp_path / "killed").rows["neggrad"].trials) == 2
    run_tune(plan, tmp_path / "killed")
    whole, killed = (tmp_path / name / "tune.json" for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()


def test_processes_leave_the_same_bytes(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process starts with as many threads as it is told; here all have one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plan = plan_of(home, methods=["neggrad", {"method": "rawp", "settings": {"gamma": 0.02}}], trials=3)
    told: list[tuple[int, int]] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_tune(plan, tmp_path / "here")
        run_tune(
            plan,
            tmp_path / "there",
            jobs=2,
            progress=lambda _, done, whole, **more: told.append((done, whole)),
        )
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "there/tune.json").read_bytes() == (tmp_path / "here/tune.json").read_bytes()
    assert told == [(done, 6) for done in range(7)]


def test_a_worker_that_dies_costs_its_trial_and_is_told(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = tmp_path / "deadly.py"
    deadly.write_text(
        "import os\n"
        "from stakes.config import MethodSettings\n"
        "from stakes.methods import Method\n"
        "class Deadly(Method[MethodSettings]):\n"
        "    name = 'deadly'\n"
        "    settings_type = MethodSettings\n"
        "    def run(self, job):\n"
        "        os._exit(1)\n"
        "        yield {}\n"
    )
    plan = plan_of(home, methods=["neggrad", "deadly"], trials=1)
    with pytest.raises(StakesError, match="a worker process of the search died"):
        run_tune(plan, tmp_path / "out", registry=load_plugins([deadly]), jobs=2)
    assert not multiprocessing.active_children()
    # The other row's trial may have been quicker, or not; what is written down is whole.
    if (tmp_path / "out" / "tune.json").exists():
        assert TuneRecord.load(tmp_path / "out").rows["deadly"].trials == ()


def test_no_test_image_is_opened_and_no_retained_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(home, methods=["neggrad"], trials=2)
    split = stakes.split_forget(
        "random:3",
        stakes.open_source(str(home / "data"), size=(1, 8, 8)),
        class_names=tuple("0123456789"),
        size=(1, 8, 8),
        seed=100,
    )
    allowed, opened = set(split.forget.hashes()), set()
    real = ImageSet.batch

    def watched(images: ImageSet, indices: Any) -> torch.Tensor:
        found = real(images, indices)
        opened.update(images.subset(torch.arange(len(images))[indices]).hashes())
        return found

    monkeypatch.setattr(ImageSet, "batch", watched)
    run_tune(plan, tmp_path / "out")
    assert opened == allowed


def test_what_diverges_counts_as_a_trial_and_is_never_chosen(home: Path, tmp_path: Path) -> None:
    rates = [1.0e30, 0.001]
    row = {"method": "neggrad", "settings": {"lr": 1.0e30}, "search": {"lr": rates}}
    found = run_tune(plan_of(home, methods=[row], trials=6), tmp_path / "out").rows["neggrad"]
    assert found.trials[0].failed
    assert found.trials[0].score is None
    assert found.best is not None
    assert found.best.settings["lr"] == 0.001


def test_the_judge_knows_the_model_from_a_damaged_one(home: Path, tmp_path: Path) -> None:
    model = stakes.load_checkpoint(home / "model")
    split = stakes.split_forget(
        "random:3",
        stakes.open_source(str(home / "data"), size=(1, 8, 8)),
        class_names=model.class_names,
        size=(1, 8, 8),
        seed=100,
    )
    judge = Judge(model, split.forget, seed=100, cache=tmp_path)
    assert judge.agreement(model) == 100.0
    damaged = []
    for strength in (0.02, 0.5, 5.0):
        other = model.clone()
        draws = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in other.parameters():
                weight += strength * weight.std().nan_to_num() * torch.randn(weight.shape, generator=draws)
        damaged.append(judge.agreement(other))
    assert damaged == sorted(damaged, reverse=True)
    assert damaged[0] > 80 > 40 > damaged[-1]


def test_forgetting_comes_before_keeping() -> None:
    trials = (
        Trial(settings={"lr": 1.0}, forget_accuracy=50.0, agreement=100.0),
        Trial(settings={"lr": 2.0}, forget_accuracy=0.0, agreement=60.0),
        Trial(settings={"lr": 3.0}, failed="diverged"),
        Trial(settings={"lr": 4.0}, forget_accuracy=0.0, agreement=70.0),
        Trial(settings={"lr": 5.0}, forget_accuracy=0.0, agreement=70.0),
    )
    row = Searched(method="neggrad", preset=None, settings={}, space={}, trials=trials)
    assert row.best is not None
    assert row.best.settings == {"lr": 4.0}
    nothing = row.model_copy(update={"trials": trials[2:3]})
    with pytest.raises(RunFolderError, match="a trial that worked"):
        searched(neggrad=nothing).chosen("neggrad", None)


def test_the_sampler_learns_from_scores_and_repeats_itself() -> None:
    space = {"lr": Span(low=1e-4, high=1e-1)}
    tried: list[Trial] = []
    for _ in range(24):
        settings = suggest(space, tried, 0)
        assert settings == suggest(space, tried, 0)
        score = 100 - 30 * abs(torch.tensor(settings["lr"]).log10().item() + 2)  # best at .01
        tried.append(Trial(settings=settings, forget_accuracy=0.0, agreement=score))
    late = [abs(torch.tensor(trial.settings["lr"]).log10().item() + 2) for trial in tried[12:]]
    early = [abs(torch.tensor(trial.settings["lr"]).log10().item() + 2) for trial in tried[:4]]
    assert sum(late) / len(late) < 0.5 * sum(early) / len(early)
    assert suggest(space, tried, 0) != suggest(space, tried, 1)


def test_nothing_is_tried_twice_and_a_finite_space_ends() -> None:
    space = {"lr": (0.1, 0.2, 0.3), "forget_batch": Span(low=2, high=4, whole=True)}
    tried: list[Trial] = []
    while not exhausted(space, tried):
        settings = suggest(space, tried, 0)
        assert settings == suggest(space, tried, 0)
        tried.append(Trial(settings=settings, forget_accuracy=0.0, agreement=50.0))
        assert len(tried) <= 9
    assert len({tuple(sorted(trial.settings.items())) for trial in tried}) == len(tried) == 9
    assert not exhausted({"lr": Span(low=0.1, high=0.3)}, tried)


def test_a_row_whose_choices_are_all_tried_ends_early_and_says_so(
    home: Path, tmp_path: Path, stakes_cli: Any
) -> None:
    row = {"method": "neggrad", "settings": {"lr": 0.001, "max_steps": 2}, "search": {"lr": [0.001, 0.002]}}
    plan = plan_of(home, methods=[row], trials=5).model_dump(mode="json", exclude={"cache"})
    plan["run"].pop("seed")
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    code, said, _ = stakes_cli("tune", tmp_path / "plan.yaml", "--out", tmp_path / "out")
    assert code == 0
    assert "neggrad: 2 trials" in said
    tried = TuneRecord.load(tmp_path / "out").rows["neggrad"].trials
    assert [trial.settings["lr"] for trial in tried] == [0.001, 0.002]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": [{"method": "neggrad", "tuned": "x"}]}, ("starts from settings",)),
        ({"trials": 0}, ("trials", "at least 1")),
        ({"methods": [{"method": "neggrad", "search": {"lr": {"low": 0.0, "high": 1.0}}}]}, ("above 0",)),
        ({"methods": [{"method": "neggrad", "search": {"rate": [0.1]}}]}, ("rate",)),
        ({"methods": [{"method": "neggrad", "search": {"lr": [-1.0]}}]}, ("lr", "above 0")),
        ({"methods": [{"method": "neggrad", "search": {"lr": []}}]}, ("choices", "none")),
        ({"methods": [{"method": "neggrad", "search": {"max_steps": WHOLE}}]}, ("whole",)),
    ],
)  # fmt: skip
def test_a_wrong_plan_is_refused_before_work(
    home: Path, tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as refused:
        run_tune(plan_of(home, **changes), tmp_path / "out")
    assert all(word in str(refused.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_a_plan_has_one_problem(home: Path) -> None:
    data = plan_of(home).model_dump(mode="json")["data"] * 2
    data[1] = data[1] | {"name": "other"}
    with pytest.raises(ConfigError, match="one data set"):
        plan_of(home, data=data)


def test_the_folder_of_another_search_is_refused(home: Path, tmp_path: Path) -> None:
    run_tune(plan_of(home, methods=["neggrad"], trials=1), tmp_path / "out")
    with pytest.raises(RunFolderError, match="other plan"):
        run_tune(plan_of(home, methods=["neggrad"], trials=2), tmp_path / "out")
    (tmp_path / "out" / "tune.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"tune\.json"):
        run_tune(plan_of(home, methods=["neggrad"], trials=1), tmp_path / "out")


def test_a_grid_takes_what_was_chosen(home: Path, tmp_path: Path) -> None:
    best = Trial(settings={"lr": 0.25}, forget_accuracy=0.0, agreement=70.0)
    row = Searched(method="neggrad", preset=None, settings={"momentum": 0.5}, space={}, trials=(best,))
    (tmp_path / "found").mkdir()
    searched(neggrad=row).save(tmp_path / "found" / "tune.json")
    grid = {
        "data": [{"name": "digits", "source": "digits", "models": ["m"]}],
        "k": [2],
        "seeds": [0],
        "methods": [
            {"method": "neggrad", "tuned": "found"},
            {"method": "neggrad", "label": "other", "tuned": "found/tune.json", "settings": {"lr": 0.5}},
        ],
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    first, second = expand(load_grid(tmp_path / "grid.yaml"))
    assert first.entry.row == "neggrad-tuned"
    assert (first.method.settings.lr, first.method.settings.momentum) == (0.25, 0.5)
    assert second.method.settings.lr == 0.5
    plain = build(
        Grid, grid | {"name": "g", "methods": [{"method": "rawp", "tuned": str(tmp_path / "found")}]}
    )
    with pytest.raises(RunFolderError, match="rawp"):
        expand(plain)


def test_nested_settings_beside_tuned_leave_what_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    best = Trial(settings={"probes.epsilon": 1.25}, forget_accuracy=0.0, agreement=90.0)
    start = {"probes": {"epsilon": 2.0, "iterations": 7}}
    row = Searched(method="structguard", preset="paper", settings=start, space={}, trials=(best,))
    searched(row=row).save(tmp_path / "tune.json")
    entry = {"method": "structguard", "preset": "paper", "tuned": "./tune.json"}
    settings: tuple[dict[str, Any], ...] = ({"probes": {"per_image": 3}}, {"probes.per_image": 3})
    rows = [entry | {"label": f"r{at}", "settings": given} for at, given in enumerate(settings)]
    data = [{"name": "digits", "source": "digits", "models": ["elsewhere"]}]
    grid = build(Grid, {"name": "g", "data": data, "methods": rows, "k": [2], "seeds": [0]})
    nested, flat = (cell.method.settings for cell in expand(grid))
    assert nested == flat
    assert (nested.probes.epsilon, nested.probes.iterations, nested.probes.per_image) == (1.25, 7, 3)


def test_where_nothing_is_named_the_rate_is_searched() -> None:
    method = find_method("neggrad").configure(overrides={"lr": 0.01})
    assert space_of(SearchEntry(method="neggrad"), method) == {"lr": Span(low=0.001, high=0.1)}
    gamma = space_of(SearchEntry(method="rawp"), find_method("rawp").configure())
    assert list(gamma) == ["gamma"]


def test_a_whole_range_gives_whole_numbers() -> None:
    space = {"forget_batch": Span(low=2, high=64, whole=True)}
    assert isinstance(suggest(space, [], 0)["forget_batch"], int)


def test_the_command_prints_what_it_found_and_goes_on(home: Path, tmp_path: Path, stakes_cli: Any) -> None:
    plan = plan_of(home, methods=["neggrad"], trials=2).model_dump(mode="json", exclude={"cache"})
    plan["run"].pop("seed")
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    words = ("tune", tmp_path / "plan.yaml", "--out", tmp_path / "out")
    code, said, _ = stakes_cli(*words)
    assert code == 0
    assert "neggrad" in said
    code, found, _ = stakes_cli(*words, "--json")
    assert code == 0
    assert found == json.loads((tmp_path / "out" / "tune.json").read_text())
    code, _, errors = stakes_cli("tune", tmp_path / "none.yaml", "--out", tmp_path / "x")
    assert code == 2
    assert "none.yaml" in errors


def test_a_method_that_raises_fails_its_trial_and_inputs_stop_the_search(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(home, methods=["neggrad"], trials=1)

    def raising(error: Exception) -> None:
        def fails(*args: Any, **words: Any) -> Any:
            raise error

        monkeypatch.setattr("stakes.api.unlearn", fails)

    raising(RuntimeError("a defect"))
    record = run_tune(plan, tmp_path / "out")
    (trial,) = record.rows["neggrad"].trials
    assert (trial.failed, trial.score) == ("RuntimeError: a defect", None)
    with pytest.raises(RunFolderError, match="a defect"):
        record.chosen("neggrad", None)
    for error in (DataError("no image"), OutputError("full"), OSError("gone")):
        raising(error)
        with pytest.raises(type(error), match=str(error)):
            run_tune(plan, tmp_path / type(error).__name__)


def test_other_code_or_other_images_are_another_search(home: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    text = PLUGIN.replace("time.sleep(0.03)", "pass")
    mine.write_text(text)
    rows = [{"method": "slow", "settings": {"max_steps": 1}}, STRUCTGUARD, {"method": "salun"}]
    plan, out = plan_of(home, methods=rows, trials=1), tmp_path / "out"

    def search() -> Search:
        registry = load_plugins([mine])
        trials = Trials(plan, registry, tmp_path / "cache")
        spaces = {e.row: space_of(e, configured(plan, e, registry)) for e in plan.methods}
        return Search(plan, out / "tune.json", trials, spaces, 0)

    first = search().record
    assert first.hashes["plugin slow"] == digest_file(mine)
    later = {"retain_set", "anchors structguard-paper"}
    assert first.hashes.keys() - later == {"plugin slow", "model", "forget_set k3 s100"}
    first.save(out / "tune.json")
    assert search().record == first
    old = {name: value for name, value in first.hashes.items() if name not in later}
    first.model_copy(update={"hashes": old}).save(out / "tune.json")
    assert search().record.hashes == old, "a search from before these were written down goes on"
    for name in later:
        first.model_copy(update={"hashes": first.hashes | {name: "x"}}).save(out / "tune.json")
        with pytest.raises(RunFolderError, match="other hashes"):
            search()
    first.save(out / "tune.json")
    mine.write_text(text + "\n# changed\n")
    with pytest.raises(RunFolderError, match="other hashes"):
        search()
