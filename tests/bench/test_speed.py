"""The speed of variants: counts are right, slices are scaled by them, and it is said which. No clock is judged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tinydigits
from stakes.bench.cost import cell_cost
from stakes.bench.grid import Facts
from stakes.bench.speed import SpeedReport, SpeedSettings, Variant, bench_speed, variant
from stakes.bench.speed.bare import BareNetwork, Pass, Recorder, counts
from stakes.bench.speed.ground import Ground
from stakes.bench.speed.learning import LearningSlice
from stakes.bench.speed.probing import ProbeSlice
from stakes.config import RunSettings
from stakes.errors import ConfigError, DataError

PROBES = {"probes.per_image": 3, "probes.iterations": 4, "probes.epsilon": 1.0}
BATCHES = {"probe_batch": 4, "forget_batch": 3}
PAPER = variant("structguard:paper", settings=PROBES | BATCHES, steps=7)
L2UL = variant("l2ul", settings=PROBES | BATCHES, steps=5)
SHIPPED = variant(
    "structguard",
    settings={"probes.inversion.batches": 3, "probes.inversion.batch": 4, "probes.inversion.iterations": 6}
    | BATCHES,
)
QUICK = SpeedSettings(rounds=2, most_passes=16, steps=2)
WHOLE = SpeedSettings(rounds=1, most_passes=100_000, steps=2)


pytestmark = pytest.mark.usefixtures("one_thread")


def ground(chosen: Variant, speed: SpeedSettings = QUICK, **run: Any) -> Ground:
    return Ground(
        chosen,
        tinydigits.digits_model("resnet10").clone(),
        tinydigits.split(5),
        tinydigits.anchors(),
        RunSettings(**{"device": "cpu", "eval_batch": 16, "probe_chunk": 6} | run),
        torch.device("cpu"),
        speed,
    )


def report(*variants: Variant, speed: SpeedSettings = QUICK) -> SpeedReport:
    return bench_speed(
        tinydigits.digits_model("resnet10"),
        tinydigits.split(5),
        variants,
        anchors=tinydigits.anchors(),
        speed=speed,
        device="cpu",
        eval_batch=16,
        probe_chunk=6,
    )


@pytest.fixture(scope="module")
def three() -> SpeedReport:
    return report(SHIPPED, PAPER, L2UL)


def test_counts_are_those_of_the_whole(three: SpeedReport) -> None:
    """A slice is scaled to what the cost of a grid says."""
    settings = RunSettings(eval_batch=16)
    facts = Facts(train_images=105, test_images=60, classes=10, image_size=(1, 8, 8))
    for found, chosen in zip(three.variants, (SHIPPED, PAPER, L2UL), strict=True):

        @dataclasses.dataclass(frozen=True)
        class Cell:
            method: Any = chosen.method
            k: int = 5
            run: RunSettings = settings
            id: str = "x"

        phases = {phase.name: phase for phase in found.phases}
        probes = chosen.method.settings.probes.passes(5)
        assert (phases["probes"].forward, phases["probes"].backward) == (probes, probes)
        cost = cell_cost(Cell(), facts)
        assert phases["evaluation"].forward == cost.evaluate.forward
        assert phases["evaluation"].backward == 0
        if chosen.steps is not None:
            kept, gone = 4, 3  # of a step; the second batch of the forget set is smaller
            assert phases["steps"].backward <= chosen.steps * (kept + gone)
            assert phases["steps"].backward >= chosen.steps * (kept + 2)
    paper = {phase.name: phase for phase in three.variants[1].phases}
    assert paper["set-up"].forward == pytest.approx(30, abs=3), (
        "S_ori of 15 probes, and the importance of as many"
    )
    assert paper["set-up"].backward == pytest.approx(15, abs=3)
    l2ul = {phase.name: phase for phase in three.variants[2].phases}
    assert (l2ul["set-up"].forward, l2ul["set-up"].backward) == (5, 5), "the forget set once, never scaled"


def test_whole_set_up_is_counted_exactly() -> None:
    found = {phase.name: phase for phase in report(PAPER, speed=WHOLE).variants[0].phases}
    assert (found["set-up"].forward, found["set-up"].backward) == (30, 15)
    assert found["probes"].how == found["set-up"].how == "whole"


def test_stop_tests_wait_for_the_schedule() -> None:
    """Five images in two batches of three: the schedule takes the root of two as long."""
    settings = PROBES | BATCHES | {"settle": 4}
    tests = LearningSlice(
        ground(variant("structguard:paper", settings=settings, steps=9)), lambda: None
    )._tests()
    assert sorted(tests.values()) == [pytest.approx(9 / 10), 9 - round(4 * 2**0.5)]


def test_stop_tests_begin_in_the_last_quarter_of_the_steps_at_the_latest() -> None:
    settings = PROBES | BATCHES | {"settle": 100, "max_steps": 8}
    tests = LearningSlice(
        ground(variant("structguard:paper", settings=settings, steps=8)), lambda: None
    )._tests()
    assert sorted(tests.values()) == [pytest.approx(8 / 10), 8 - 6]


def test_what_is_measured_is_said(three: SpeedReport) -> None:
    how = {(one.label, phase.name): phase.how for one in three.variants for phase in one.phases}
    assert "6 of 15 probes, with 1 and with 2 of 4 iterations" in how["l2ul", "probes"]
    assert "4 of 12 probes, with 2 and with 4 of 6 iterations" in how["structguard", "probes"]
    assert how["l2ul", "set-up"] == "whole"
    assert how["l2ul", "steps"] == "2 of 5 steps; scaled by steps"
    assert how["structguard", "steps"] == "one step"
    assert "of 165 images" in how["l2ul", "evaluation"]


def test_set_up_on_a_share_of_the_probes() -> None:
    small = SpeedSettings(rounds=1, most_passes=8, steps=2)
    paper, l2ul = (
        LearningSlice(place := ground(one, small), ProbeSlice(place).taken).samples() for one in (PAPER, L2UL)
    )
    assert paper["set-up"].extent.how == "53.3% of the probes; scaled by probes"
    assert (paper["set-up"].extent.forward, paper["set-up"].extent.backward) == (30, 15)
    assert l2ul["set-up"].extent.how == "whole", "it looks at the forget set alone"


def test_ratios_and_totals(three: SpeedReport) -> None:
    shipped, paper, l2ul = three.variants
    for one in (paper, l2ul):
        assert one.forward == sum(phase.forward for phase in one.phases)
        assert one.backward == sum(phase.backward for phase in one.phases)
    assert shipped.forward == sum(p.forward for p in shipped.phases if p.name not in ("steps", "stop test"))
    ratios = {(one.label, one.phase): one for one in three.ratios}
    assert ("structguard", "total") not in ratios, "its steps are not known"
    total = ratios["structguard:paper", "total"]
    assert total.reference == "l2ul"
    assert total.forward == pytest.approx(paper.forward / l2ul.forward)
    for one in three.variants:
        for phase in one.phases:
            assert len(phase.rounds) == 2
            assert phase.seconds >= 0
            assert (phase.overhead is None) == (phase.forward == 0)


def test_time_of_probes_is_affine_in_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that knows a and b in n · (a + b · i) gets them back."""
    slices = ProbeSlice(ground(L2UL))
    monkeypatch.setattr(slices, "_make", lambda i: (6 * (0.5 + 2.0 * i), [Pass(6, "pixels")] * i))
    assert slices.times == (1, 2)
    assert slices.sample().seconds == pytest.approx(15 * (0.5 + 2.0 * 4))


def test_probes_of_a_slice_are_those_of_a_run() -> None:
    """The slice does the work that is timed: its first image's probes, with all iterations, are the run's."""
    whole, part = ProbeSlice(ground(L2UL, WHOLE)), ProbeSlice(ground(L2UL))
    whole.sample()
    part._make(4)
    assert whole.made is not None
    assert part.made is not None
    assert torch.equal(part.made.batch(torch.arange(6)), whole.made.batch(torch.arange(6)))


def test_nothing_is_changed_by_measuring() -> None:
    place = ground(PAPER)
    before = place.original.fingerprint()
    state = torch.get_rng_state()
    probing = ProbeSlice(place)
    probing.sample()
    LearningSlice(place, lambda: probing.made).samples()
    assert place.original.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_bare_passes_are_made_and_nothing_else() -> None:
    place = ground(PAPER)
    bare: BareNetwork = place.bare
    meter = Recorder()
    wanted = [Pass(5, "weights"), Pass(3), Pass(2, "weights")]
    with meter.watching(bare._job.model.body), meter.watching(bare._plain.body):
        assert bare.seconds(wanted) > 0
    assert meter.passes == wanted
    assert counts(meter.passes) == (10, 7)
    assert bare.seconds([]) >= 0
    assert all(value.grad is None for value in bare._job.model.parameters())
    assert bare.seconds([Pass(4, "pixels")]) > 0


def test_json_and_markdown(three: SpeedReport, tmp_path: Path) -> None:
    data, text = three.save(tmp_path)
    assert SpeedReport.model_validate(json.loads(data.read_text())) == three
    shown = text.read_text()
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert "their number was not given" in shown
    assert "structguard:paper / l2ul" in shown
    assert {line.count("|") for line in lines} == {9, 6}


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="of its own"):
        report(L2UL, L2UL)
    with pytest.raises(ConfigError, match="anchors"):
        bench_speed(tinydigits.digits_model("resnet10"), tinydigits.split(5), [PAPER], device="cpu")
    place = ground(L2UL)
    with pytest.raises(DataError, match="retain"):
        dataclasses.replace(
            place, variant=variant("oracle"), split=dataclasses.replace(place.split, retain=None)
        )


def test_methods_of_all_kinds_can_be_measured() -> None:
    few = {"max_steps": 3}
    found = report(variant("neggrad", settings=few), variant("salun", settings=few), variant("before"))
    names = {one.label: [phase.name for phase in one.phases] for one in found.variants}
    assert names["neggrad"] == ["set-up", "steps", "stop test", "evaluation"]
    assert all(one.seconds >= 0 for one in found.variants)


def test_the_command(stakes_cli: Any, home: Path, tmp_path: Path) -> None:
    words = ["bench-speed", "--model", home / "model", "--data", home / "data", "--forget", "random:3"]
    words += [
        "--variant",
        "structguard:paper",
        "--variant",
        "l2ul",
        "--anchors",
        home / "anchors.safetensors",
    ]
    words += [
        "--device",
        "cpu",
        "--rounds",
        1,
        "--most-passes",
        16,
        "--retain-sample",
        20,
        "--out",
        tmp_path / "speed",
    ]
    for label in ("structguard:paper", "l2ul"):
        for key, value in (PROBES | BATCHES).items():
            words += ["--set", f"{label}.{key}={value}"]
    code, found, err = stakes_cli(*words, "--steps", "l2ul=4", "--json")
    assert code == 0, err
    assert found == json.loads((tmp_path / "speed" / "speed.json").read_text())
    assert [one["steps"] for one in found["variants"]] == [None, 4]
    assert "| l2ul | probes |" in (tmp_path / "speed" / "speed.md").read_text()
    for wrong in (
        ["--steps", "adv=4"],
        ["--steps", "l2ul=0"],
        ["--set", "adv.lr=1"],
        ["--variant", "nonsense"],
    ):
        code, _, err = stakes_cli(*words, *wrong)
        assert code == 2
        assert "Traceback" not in err
