from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.pictures import png, write_folder, write_parquet
from stakes.data import ForgetSplit, ImageSet, Source, open_source, split_forget
from stakes.errors import DataError

NAMES = ("cat", "dog", "ship")
SIZE = (3, 4, 4)


def _images(count: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *SIZE), generator=generator, dtype=torch.uint8)
    return ImageSet.from_tensors(pixels, [row % 3 for row in range(count)], NAMES)


def _source(count: int = 30) -> Source:
    return Source(_images(count, 0), _images(6, 1), NAMES, "toy")


def _split(spec: str, source: Source | None = None, **options: Any) -> ForgetSplit:
    return split_forget(spec, source or _source(), **({"class_names": NAMES, "size": SIZE} | options))


def _rows(spec: str, **options: Any) -> tuple[int, ...]:
    rows = _split(spec, **options).indices
    assert rows is not None
    return rows


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**31))
def test_random_sets_are_nested_distinct_and_repeatable(small: int, large: int, seed: int) -> None:
    small, large = sorted((small, large))
    rows = _rows(f"random:{large}", seed=seed)
    assert rows[:small] == _rows(f"random:{small}", seed=seed)
    assert len(set(rows)) == large
    assert all(0 <= row < 30 for row in rows)


def test_seeds_differ_and_the_global_generator_is_not_touched() -> None:
    state = torch.get_rng_state()
    assert len({_rows("random:8", seed=seed) for seed in range(5)}) == 5
    assert torch.equal(torch.get_rng_state(), state)


def test_random_rows_are_about_uniform() -> None:
    counts = torch.zeros(30)
    for seed in range(300):
        counts[list(_rows("random:10", seed=seed))] += 1
    assert float((counts - 100).abs().max()) < 5 * (300 * (1 / 3) * (2 / 3)) ** 0.5


def test_forget_and_retain_part_the_training_split() -> None:
    split, source = _split("random:7"), _source()
    assert source.train is not None
    assert split.retain is not None
    assert split.test is not None
    assert split.indices is not None
    assert sorted([*split.forget.hashes(), *split.retain.hashes()]) == sorted(source.train.hashes())
    assert split.forget.hashes() == [source.train.hashes()[row] for row in split.indices]
    assert (len(split.forget), len(split.retain), len(split.test)) == (7, 23, 6)
    kept = [row for row in range(30) if row not in split.indices]
    assert split.retain.hashes() == [source.train.hashes()[row] for row in kept]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "x", "1e3", "٣", "+2", "9" * 40])
def test_random_wants_a_positive_whole_number(value: str) -> None:
    with pytest.raises(DataError, match="K a positive whole number"):
        _split(f"random:{value}")


def test_random_wants_no_more_than_there_are() -> None:
    with pytest.raises(DataError, match="at most the 30 training images, got 31"):
        _split("random:31")


def test_whole_training_split_leaves_retain_unknown() -> None:
    split = _split("random:30")
    assert split.retain is None
    assert split.describe()["retain_size"] is None


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.integers(0, 29), min_size=1, unique=True))
def test_indices_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[int]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.txt"
    path.write_text("# rows to forget\n\n" + "\n".join(f" {row}  # why" for row in rows) + "\r\n")
    assert _rows(f"indices:{path}") == tuple(rows)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1\n30\n", r"line 2: expected a row number from 0 to 29, got '30'"),
        ("-1\n", r"line 1: .*got '-1'"),
        ("# x\n\n1.0\n", r"line 3: .*got '1.0'"),
        ("cat\n", r"line 1: .*got 'cat'"),
        ("1 2\n", r"line 1: .*got '1 2'"),
        ("5\n6\n5\n", r"line 3: expected every image once, got row 5 again \(first on line 1\)"),
        ("5\n05\n", r"line 2: expected every image once"),
        ("9" * 5000, r"line 1: expected a row number"),
        ("", "at least one row number, got none"),
        ("# nothing\n\n", "at least one row number, got none"),
    ],
)
def test_wrong_lists_are_refused_with_their_line(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "rows.txt").write_text(text)
    with pytest.raises(DataError, match=match):
        _split(f"indices:{tmp_path / 'rows.txt'}")


def test_list_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_bytes(b"\xef\xbb\xbf3\r\n4\r\n")
    assert _rows(f"indices:{tmp_path / 'rows.txt'}") == (3, 4)


@pytest.mark.parametrize("make", ["missing", "folder", "binary"])
def test_unreadable_list_is_named(tmp_path: Path, make: str) -> None:
    path = tmp_path / "rows"
    if make == "folder":
        path.mkdir()
    elif make == "binary":
        path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match=r"list .* cannot be read"):
        _split(f"indices:{path}")


def test_class_takes_all_of_one_class() -> None:
    split = _split("class:dog")
    assert set(split.forget.labels.tolist()) == {1}
    assert split.retain is not None
    assert 1 not in split.retain.labels
    assert split.indices == tuple(range(1, 30, 3))


def test_class_name_may_hold_a_colon() -> None:
    names = ("a:b", "dog", "ship")
    source = Source(_images(6, 0).for_classes(NAMES), None, NAMES, "toy")
    assert source.train is not None
    pixels, labels = source.train.batch(slice(None)), source.train.labels
    renamed = Source(ImageSet.from_tensors(pixels, labels, names), None, names, "toy")
    assert _split("class:a:b", renamed, class_names=names).indices == (0, 3)


@pytest.mark.parametrize(
    ("name", "match"), [("Dogs", "Did you mean 'dog'"), ("zebra", "'cat', 'dog', 'ship'")]
)
def test_unknown_class_is_answered_with_near_names(name: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        _split(f"class:{name}")


def test_class_without_training_images_is_refused() -> None:
    with pytest.raises(DataError, match="no training image of class 'ship'"):
        _split("class:ship", _source(2))


@pytest.mark.parametrize("spec", ["", "random", "random:", "rows:3", "5", ":3", "Random:3", "class: "])
def test_malformed_requests_show_the_forms(spec: str) -> None:
    with pytest.raises(DataError, match=r"files:LIST, indices:LIST, class:NAME, random:K or images:DIR"):
        _split(spec)


@pytest.mark.parametrize("spec", ["random:3", "class:cat", "indices:x"])
@pytest.mark.parametrize("source", [None, Source(None, _images(3, 0), NAMES, "toy")])
def test_rows_need_training_data(spec: str, source: Source | None) -> None:
    with pytest.raises(DataError, match="images:DIR"):
        split_forget(spec, source, class_names=NAMES, size=SIZE)


def test_labels_follow_the_models_order_and_size() -> None:
    model = ("ship", "cat", "dog")
    split = _split("random:9", class_names=model, size=(1, 8, 8))
    plain = _split("random:9")
    assert split.forget.class_names == model
    assert [model[label] for label in split.forget.labels] == [NAMES[label] for label in plain.forget.labels]
    assert split.forget.batch([0]).shape == (1, 1, 8, 8)
    assert split.test is not None
    assert split.retain is not None
    assert split.test.class_names == split.retain.class_names == model
    assert split.forget.fingerprint() == plain.forget.fingerprint()
    assert _rows("class:dog", class_names=model) == _rows("class:dog")


def test_other_names_or_counts_are_refused() -> None:
    with pytest.raises(DataError, match=r"toy are not the model's: expected 'boat'.*got 'ship'"):
        _split("random:3", class_names=("cat", "dog", "boat"))
    with pytest.raises(DataError, match="label count ≠ model outputs: expected 4 classes"):
        _split("random:3", class_names=(*NAMES, "boat"))


def test_images_need_no_training_data(tmp_path: Path) -> None:
    write_folder(tmp_path, "request", {"ship": 2, "cat": 1})
    split = split_forget(f"images:{tmp_path / 'request'}", None, class_names=NAMES, size=SIZE)
    assert split.forget.labels.tolist() == [0, 2, 2]
    assert split.forget.batch(slice(None)).shape == (3, *SIZE)
    assert (split.retain, split.test, split.indices) == (None, None, None)


def test_images_with_a_source_take_its_test_split_only(tmp_path: Path) -> None:
    write_folder(tmp_path, "request", {"dog": 2})
    split = _split(f"images:{tmp_path / 'request'}")
    assert split.retain is None
    assert split.test is not None
    assert len(split.test) == 6


def test_images_of_unknown_classes_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, "request", {"dog": 1, "Ship": 1})
    with pytest.raises(DataError, match=r"Ship is not named after a class of the model.*Did you mean 'ship'"):
        _split(f"images:{tmp_path / 'request'}")


@pytest.mark.parametrize(
    ("make", "match"),
    [("missing", "no such folder"), ("empty", "no class folders"), ("flat", "no class folder")],
)
def test_image_folders_without_classes_are_refused(tmp_path: Path, make: str, match: str) -> None:
    folder = tmp_path / "request"
    if make != "missing":
        folder.mkdir()
    if make == "flat":
        (folder / "a.png").write_bytes(png(0))
    with pytest.raises(DataError, match=match):
        _split(f"images:{folder}")


def test_corrupt_forget_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, "request", {"dog": 2})
    (tmp_path / "request" / "dog" / "001.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"forget row 1 \(dog/001.png\)"):
        _split(f"images:{tmp_path / 'request'}").describe()


def test_digits_written_out_and_requested_as_images_are_the_same_images(tmp_path: Path) -> None:
    from PIL import Image

    digits = open_source("digits")
    split = split_forget("random:5", digits, class_names=digits.class_names, size=(1, 8, 8))
    for number, (pixels, label) in enumerate(
        zip(split.forget.batch(slice(None)), split.forget.labels, strict=True)
    ):
        folder = tmp_path / digits.class_names[label]
        folder.mkdir(exist_ok=True)
        Image.fromarray((pixels[0] * 255).round().to(torch.uint8).numpy()).save(folder / f"{number}.png")
    again = split_forget(f"images:{tmp_path}", None, class_names=digits.class_names, size=(1, 8, 8))
    assert sorted(again.forget.hashes()) == sorted(split.forget.hashes())


def test_description_is_json_and_tells_the_request() -> None:
    split = _split("random:4", seed=3)
    found = json.loads(json.dumps(split.describe(data=True)))
    assert found["spec"] == "random:4"
    assert (found["forget_size"], found["retain_size"], found["test_size"]) == (4, 26, 6)
    assert tuple(found["indices"]) == split.indices
    assert found["forget_fingerprint"] == split.forget.fingerprint()
    assert "data_fingerprint" not in split.describe()


def test_data_fingerprint_is_of_the_data_not_of_the_request() -> None:
    base = _split("random:4").data_fingerprint()
    assert _split("random:30", seed=1).data_fingerprint() == base
    assert _split("class:dog", class_names=NAMES[::-1], size=(1, 2, 2)).data_fingerprint() == base
    assert _split("random:4", _source(31)).data_fingerprint() != base
    source = _source()
    assert _split("random:4", Source(source.train, None, NAMES, "toy")).data_fingerprint() != base


def test_sets_that_do_not_fit_together_are_refused() -> None:
    images = _images(3, 0)
    with pytest.raises(DataError, match="forget set: expected at least one image"):
        ForgetSplit(images.subset([]))
    with pytest.raises(DataError, match="class names of the test set"):
        ForgetSplit(images, test=images.for_classes(NAMES[::-1]))
    with pytest.raises(DataError, match="image size of the retain set"):
        ForgetSplit(images, retain=images.with_size((1, 4, 4)))


@pytest.mark.realdata
def test_random_on_real_data_is_nested(shared: Path) -> None:
    source = open_source(shared / "data" / "faces10")
    small, large = (
        split_forget(f"random:{k}", source, class_names=source.class_names, size=(3, 64, 64)) for k in (3, 12)
    )
    assert small.forget.hashes() == large.forget.hashes()[:3]
    assert large.retain is not None
    assert len(large.retain) == 3900 - 12


def test_names_that_read_the_same_are_the_same(tmp_path: Path) -> None:
    """A Mac writes the names of folders with letter and accent apart; a model's config has them in one."""
    model = ("Ada", "Zo\u00eb")
    write_folder(tmp_path, "train", {"Ada": 2, "Zoe\u0308": 3})
    write_folder(tmp_path, "request", {"Zoe\u0308": 1})
    labels = ["Zoe\u0308", "Ada", "Zo\u00eb"]
    write_parquet(tmp_path / "table" / "train.parquet", [png(1), png(2), png(3)], labels, None)
    for place, rows in ((tmp_path, (2, 3, 4)), (tmp_path / "table", (0, 2))):
        source = open_source(place, size=SIZE, class_names=model)
        assert source.class_names == model
        for asked in ("class:Zo\u00eb", "class:Zoe\u0308"):
            assert split_forget(asked, source, class_names=model, size=SIZE).indices == rows
    forget = split_forget(f"images:{tmp_path / 'request'}", None, class_names=model, size=SIZE).forget
    assert forget.labels.tolist() == [1]


def _folders(root: Path) -> Source:
    write_folder(root, "train", {"cat": 3, "dog": 2})
    (root / "train" / "dog" / "my #1 dog.png").write_bytes(png(77))
    write_folder(root, "test", {"cat": 1, "dog": 1}, seed=50)
    return open_source(root, size=SIZE)


def _files(tmp_path: Path, text: str, source: Source) -> tuple[int, ...] | None:
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    spec = f"files:{tmp_path / 'list.txt'}"
    return split_forget(spec, source, class_names=source.class_names, size=SIZE).indices


def test_files_are_named_below_the_split_with_more_before_it_or_alone(tmp_path: Path) -> None:
    source = _folders(tmp_path / "data")
    names = ["cat/002.png", "train/dog/001.png", f"{tmp_path}/data/train/cat/000.png", "my #1 dog.png"]
    assert _files(tmp_path, "# wanted\n\n" + "\n".join(names) + "\n", source) == (2, 4, 0, 5)
    assert _files(tmp_path, "train\\dog\\000.png\n./cat/001.png", source) == (3, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cat/009.png",
            "line 1: expected the name of one training image, such as CLASS/NAME, got 'cat/009.png'",
        ),
        ("\n000.png", "line 2: expected the name of one training image.*got 2 images of that name"),
        ("test/cat/000.png", "line 1: expected the name of one training image"),
        (
            "cat/000.png\ntrain/cat/000.png",
            r"line 2: expected every image once, got row 0 again \(first on line 1",
        ),
        ("# none", "at least one file name, got none"),
    ],
)
def test_a_wrong_file_name_is_told_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _files(tmp_path, text, _folders(tmp_path / "data"))


def test_files_of_a_table_are_its_paths(tmp_path: Path) -> None:
    cells = [{"bytes": png(n), "path": path} for n, path in enumerate(["a.png", "b/c.png", None])]
    write_parquet(tmp_path / "data" / "train.parquet", cells, [0, 1, 0])
    source = open_source(tmp_path / "data", size=SIZE)
    assert _files(tmp_path, "c.png\na.png", source) == (1, 0)
    write_parquet(tmp_path / "bare" / "train.parquet", [png(1), png(2)], [0, 1])
    with pytest.raises(DataError, match=r"data that name their files.*Name rows"):
        _files(tmp_path, "a.png", open_source(tmp_path / "bare", size=SIZE))
    digits = open_source("digits")
    with pytest.raises(DataError, match="data that name their files"):
        split_forget(f"files:{tmp_path / 'list.txt'}", digits, class_names=digits.class_names, size=(1, 8, 8))
