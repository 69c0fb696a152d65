from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from data.pictures import noise, png, write_parquet
from stakes.data import open_source
from stakes.errors import DataError


def _two(tmp_path: Path, labels: list[Any], **options: Any) -> Path:
    write_parquet(tmp_path / "train.parquet", [png(row) for row in range(len(labels))], labels, **options)
    return tmp_path


def test_images_labels_and_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [png(9)], [1])
    source = open_source(_two(tmp_path, [1, 0]))
    assert source.train is not None
    assert source.test is not None
    assert source.class_names == ("cat", "dog")
    assert source.train.labels.tolist() == [1, 0]
    assert source.test.labels.tolist() == [1]
    assert source.train.size == (3, 8, 8)
    assert torch.equal(source.train.batch([1])[0] * 255, torch.from_numpy(noise(1)).permute(2, 0, 1).float())


def test_size_is_the_first_training_image_unless_given(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [png(0, 6, 5), png(1, 9, 9)], [0, 1])
    write_parquet(tmp_path / "test.parquet", [png(2, 3, 3)], [0])
    source = open_source(tmp_path)
    assert source.train is not None
    assert source.test is not None
    assert source.train.size == source.test.size == (3, 6, 5)
    chosen = open_source(tmp_path, size=(1, 4, 4))
    assert chosen.test is not None
    assert chosen.test.batch([0]).shape == (1, 1, 4, 4)


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = _two(tmp_path / "data", [0, 1])
    for path in (folder / "train.parquet", folder):
        path.chmod(0o500 if path.is_dir() else 0o400)
    source = open_source(folder)
    assert source.train is not None
    source.train.fingerprint()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert [path.name for path in folder.iterdir()] == ["train.parquet"]
    folder.chmod(0o700)


def test_columns_are_found_by_type_then_by_name(tmp_path: Path) -> None:
    by_type = open_source(_two(tmp_path / "a", [0, 1], columns=("picture", "kind")))
    by_name = open_source(_two(tmp_path / "b", [0, 1], columns=("img", "fine_label"), metadata=False))
    assert by_type.class_names == ("cat", "dog")
    assert by_name.class_names == ("0", "1")
    for source in (by_type, by_name):
        assert source.train is not None
        assert len(source.train) == 2


@pytest.mark.parametrize("metadata", [True, False])
def test_unnamed_integers_are_named_by_number(tmp_path: Path, metadata: bool) -> None:
    source = open_source(_two(tmp_path, [2, 0], names=None, metadata=metadata))
    assert source.class_names == ("0", "1", "2")


def test_text_labels_name_the_classes(tmp_path: Path) -> None:
    source = open_source(_two(tmp_path, ["dog", "cat", "dog"], names=None))
    assert source.train is not None
    assert source.class_names == ("cat", "dog")
    assert source.train.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("columns", "fix"),
    [(("picture", "label"), "No image column"), (("image", "target"), "No label column")],
)
def test_missing_columns_are_listed(tmp_path: Path, columns: tuple[str, str], fix: str) -> None:
    with pytest.raises(DataError, match=rf"{columns[0]} .*{columns[1]} \(int64\).*{fix}"):
        open_source(_two(tmp_path, [0, 1], columns=columns, metadata=False))


def test_labels_that_are_not_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"label \(float64\).*No label column"):
        open_source(_two(tmp_path, [0.5, 1.0], metadata=False))


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([0, 2], r"train row 1 of .*expected 0 to 1, got 2"),
        ([-1, 0], r"train row 0 of .*got -1\. A label of -1 marks"),
        ([0, None], r"train row 1 of .*got none"),
    ],
)
def test_wrong_label_is_named_by_its_row(tmp_path: Path, labels: list[Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        open_source(_two(tmp_path, labels))


def test_huge_unnamed_label_does_not_make_a_million_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got 4000000000"):
        open_source(_two(tmp_path, [0, 4_000_000_000], metadata=False))


def test_empty_split_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [png(0)], [0])
    write_parquet(tmp_path / "test.parquet", [], [])
    with pytest.raises(DataError, match="the test split: expected at least one image, got none"):
        open_source(tmp_path)


def test_splits_that_disagree_on_names_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [png(0)], [0], names=("dog", "cat"))
    with pytest.raises(DataError, match="same names in the same order"):
        open_source(_two(tmp_path, [0, 1]))


@pytest.mark.parametrize("damage", [b"", b"PAR1 not really"])
def test_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "train.parquet").write_bytes(damage)
    with pytest.raises(DataError, match=r"train.parquet cannot be read"):
        open_source(tmp_path)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    path = _two(tmp_path, [0, 1]) / "train.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train.parquet cannot be read"):
        open_source(tmp_path)


@pytest.mark.parametrize("cell", [b"broken", None, b""])
def test_corrupt_or_empty_cell_is_named(tmp_path: Path, cell: bytes | None) -> None:
    write_parquet(tmp_path / "train.parquet", [png(0), cell, png(2)], [0, 1, 0])
    source = open_source(tmp_path)
    assert source.train is not None
    with pytest.raises(DataError, match="train row 1 of"):
        source.train.batch(slice(None))


def test_path_cells_are_read_inside_the_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "in.png").write_bytes(png(1))
    (tmp_path / "out.png").write_bytes(png(2))
    cells = [
        {"bytes": None, "path": path}
        for path in ("in.png", "../out.png", str(tmp_path / "out.png"), "no.png")
    ]
    write_parquet(folder / "train.parquet", cells, [0, 1, 0, 1])
    source = open_source(folder)
    assert source.train is not None
    assert torch.equal(source.train.batch([0])[0] * 255, torch.from_numpy(noise(1)).permute(2, 0, 1).float())
    for row in (1, 2):
        with pytest.raises(DataError, match="leads out of"):
            source.train.batch([row])
    with pytest.raises(DataError, match=r"train row 3 of .* cannot be read"):
        source.train.batch([3])


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "counts", "size", "first"),
    [
        ("cifar10", (50_000, 10_000), (3, 32, 32), ("airplane", "truck")),
        ("faces10", (3_900, 1_000), (3, 64, 64), ("person_0", "person_9")),
    ],
)
def test_real_data(
    shared: Path, name: str, counts: tuple[int, int], size: tuple[int, int, int], first: tuple[str, str]
) -> None:
    import pyarrow.parquet as pq

    source = open_source(shared / "data" / name)
    assert source.train is not None
    assert source.test is not None
    assert (len(source.train), len(source.test)) == counts
    assert source.train.size == source.test.size == size
    assert len(source.class_names) == 10
    assert (source.class_names[0], source.class_names[-1]) == first
    assert source.test.labels.bincount().tolist() == [counts[1] // 10] * 10
    row = 1234
    cell = pq.read_table(shared / "data" / name / "train.parquet")["image"][row].as_py()["bytes"]
    with Image.open(io.BytesIO(cell)) as picture:
        pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    pixels = pixels.reshape(size[1], size[2], 3).permute(2, 0, 1)
    assert torch.equal(source.train.batch([row])[0], pixels.float() / 255)
    reference = type(source.train).from_tensors(pixels[None], source.train.labels[[row]], source.class_names)
    assert source.train.subset([row]).hashes() == reference.hashes()


@pytest.mark.realdata
def test_real_faces_are_resized_as_torch_does(shared: Path) -> None:
    source = open_source(shared / "data" / "faces10")
    assert source.train is not None
    rows = torch.arange(0, 3900, 300)
    direct = torch.nn.functional.interpolate(
        source.train.batch(rows), (32, 32), mode="bilinear", antialias=True
    ).clamp(0, 1)
    assert torch.equal(source.train.with_size((3, 32, 32)).batch(rows), direct)


def test_a_large_file_is_read_by_row_groups_to_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    from stakes.data import parquet

    folder = _two(tmp_path, [0, 1, 0, 1, 1, 0, 1])
    path = folder / "train.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=2)
    whole = open_source(folder).train
    monkeypatch.setattr(parquet, "IN_MEMORY_BYTES", 0)
    streamed = open_source(folder).train
    assert whole is not None
    assert streamed is not None
    assert streamed.hashes() == whole.hashes()
    order = [6, 0, 3, 6, 1]
    assert torch.equal(streamed.batch(order), whole.batch(order))
    assert torch.equal(streamed.labels, whole.labels)


def test_few_row_groups_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    from stakes.data import parquet

    path = _two(tmp_path, [0, 1] * 10) / "train.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=2)
    rows = parquet._RowGroups(path, "image")
    for row in range(20):
        assert rows[row].as_py() == pq.read_table(path)["image"][row].as_py()
    found = rows._kept.cache_info()
    assert (found.misses, found.currsize) == (10, parquet._KEPT_GROUPS), "in order each group is read once"


def test_numbers_without_names_are_outputs_of_the_model(tmp_path: Path) -> None:
    folder = _two(tmp_path, [1, 0], names=None)
    source = open_source(folder, class_names=("owl", "dog", "cat"))
    assert source.class_names == ("owl", "dog", "cat")
    assert source.train is not None
    assert source.train.labels.tolist() == [1, 0]
    assert open_source(folder, class_names=("owl",)).class_names == ("0", "1"), "more than the model has"
