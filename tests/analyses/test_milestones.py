"""What each part of the forgetting cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from runkit import SMALL, make_run

from stakes.analyses import AnalysisSettings, milestones
from stakes.analyses.context import Context, SkipAnalysis
from stakes.errors import MissingExtraError
from stakes.opened import open_run
from stakes.report.section import Section


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, Section]:
    home = tmp_path_factory.mktemp("milestones")
    run = open_run(
        make_run(
            home,
            "random:8",
            settings={"lr": 0.01, "max_steps": 30},
            milestones=True,
            measure_every=1,
        ),
        device="cpu",
    )
    context = Context(run, AnalysisSettings().with_overrides(SMALL), home / "anchors.safetensors")
    return context, milestones.analysis(context)


def test_each_milestone_has_its_row(section: tuple[Context, Section]) -> None:
    context, found = section
    rows = {str(row[0]): row for row in found.tables[0].rows}
    before, record = rows["before"], context.run.record
    assert before[1] == 0
    assert before[5] == 0.0, "nothing has collapsed yet"
    gone = {
        int(row["step"]): 100 - row["forget_accuracy"]
        for row in context.run.history
        if "forget_accuracy" in row
    }
    for share in (50, 80, 95, 100):
        step = next((step for step in sorted(gone) if gone[step] >= share), None)
        assert found.numbers[f"step_at_{share}_percent"] == step
        if step is not None:
            assert rows[f"{share} %"][1:3] == (step, pytest.approx(gone[step]))
            assert rows[f"{share} %"][5] > 0  # type: ignore[operator]
    assert found.numbers["step_at_50_percent"] is not None, "too few steps to test anything"
    last = found.tables[0].rows[-1]
    assert last[1] == record.steps
    assert last[2] == pytest.approx(100 - record.after.forget_accuracy)
    lost = found.numbers["test_lost_at_50_percent_points"]
    assert lost == pytest.approx(before[3] - rows["50 %"][3], abs=1e-3)  # type: ignore[operator]
    assert (context.folder / "milestones.svg").read_text().startswith("<?xml")


def test_without_an_encoder_only_the_collapse_is_missing(
    section: tuple[Context, Section], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The structure is one column of many: a run without anchors needs no text encoder for the others."""
    context, found = section

    def none_installed(names: object) -> None:
        raise MissingExtraError("encoder 'minilm'", fix="Run `pip install …`.")

    monkeypatch.setattr("stakes.analyses.context.build_anchors", none_installed)
    bare = Context(replace(context.run, anchors=None), context.settings)
    told = milestones.analysis(bare)
    assert [row[:5] for row in told.tables[0].rows] == [row[:5] for row in found.tables[0].rows]
    assert {row[5] for row in told.tables[0].rows} == {None}
    with pytest.raises(SkipAnalysis, match="encoder 'minilm'"):
        bare.anchors()


def test_a_run_that_kept_nothing_is_skipped(context: Context) -> None:
    with pytest.raises(SkipAnalysis, match="--milestones"):
        milestones.analysis(context)


def test_a_share_that_fell_back_counts_when_it_was_first_reached() -> None:
    assert milestones.first_reached({0: 3.5, 10: 60.0, 20: 40.0, 30: 80.0}) == {
        50: 10,
        80: 30,
        95: None,
        100: None,
    }
    assert milestones.first_reached({0: 100.0}) == dict.fromkeys((50, 80, 95, 100), 0)
