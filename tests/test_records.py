"""Records: frozen, read and written whole."""

from __future__ import annotations

import json

import pytest

from stakes.console import forget_all, keep_more
from stakes.errors import RunFolderError
from stakes.records import Figures, Hashes, Phase, Record, Unlabelled


@pytest.fixture
def record() -> Record:
    return Record(
        created="2026-01-01T00:00:00+00:00",
        method="neggrad",
        preset="paper",
        settings={"lr": 1e-4, "probes": {"epsilons": [0.5, 1.0]}},
        run={"seed": 3},
        request={"forget": "random:4"},
        seed=3,
        before=Figures(forget_accuracy=100.0, forget_images=4, test_accuracy=97.5, test_images=40),
        after=Figures(forget_accuracy=25.0, forget_images=4, test_accuracy=1 / 3, test_images=40),
        forgotten=False,
        steps=7,
        stop_reason="step limit",
        already_misclassified=0,
        phases=(Phase(name="unlearn", seconds=1.5, forward_images=3, backward_images=2),),
        hashes=Hashes(model_before="a", model_after="b", forget_set="c"),
        versions={"torch": "2"},
        device="cpu",
    )


def test_round_trip(record, tmp_path):
    record.save(tmp_path / "record.json")
    read = Record.load(tmp_path / "record.json")
    assert read == record
    assert read.digest() == record.digest()
    first = (tmp_path / "record.json").read_bytes()
    read.save(tmp_path / "record.json")
    assert (tmp_path / "record.json").read_bytes() == first


def test_frozen(record):
    with pytest.raises(ValueError, match="frozen"):
        record.forgotten = True


VOLATILE = {
    "created": "2027",
    "phases": (),
    "versions": {},
    "device": "cuda",
    "analyses": {"retrieval": {"r_at_1": 50.0}},
}


@pytest.mark.parametrize("name", sorted(Record.model_fields))
def test_digest_covers_all_but_what_may_differ_between_two_equal_runs(record, name):
    changed = {
        "schema_version": 2,
        "method": "other",
        "preset": None,
        "settings": {},
        "run": {},
        "request": {},
        "seed": 4,
        "before": record.after,
        "after": record.before,
        "forgotten": True,
        "steps": 8,
        "stop_reason": "finished",
        "already_misclassified": 1,
        "hashes": Hashes(model_before="a", model_after="x", forget_set="c"),
        "notes": ("a",),
        "unlabelled": Unlabelled(images=3, hash="e"),
        **VOLATILE,
    }
    other = record.model_copy(update={name: changed[name]})
    assert (other.digest() == record.digest()) == (name in VOLATILE)


def test_figures_and_verdict(record):
    assert (record.test_accuracy, record.retain_accuracy, record.forget_accuracy) == (1 / 3, None, 25.0)
    assert record.verdict == (
        "NOT forgotten: 1 of 4 images to forget is still recognised after 7 steps (step limit)."
    )
    done = record.model_copy(update={"forgotten": True})
    assert done.verdict.startswith("Forgotten: all 4 images")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema 1"),
        ({"stop_reason": "bored"}, "forgotten"),
        ({"surprise": 1}, "not permitted"),
        ({"after": {}}, "required"),
    ],
)
def test_unfitting_records(record, tmp_path, change, message):
    data = json.loads(record.model_dump_json()) | change
    (tmp_path / "record.json").write_text(json.dumps(data))
    with pytest.raises(RunFolderError, match=message):
        Record.load(tmp_path / "record.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_damaged_records(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(RunFolderError, match="schema 1"):
        Record.load(tmp_path / "record.json")


def test_missing_record(tmp_path):
    with pytest.raises(RunFolderError, match="it resumes"):
        Record.load(tmp_path / "record.json")
    with pytest.raises(RunFolderError):
        Record.load(tmp_path)


@pytest.mark.parametrize(
    ("images", "share", "said"),
    [
        (1, 0.0, "Forgotten: the one image to forget is misclassified by the saved model."),
        (3, 0.0, "Forgotten: all 3 images to forget are misclassified by the saved model."),
        (1, 100.0, "NOT forgotten: the one image to forget is still recognised after 7 steps (step limit)."),
        (2, 50.0, "NOT forgotten: 1 of 2 images to forget is still recognised after 7 steps (step limit)."),
        (2, 100.0, "NOT forgotten: 2 of 2 images to forget are still recognised after 7 steps (step limit)."),
    ],
)
def test_the_verdict_counts_like_people(record, images, share, said):
    after = Figures(forget_accuracy=share, forget_images=images)
    changed = record.model_copy(
        update={"after": after, "forgotten": share == 0.0, "steps": 7, "stop_reason": "step limit"}
    )
    assert changed.verdict == said


def test_unlabelled_images_stand_in_a_record_only_where_there_are_some(record, tmp_path):
    assert "unlabelled" not in record.model_dump()
    used = Unlabelled(images=1000, hash="e" * 64, apart=200, agreement=98.5)
    more = record.model_copy(update={"unlabelled": used})
    assert more.digest() != record.digest()
    more.save(tmp_path / "record.json")
    assert Record.load(tmp_path / "record.json").unlabelled == used
    assert used.said == "1,000 unlabelled images"
    assert used.agrees == "It answers as before on 98.50 % of 200 unlabelled images kept apart."


@pytest.mark.parametrize(
    ("lost", "changes", "told"),
    [
        (2.0, {}, True),
        (0.5, {}, False),
        (2.0, {"unlabelled": {"images": 3, "hash": "e"}}, False),
        (2.0, {"hashes": {"model_before": "a", "model_after": "b", "forget_set": "c"}}, False),
        (None, {}, False),
    ],
)
def test_who_lost_much_is_told_what_may_keep_more(record, lost, changes, told):
    before, after = (
        Figures(test_accuracy=None if lost is None else test, forget_accuracy=0.0, forget_images=1)
        for test in (90.0, 90.0 - (lost or 0.0))
    )
    hashes = record.hashes.model_dump() | {"probes": "p"}
    data = record.model_dump() | {"before": before, "after": after, "hashes": hashes} | changes
    assert bool(keep_more(Record.model_validate(data))) == told


def test_who_has_searched_is_not_told_to_search(record):
    before, after = (
        Figures(test_accuracy=test, forget_accuracy=0.0, forget_images=1) for test in (90.0, 80.0)
    )
    hashes = record.hashes.model_dump() | {"probes": "p"}
    data = record.model_dump() | {"before": before, "after": after, "hashes": hashes}
    assert "--tune" in keep_more(Record.model_validate(data))
    searched = data | {"request": record.request | {"tuned": "8 trials"}}
    assert "--tune" not in keep_more(Record.model_validate(searched))


def test_who_ran_into_a_limit_is_told_what_may_forget_the_rest(record):
    left = record.model_copy(
        update={
            "forgotten": False,
            "stop_reason": "step limit",
            "steps": 400,
            "settings": {"max_steps": 400, "max_epochs": 1000, "lr": 0.0025},
        }
    )
    said = forget_all(left)
    assert "--set max_steps=800" in said
    assert "--set lr=0.005" in said
    assert "--tune 8" in said
    by_rounds = forget_all(left.model_copy(update={"steps": 300}))
    assert "--set max_epochs=2000" in by_rounds
    assert "max_steps" not in by_rounds
    no_rate = left.model_copy(update={"settings": {"max_steps": 400}, "request": {"tuned": "8 trials"}})
    assert (
        forget_all(no_rate)
        == "More may be forgotten with more steps (--set max_steps=800), in a new run folder."
    )
    assert not forget_all(left.model_copy(update={"forgotten": True}))
    assert not forget_all(left.model_copy(update={"stop_reason": "finished"})), "no limit to raise"
