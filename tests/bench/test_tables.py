"""Tables of records written by hand, against NumPy."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stakes.bench.folder import BenchFolder
from stakes.bench.render import render
from stakes.bench.sheet import Sheet, picked, sheets
from stakes.errors import ConfigError, RunFolderError
from stakes.records import Figures, Hashes, Record


def record(
    row: str,
    k: int = 16,
    seed: int = 0,
    *,
    test: float | None = 80.0,
    retain: float | None = 90.0,
    forget: float = 0.0,
    weights: str = "m",
    **request: Any,
) -> Record:
    figures = Figures(test_accuracy=test, retain_accuracy=retain, forget_accuracy=forget, forget_images=k)
    asked = {"data": "cifar10", "model": "resnet18", "row": row, "published": "cifar10"} | request
    return Record(
        created="2026-01-01T00:00:00+00:00",
        method=row.removesuffix("-authors"),
        settings={},
        run={},
        request=asked,
        seed=seed,
        before=figures,
        after=figures,
        forgotten=forget == 0.0,
        steps=3,
        stop_reason="finished",
        already_misclassified=0,
        phases=(),
        hashes=Hashes(model_before=weights, model_after="n", forget_set="f", test_set="t"),
        versions={},
        device="cpu",
    )


def named(*found: Record) -> dict[str, Record]:
    return {f"{r.request['row']}_k{r.after.forget_images}_s{r.seed}-{at}": r for at, r in enumerate(found)}


def sheet(*found: Record, layout: Any = "table2") -> Sheet:
    (one,) = sheets(named(*found), layout)
    return one


def test_means_and_deviations_are_numpys() -> None:
    tests, retains, forgets = [81.234, 79.5, 83.01, 70.0], [90.1, 91.2, 80.3, 99.9], [0.0, 6.25, 0.0, 12.5]
    made = sheet(
        *(
            record("neggrad", seed=seed, test=t, retain=r, forget=f)
            for seed, (t, r, f) in enumerate(zip(tests, retains, forgets, strict=True))
        )
    )
    for block, values in (("test", tests), ("retain", retains), ("forget", 100 - np.array(forgets))):
        entry = made.get(block, "neggrad", 16)  # type: ignore[arg-type]
        assert entry.mean == pytest.approx(np.mean(values))
        assert entry.std == pytest.approx(np.std(values, ddof=1))
        assert entry.n == 4
        assert entry.unforgotten


def test_one_seed_has_no_deviation() -> None:
    entry = sheet(record("neggrad")).get("test", "neggrad", 16)
    assert (entry.mean, entry.std, entry.n) == (80.0, None, 1)


def test_the_best_has_forgotten_and_is_no_reference() -> None:
    made = sheet(
        record("before", test=99, forget=100),
        record("oracle", test=98),
        record("fisher", test=97, forget=6.25),
        record("l2ul", test=70.001),
        record("structguard", test=70.004),
        record("adv", test=60),
        record("neggrad", k=64, test=5),
    )
    best = {row for row in made.rows if made.get("test", row, 16).best}
    assert best == {"l2ul", "structguard"}, "alike as printed, so both"
    assert made.get("test", "neggrad", 64).best
    assert not any(made.get("forget", row, 16).best for row in made.rows)
    assert {row for row in made.rows if made.get("test", row, 16).unforgotten} == {"before", "fisher"}


def test_a_single_run_is_not_the_best_where_others_have_several() -> None:
    several = [record("l2ul", seed=seed, test=70) for seed in range(2)]
    made = sheet(*several, record("adv", test=75), record("neggrad", k=64, test=5))
    assert {row for row in made.rows if made.get("test", row, 16).best} == {"l2ul"}
    assert made.get("test", "neggrad", 64).best, "alone it is"


def test_one_unforgotten_seed_of_three_marks_the_mean() -> None:
    made = sheet(*(record("adv", seed=seed, forget=6.25 * (seed == 1)) for seed in range(3)))
    entry = made.get("test", "adv", 16)
    assert (entry.unforgotten, entry.best) == (True, False)


def test_published_figures_stand_beside_ours() -> None:
    found = (record("structguard"), record("structguard-authors"), record("oracle-finetune"), record("lotus"))
    made = sheet(*found, record("structguard", k=5))
    assert made.get("test", "structguard", 16).published == 84.38
    assert made.get("retain", "structguard-authors", 16).published == 91.43
    assert made.get("test", "oracle-finetune", 16).published == 90.21, "the other reading of the same row"
    assert made.get("test", "lotus", 16).published is None
    assert made.get("test", "structguard", 5).published is None
    assert sheet(*found, layout="plain").get("test", "structguard", 16).published is None
    assert sheet(*found, layout="table3").get("test", "structguard", 16).published is None
    face = record("adv", k=3, published="lacuna10")
    assert sheet(face, layout="table3").get("test", "adv", 3).published == 72.28


def variant(row: str, seed: int = 0, **figures: Any) -> Record:
    made = record("structguard", 256, seed, **figures)
    return made.model_copy(update={"request": made.request | {"row": row}})


def test_rows_of_variants_go_by_their_names() -> None:
    found = [
        variant("full", test=20.0),
        variant("no-alignment", test=15.0, retain=60.0),
        variant("mine", test=30.0),
    ]
    made = sheet(*found, record("before", 256, forget=100), layout="table5")
    assert made.rows == ("before", "mine", "no-alignment", "full")
    assert made.get("test", "full", 256).published == 56.32
    assert made.get("retain", "no-alignment", 256).published == 42.36
    assert made.get("test", "mine", 256).published is None
    assert made.get("test", "mine", 256).best
    text = render([made], "table5", "markdown")
    assert "| method | k | test accuracy | retain accuracy | 100 − forget accuracy | n |" in text
    assert "| no-alignment | 256 | 15.00 (37.75) | 60.00 (42.36) | 100.00 (100.00) | 1 |" in text
    assert "published for CIFAR-10" in text
    assert r"\midrule" in render([made], "table5", "latex")
    assert sheet(*found, layout="table6").get("test", "full", 256).published is None


def test_unknown_figures_stay_unknown() -> None:
    made = sheet(record("adv", retain=None), record("adv", seed=1, retain=50))
    assert made.get("retain", "adv", 16).mean is None, "half of the seeds is no mean over the seeds"
    assert "| – (69.70) |" in render([made], "table2", "markdown")


def test_rows_stand_in_the_papers_order() -> None:
    made = sheet(*map(record, ("amun", "structguard", "mine", "before", "l2ul", "structguard-authors")))
    assert made.rows == ("before", "l2ul", "structguard", "structguard-authors", "amun", "mine")


def test_what_is_not_comparable_is_refused() -> None:
    with pytest.raises(RunFolderError, match="two records of adv, k = 16, seed 0"):
        sheet(record("adv"), record("adv", test=1))
    with pytest.raises(RunFolderError, match="one model before"):
        sheet(record("adv"), record("l2ul", weights="another"))
    with pytest.raises(RunFolderError, match="no records"):
        sheets({}, "plain")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": {"lr": 0.5}}, "one lr for all seeds, got 0.001 in neggrad_k16_s0-0 and 0.5"),
        ({"settings": {"probes": {"epsilon": 9.0}}}, "one probes.epsilon"),
        ({"run": {"precision": "bf16"}}, "one precision"),
        ({"run": {"retain_sample": 9}}, "one retain_sample"),
        ({"preset": "other"}, "one preset"),
        ({"method": "adv"}, "one method"),
        ({"request": {"plugin": "x"}}, "one plugin"),
        ({"request": {"unlabelled": "test:9"}}, "one unlabelled"),
        ({"request": {"held_back": "test:9"}}, "one held_back"),
        ({"hashes": {"anchors": "x"}}, "one anchors"),
    ],
)
def test_other_settings_in_one_row_are_refused(change: dict[str, Any], said: str) -> None:
    first, second = record("neggrad"), record("neggrad", seed=1).model_dump()
    for name, value in change.items():
        second[name] = second[name] | value if isinstance(value, dict) else value
    other = Record.model_validate(second)
    with pytest.raises(RunFolderError, match=said):
        sheet(first, other)
    assert sheet(first, other.model_copy(update={"request": other.request | {"row": "mine"}})).rows


def test_what_cannot_change_a_figure_or_came_later_is_no_other_setting() -> None:
    asked = {"lr": 0.001, "probes": {"epsilon": 4.0}}
    quiet = {"device": "cuda", "eval_batch": 7, "seed": 1, "unlabelled_most": 4096}
    first, second = record("neggrad", anchors="prototypes"), record("neggrad", seed=1, anchors="prototypes")
    hashes = second.hashes.model_copy(update={"anchors": "means of another retain set"})
    second = second.model_copy(update={"settings": asked, "run": quiet, "hashes": hashes})
    assert sheet(first, second).get("test", "neggrad", 16).n == 2


def test_anchors_of_an_encoder_are_compared_by_what_it_read() -> None:
    """Another machine rounds the encoder's answers otherwise; older records do not say what it read."""

    def read(text: str | None, matrix: str, seed: int) -> Record:
        one = record("adv", seed=seed, anchors={"encoder": "minilm"})
        hashes = one.hashes.model_copy(update={"anchors": matrix, "anchors_text": text})
        return one.model_copy(update={"hashes": hashes})

    for texts in (("t", "t"), ("t", None), (None, None)):
        assert sheet(read(texts[0], "m", 0), read(texts[1], "n", 1)).get("test", "adv", 16).n == 2
    with pytest.raises(RunFolderError, match="one anchors"):
        sheet(read("t", "m", 0), read("u", "m", 1))


def test_other_images_to_forget_under_one_name_are_refused() -> None:
    """Training data that were changed between two cells."""
    first, second = (
        one.model_copy(update={"request": one.request | {"forget": "random:16"}})
        for one in (record("adv"), record("l2ul"))
    )
    other = second.model_copy(update={"hashes": second.hashes.model_copy(update={"forget_set": "x"})})
    with pytest.raises(RunFolderError, match=r"one forget set for random:16 with seed 0.*adv_k16.*l2ul_k16"):
        sheet(first, other)
    assert sheet(first, other.model_copy(update={"seed": 1})).rows == ("adv", "l2ul")


def test_a_table_for_each_data_set_and_model() -> None:
    faces = record("adv", data="faces", model="another")
    found = sheets(named(record("adv"), record("l2ul")) | {"faces": faces}, "plain")
    assert [(one.title, one.rows) for one in found] == [
        ("cifar10, resnet18", ("adv", "l2ul")),
        ("faces, another", ("adv",)),
    ]


FOUND = (
    record("before", forget=100, test=87.98),
    record("structguard", seed=0, test=80.0),
    record("structguard", seed=1, test=82.0),
    record("structguard", k=64, test=70.0),
    record("my_<row>|&", test=60.0),
)


def test_no_best_among_different_samples_of_the_retain_set() -> None:
    def sampled(row: str, k: int, sample: int) -> Record:
        made = record(row, k)
        figures = made.after.model_copy(update={"retain_images": sample})
        return made.model_copy(update={"run": {"retain_sample": sample}, "after": figures})

    made = sheet(sampled("adv", 16, 50), sampled("l2ul", 16, 60), sampled("adv", 64, 50))
    assert not any(made.get("retain", row, 16).best for row in made.rows)
    assert all(made.get("test", row, 16).best for row in made.rows)
    assert made.get("retain", "adv", 64).best
    text = render([made], "plain", "markdown")
    assert "No retain accuracy is bold at k = 16: rows were measured on different samples" in text
    assert "No retain accuracy" not in render([sheet(sampled("adv", 16, 50))], "plain", "markdown")


def test_published_columns_named_after_the_first_run_are_found() -> None:
    made = sheet(record("adv", published=None), record("l2ul"))
    assert made.get("test", "l2ul", 16).published == 79.65
    assert "In brackets" in render([made], "table2", "markdown")
    own = sheet(record("mine"))
    assert "In brackets" not in render([own], "table2", "markdown"), "no bracket to explain"


def test_markdown() -> None:
    text = render([sheet(*FOUND)], "table2", "markdown")
    assert "| method | k = 16 | k = 64 | n |" in text
    assert "| before | 87.98† (92.59) | – | 1/0 |" in text
    assert "| structguard | **81.00 ± 1.41** (84.38) | **70.00** (69.47) | 2/1 |" in text
    assert "my_<row>\\|&" in text
    assert "published for CIFAR-10" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, "as many cells in every row"
    plain = render([sheet(*FOUND, layout="plain")], "plain", "markdown")
    assert "| structguard | 64 | **70.00** | **90.00** | 100.00 | 1 |" in plain
    assert "published" not in plain


def test_latex() -> None:
    text = render([sheet(*FOUND)], "table2", "latex")
    assert r"structguard & \textbf{81.00 $\pm$ 1.41} (84.38) & \textbf{70.00} (69.47) & 2/1 \\" in text
    assert r"before & 87.98\textsuperscript{\dag} (92.59) & -- & 1/0 \\" in text
    assert r"my\_<row>|\&" in text
    for word in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrrr}"):
        assert word in text
    assert text.count("{") == text.count("}")
    assert not re.search(r"[±−†–]", text), "nothing that a plain LaTeX cannot set"


class _Tags(html.parser.HTMLParser):
    """Tags that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html() -> None:
    text = render([sheet(*FOUND)], "table2", "html")
    tags = _Tags()
    tags.feed(text)
    assert not tags.open
    assert "row" not in tags.seen, "names are text, not markup"
    assert "<b>81.00 ± 1.41</b> (84.38)" in text
    assert "http" not in text


def test_the_command(stakes_cli: Any, tmp_path: Path) -> None:
    folder = BenchFolder(tmp_path / "bench")
    for name, one in named(*FOUND).items():
        one.save(folder.record_path(re.sub(r"\W", "-", name)))
    folder.fail("adv_k16_s0-1", "RuntimeError", "no")
    code, said, _ = stakes_cli("table", folder.path, "--layout", "table2")
    assert code == 0
    assert "**81.00 ± 1.41** (84.38)" in said
    assert "1 cell of this folder failed and has no record." in said
    out = tmp_path / "t.tex"
    code, found, _ = stakes_cli(
        "table", folder.path, "--layout", "table2", "--format", "latex", "--out", out, "--json"
    )
    assert code == 0
    assert found["text"] == out.read_text()
    assert len(found["records"]) == 5
    code, _, err = stakes_cli("table", tmp_path / "empty")
    assert code == 2
    assert "stakes bench" in err


def test_some_rows_and_sizes_are_picked() -> None:
    found = named(record("adv"), record("adv", 64), record("l2ul"), record("rawp"))
    assert picked(found, None, None) == found
    some = picked(found, ["adv", "rawp"], [16])
    assert [(one.method, one.after.forget_images) for one in some.values()] == [("adv", 16), ("rawp", 16)]
    with pytest.raises(ConfigError, match="of these: adv, l2ul, rawp, got 'rwap'"):
        picked(found, ["rwap"], None)
    with pytest.raises(ConfigError, match="of these: 16, 64, got 128"):
        picked(found, None, [128])


def test_several_folders_make_one_table(stakes_cli: Any, tmp_path: Path) -> None:
    for name, one in named(record("adv", test=70.0), record("l2ul", test=75.0), record("l2ul", 64)).items():
        folder = BenchFolder(tmp_path / one.method)
        one.save(folder.record_path(name))
    # What failed in one folder and is there in the other has not failed.
    BenchFolder(tmp_path / "adv").fail("l2ul_k16_s0-1", "RuntimeError", "no")
    words = ["table", tmp_path / "adv", tmp_path / "l2ul", "--layout", "table2"]
    code, said, _ = stakes_cli(*words)
    assert code == 0
    assert "| adv | 70.00 (65.14) |" in said
    assert "| l2ul | **75.00** (79.65) | **80.00** (67.08) |" in said
    assert "failed" not in said
    code, said, _ = stakes_cli(*words, "--rows", "l2ul", "--k", 64)
    assert code == 0
    assert "adv" not in said
    assert "k = 16" not in said
    code, said, _ = stakes_cli(*words, "--rows", "l2ul, adv")
    assert code == 0
    assert "| adv |" in said
    code, _, err = stakes_cli(*words, "--rows", "l2lu")
    assert code == 2
    assert "adv, l2ul" in err


def test_a_cell_of_two_folders_counts_once_if_it_is_the_same(stakes_cli: Any, tmp_path: Path) -> None:
    for name, test in (("a", 70.0), ("b", 70.0), ("c", 71.0)):
        record("adv", test=test).save(BenchFolder(tmp_path / name).record_path("adv_k16_s0-1"))
    code, said, _ = stakes_cli("table", tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert "| adv | 16 | **70.00** |" in said
    code, _, err = stakes_cli("table", tmp_path / "a", tmp_path / "c")
    assert code == 2
    assert "adv_k16_s0-1" in err
    assert all(str(tmp_path / name) in "".join(err.split()) for name in ("a", "c"))


def test_failures_that_finished_since_or_are_not_picked_are_not_told(stakes_cli: Any, tmp_path: Path) -> None:
    folder = BenchFolder(tmp_path / "bench")
    record("adv").save(folder.record_path("adv_k16_s0-aaaaaaaa"))
    folder.fail("adv_k16_s0-bbbbbbbb", "RuntimeError", "a plugin since mended", problem="cifar10/resnet18")
    assert "failed" not in stakes_cli("table", folder.path)[1]
    folder.fail("adv_k16_s0-cccccccc", "RuntimeError", "of another model", problem="cifar10/vgg")
    folder.fail("adv_k16_s0-dddddddd", "WorkerLost", "who knows of which")
    folder.fail("l2ul_k16_s0-eeeeeeee", "RuntimeError", "no", problem="cifar10/resnet18")
    folder.fail("adv_k64_s0-ffffffff", "RuntimeError", "no", problem="cifar10/resnet18")
    assert "4 cells of this folder failed and have" in stakes_cli("table", folder.path)[1]
    assert "3 cells" in stakes_cli("table", folder.path, "--rows", "adv")[1]
    assert "2 cells" in stakes_cli("table", folder.path, "--rows", "adv", "--k", 16)[1]
