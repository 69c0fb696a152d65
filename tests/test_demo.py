"""The demonstration does what the README says it does."""

from __future__ import annotations

from pathlib import Path

import stakes
from stakes.demo import FORGET, run_demo


def test_the_demo_forgets_keeps_and_repeats(tmp_path: Path) -> None:
    record, run = run_demo(tmp_path / "demo", device="cpu")
    assert record.forgotten
    assert record.forget_accuracy == 0.0
    assert record.before.forget_accuracy == 100.0
    # A model that had lost its use would pass every other line here.
    assert record.test_accuracy is not None
    assert record.test_accuracy > 90.0
    assert (run / "report.html").is_file()
    again, _ = run_demo(tmp_path / "demo", device="cpu")
    assert again == record, "a finished run is not run again"

    classifier = stakes.load_checkpoint(run)
    split = stakes.split_forget(
        FORGET, stakes.open_source("digits"), class_names=classifier.class_names, size=classifier.input_size
    )
    assert stakes.evaluate(classifier, split, device="cpu") == record.after
