"""The model card: the hub can read it, it tells the record, and it gives nobody away."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from pagekit import a_record, a_run, a_section, figure

from stakes.errors import RunFolderError
from stakes.report.card import model_card, request_kind, write_card
from stakes.report.page import write_page

SECRET = "/home/ann-example/photos of ann"


def test_the_hub_reads_the_figures_of_the_record(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    card = ModelCard.load(write_card(run))
    assert card.data.library_name == "stakes"
    assert card.data.pipeline_tag == "image-classification"
    assert "machine-unlearning" in card.data.tags
    after = a_record().after
    found = {result.dataset_config: result.metric_value for result in card.data.eval_results}
    assert found == {
        "test": after.test_accuracy,
        "retain": after.retain_accuracy,
        "forget": after.forget_accuracy,
    }
    for text in (
        "87.98 %",
        "27.91 %",
        "97.91 %",
        "98.44 %",
        "b" * 64,
        "a" * 64,
        "(n, 3, 32, 32)",
        "resnet18",
    ):
        assert text in card.text
    assert a_record().verdict in card.text
    assert "Do not read it as a proof of deletion" in card.text
    assert "Not audited" in card.text


def test_findings_of_the_audit_stand_in_it_with_their_limits(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", None, a_section("membership"), a_section("gradcam", sentence="Heat."))
    text = model_card(run)
    assert "AUC 0.3141 (95 % interval 0.22 to 0.41)." in text
    assert "64 images only." in text
    assert "Heat." not in text
    assert "Not audited" not in text


@pytest.mark.parametrize(
    ("request_", "kept"),
    [("random:64", "random:64"), (f"images:{SECRET}", "images"), ("class:ann", "class"), ("", "given in Python"),
     (f"indices:{SECRET}/rows.txt", "indices"), ("random:ann", "random"), ("ann:1", "given in Python")],
)  # fmt: skip
def test_of_a_request_only_its_kind_is_kept(request_: str, kept: str) -> None:
    assert request_kind(request_) == kept


def test_a_card_names_no_person_and_no_path(tmp_path: Path) -> None:
    record = a_record(
        request={
            "model": f"{SECRET}/model",
            "data": SECRET,
            "forget": "class:Ann Example",
            "note": f"see {SECRET}",
        },
        settings=a_record().settings | {"file": f"{SECRET}/x"},
        notes=(f"kept in {SECRET}",),
    )
    sections = [
        a_section("membership", sentence="Images of ann example stand out."),
        a_section("changes", limit=f"Only those in {SECRET}."),
        a_section("relearning", sentence="Back after 3 steps.", figures=(figure("own.png", personal=True),)),
    ]
    text = model_card(a_run(tmp_path / "run", record, *sections))
    for word in ("ann", "Example", "/home", "photos", "data:", "own.png", "bob"):
        assert word.lower() not in text.lower().replace("channels", "").replace("cannot", ""), word
    assert "Back after 3 steps." in text
    assert "2 findings left out" in text
    assert record.hashes.forget_set not in text, "with it, who has an image could tell that it was forgotten"


def test_text_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<script>x</script> | [a](http://b.test) `c`\n\n# d ![e](f)"
    section = a_section("membership", title=evil, sentence=evil, limit=evil)
    text = model_card(a_run(tmp_path / "run", a_record(method="m|<b>", settings={"a|b": "c|d"}), section))
    assert "<script>" not in text
    assert "\n# d" not in text
    assert "[a](" not in text.replace("\\[a\\](", "")
    assert r"| a\|b | c\|d |" in text
    ModelCard(text)


def test_a_network_of_the_users_own_class_says_so(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    assert "factory" not in model_card(run)
    (run / "config.json").write_text('{"architecture": null, "num_classes": 2, "input_size": [1, 8, 8]}')
    assert "factory=YourNetwork" in model_card(run)
    (run / "config.json").unlink()
    assert "(n, C, H, W)" in model_card(run)


def test_it_is_written_with_the_page(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    write_page(run)
    assert (run / "README.md").read_text() == model_card(run)
    with pytest.raises(RunFolderError, match="no record"):
        write_card(tmp_path)
