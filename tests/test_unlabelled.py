"""Unlearning with unlabelled images, end to end on digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from stakes.api import unlearn
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.data.unlabelled import kept_apart
from stakes.errors import ConfigError, DataError, RunFolderError
from stakes.metrics import statistics_shift
from stakes.records import LIKE, UNLIKE, Record
from stakes.report.figures import price
from stakes.unlearning import Unlearned
from tinydigits import FEW_INVERTED, FEW_PROBES, NAMES, anchors, digits_model, known, sets, split

SETTINGS = FEW_INVERTED | {"settle": 20, "max_steps": 80, "forget_batch": 4, "probe_batch": 32}


def given(count: int = 100) -> ImageSet:
    """Test images that nothing is measured on."""
    return sets()[1].subset(range(100, 100 + count))


def problem(unlabelled: ImageSet | None) -> ForgetSplit:
    return replace(split(), unlabelled=unlabelled)


def run(cache: Path, unlabelled: ImageSet | None, **call: Any) -> Unlearned:
    wanted = {"settings": SETTINGS, "device": "cpu", "measure_every": 5} | call
    return unlearn(digits_model("resnet10"), problem(unlabelled), cache=cache, **wanted)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Unlearned, Unlearned]:
    """A run without and one with unlabelled images."""
    folder = tmp_path_factory.mktemp("both")
    return folder, run(folder, None, out=folder / "without"), run(folder, given(), out=folder / "with")


@torch.no_grad()
def distance(result: Unlearned, images: ImageSet) -> float:
    """KL of the answers now from those of the model before, in nats."""
    pixels = images.batch(slice(None))
    before = F.log_softmax(digits_model("resnet10")(pixels), 1)
    now = F.log_softmax(result.classifier(pixels), 1)
    return float(F.kl_div(now, before, reduction="batchmean", log_target=True))


def test_the_model_stays_nearer_to_its_answers_on_images_it_was_not_given(both: Any) -> None:
    _, without, with_them = both
    assert without.record.forgotten
    assert with_them.record.forgotten
    others = sets()[1].subset(range(200, len(sets()[1])))
    assert distance(with_them, others) < 0.8 * distance(without, others)


def test_the_record_says_what_was_used(both: Any) -> None:
    folder, without, with_them = both
    used = with_them.record.unlabelled
    assert used is not None
    assert (used.images, used.twins, used.hash) == (100, 0, given().fingerprint())
    assert [phase.name for phase in with_them.record.phases][1:3] == ["unlabelled", "probes"]
    assert with_them.record.hashes.probes != without.record.hashes.probes
    assert Record.load(folder / "with" / "record.json") == with_them.record
    # Records without them are what they were before there were any.
    assert "unlabelled" not in without.record.model_dump()
    assert "unlabelled_most" not in without.record.run
    assert "unlabelled" not in (folder / "without" / "record.json").read_text()


def test_images_of_another_kind_are_told_of(both: Any, tmp_path: Path, caplog: Any) -> None:
    used = both[2].record.unlabelled
    assert used.shift == pytest.approx(statistics_shift(digits_model("resnet10"), given())[1], abs=1e-4)
    assert used.shift < LIKE
    assert f"they lie {used.shift:.2f} standard deviations from what it was trained on" in used.likeness
    assert both[2].record.notes == ()
    assert not caplog.records
    short = {"settings": SETTINGS | {"settle": 2, "max_steps": 4}}
    other = run(
        tmp_path, ImageSet.from_tensors(1 - given().batch(slice(None)), [0] * 100, NAMES), **short
    ).record
    assert other.unlabelled.shift > UNLIKE
    assert [one[:38] for one in other.notes] == ["The unlabelled images are unlike those"]
    assert caplog.messages == [*other.notes]


def test_labels_play_no_part(both: Any, tmp_path: Path) -> None:
    wrong = given().with_labels((given().labels + 1) % 10)
    again = run(tmp_path, wrong.with_labels([0] * 100))
    assert again.record.hashes.model_after == run(tmp_path, wrong).record.hashes.model_after
    assert again.record.hashes.model_after == both[2].record.hashes.model_after


def test_other_unlabelled_images_are_another_request(both: Any) -> None:
    folder = both[0]
    finished = run(folder, given(), out=folder / "with")
    assert finished.record == both[2].record
    for other in (None, given(99)):
        with pytest.raises(RunFolderError, match="unlabelled"):
            run(folder, other, out=folder / "with")


def test_an_image_to_forget_among_them_is_left_out(tmp_path: Path) -> None:
    forget = split().forget
    mixed = torch.cat([forget.batch(slice(None)), given(20).batch(slice(None))])
    result = run(tmp_path, ImageSet.from_tensors(mixed, [0] * 23, NAMES))
    used = result.record.unlabelled
    assert used is not None
    assert (used.images, used.twins) == (20, 3)
    assert used.hash == given(20).with_labels([0] * 20).fingerprint()
    with pytest.raises(DataError, match="expected others than those to forget, got only these"):
        run(tmp_path, forget)


def test_interrupted_it_goes_on_to_the_same_model(both: Any, tmp_path: Path) -> None:
    def stop(phase: str, done: int, total: int, **_: float) -> None:
        if phase == "unlearn" and done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, given(), out=tmp_path / "run", progress=stop, checkpoint_seconds=0.01)
    assert (tmp_path / "run" / "state" / "job.pt").is_file()
    resumed = run(tmp_path, given(), out=tmp_path / "run")
    assert resumed.record.digest() == both[2].record.digest()


def test_no_more_than_the_most_are_taken(tmp_path: Path) -> None:
    result = run(tmp_path, given(60), unlabelled_most=25)
    used = result.record.unlabelled
    assert used is not None
    assert used.images == 25
    assert result.record.run["unlabelled_most"] == 25


def test_images_that_are_measured_on_as_well_are_told_of(tmp_path: Path) -> None:
    test = split().test
    assert test is not None
    notes = run(
        tmp_path, test.subset(range(5)), settings=SETTINGS | {"settle": 2, "max_steps": 4}
    ).record.notes
    assert notes == (
        "5 test images have the same pixels as an unlabelled one that the model was held to its answer on: test "
        "accuracy counts them.",
    )


def test_without_a_test_set_a_fifth_is_kept_apart_and_measured_on(both: Any, tmp_path: Path) -> None:
    alone = ForgetSplit(split().forget, unlabelled=given())
    result = unlearn(digits_model("resnet10"), alone, cache=tmp_path, settings=SETTINGS, device="cpu")
    used = result.record.unlabelled
    assert used is not None
    assert (used.images, used.apart, used.twins) == (80, 20, 0)
    rest, apart = kept_apart(given(), seed=0)
    assert apart is not None
    assert used.hash == rest.fingerprint()
    assert set(rest.pixel_hashes()).isdisjoint(apart.pixel_hashes())
    pixels = apart.batch(slice(None))
    alike = digits_model("resnet10")(pixels).argmax(1) == result.classifier(pixels).argmax(1)
    assert used.agreement == pytest.approx(100 * float(alike.float().mean()))
    assert price(result.record.before, result.record.after, used).startswith("It answers as before on ")
    with_test = both[2].record.unlabelled
    assert (with_test.apart, with_test.agreement, with_test.agrees) == (0, None, "")


def test_few_images_are_all_trained_on() -> None:
    assert kept_apart(given(4), seed=0)[1] is None
    many, apart = kept_apart(given(5), seed=0)
    assert (len(many), len(apart or ())) == (4, 1)


def test_pixels_alone_will_do(tmp_path: Path) -> None:
    model, images = digits_model("resnet10"), known().subset(range(3))
    short = {"settings": SETTINGS | {"settle": 2, "max_steps": 4}, "device": "cpu", "cache": tmp_path}
    pair = (images.batch(slice(None)), images.labels)
    result = unlearn(model, pair, unlabelled=given(8).batch(slice(None)), **short)
    assert result.record.unlabelled is not None
    assert result.record.unlabelled.images + result.record.unlabelled.apart == 8
    with pytest.raises(DataError, match="inside the ForgetSplit"):
        unlearn(model, split(), unlabelled=given(8), **short)


@pytest.mark.parametrize("method", ["adv", "l2ul"])
def test_every_method_with_probes_takes_them(method: str, tmp_path: Path) -> None:
    few = FEW_PROBES | {"max_steps": 3, "probe_batch": 64}
    with_them = run(tmp_path, given(), method=method, settings=few).record
    without = run(tmp_path, None, method=method, settings=few).record
    assert with_them.unlabelled is not None
    assert with_them.hashes.model_after != without.hashes.model_after


def test_the_papers_loss_aligns_on_them_too(tmp_path: Path) -> None:
    few = FEW_PROBES | {"max_steps": 3, "importance_probes": None}
    call = {"preset": "paper", "settings": few, "anchors": anchors()}
    assert run(tmp_path, given(), **call).history != run(tmp_path, None, **call).history


def test_a_method_without_probes_has_no_use_for_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method neggrad: expected a method that trains on probes"):
        run(tmp_path, given(), method="neggrad", settings={})


def test_a_set_of_other_size_or_classes_is_refused() -> None:
    with pytest.raises(DataError, match="image size of the unlabelled set"):
        problem(given().with_size((1, 9, 9)))
