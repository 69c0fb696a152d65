"""The anchor matrix: validation, selection, files, prototypes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from stakes.anchors import Anchors
from stakes.errors import AnchorError, OutputError

NAMES = ("cat", "dog", "frog")


def _unit(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    raw = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(raw, dim=1)


@pytest.fixture
def anchors() -> Anchors:
    return Anchors(_unit(3, 5), NAMES, {"encoder": "test", "note": 'quotes " and ünïcode'})


def test_it_is_frozen_and_owns_its_data() -> None:
    raw = _unit(3, 5)
    made = Anchors(raw, NAMES, {"a": "b"})
    kept = made.matrix.clone()
    raw.zero_()
    assert torch.equal(made.matrix, kept)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.matrix = raw  # type: ignore[misc]
    with pytest.raises(TypeError):
        made.provenance["a"] = "c"  # type: ignore[index]


def test_norms_slightly_off_are_mended_and_unit_rows_kept_bit_for_bit() -> None:
    raw = _unit(3, 5)
    assert torch.equal(Anchors(raw).matrix, raw)
    mended = Anchors(raw * 1.0009).matrix
    torch.testing.assert_close(mended, raw)
    assert torch.equal(Anchors(mended).matrix, mended)
    assert Anchors(raw.double()).matrix.dtype == torch.float32


@pytest.mark.parametrize(
    ("matrix", "word"),
    [
        (_unit(3, 5) * 1.01, "norm"),
        (torch.zeros(3, 5), "row 0"),
        (torch.full((3, 5), float("nan")), "finite"),
        (torch.eye(3) / torch.tensor([1.0, 1.0, 0.0]), "finite"),
        (_unit(1, 5), "2 rows"),
        (torch.zeros(3, 0), "column"),
        (torch.ones(3), "width"),
        (torch.eye(3, dtype=torch.int64), "floating"),
        (_unit(2, 5), "2 rows"),
        (np.eye(3), "ndarray"),
    ],
)
def test_bad_matrices_are_refused(matrix: torch.Tensor, word: str) -> None:
    with pytest.raises(AnchorError, match=word):
        Anchors(matrix, NAMES)


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "b"), ("a", "b", "")])
def test_bad_names_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(AnchorError):
        Anchors(_unit(3, 5), names)


@pytest.mark.parametrize("provenance", [{"class_names": "x"}, {"classes": "x"}, {"a": 3}, {3: "a"}])
def test_bad_provenance_is_refused(provenance: dict[str, str]) -> None:
    with pytest.raises(AnchorError, match="provenance"):
        Anchors(_unit(3, 5), NAMES, provenance)


@settings(deadline=None)
@given(st.permutations(range(6)), st.integers(2, 6))
def test_selection_by_name(order: list[int], count: int) -> None:
    names = tuple(f"c{index}" for index in range(6))
    made = Anchors(_unit(6, 4), names)
    chosen = made.for_classes([names[index] for index in order[:count]])
    assert torch.equal(chosen.matrix, made.matrix[order[:count]])
    assert chosen.class_names == tuple(names[index] for index in order[:count])


def test_missing_classes_are_named(anchors: Anchors) -> None:
    with pytest.raises(AnchorError) as caught:
        anchors.for_classes(["cat", "newt", "toad"])
    assert "'newt', 'toad'" in str(caught.value)
    assert "'frog'" in str(caught.value)


def test_a_matrix_without_names_takes_them_in_order() -> None:
    raw = Anchors(_unit(3, 5))
    named = raw.for_classes(NAMES)
    assert named.class_names == NAMES
    assert torch.equal(named.matrix, raw.matrix)
    with pytest.raises(AnchorError, match="2 rows"):
        raw.for_classes(["a", "b"])


def test_fingerprint_depends_on_rows_and_names_alone(anchors: Anchors) -> None:
    assert Anchors(anchors.matrix, NAMES).fingerprint() == anchors.fingerprint()
    assert Anchors(anchors.matrix, NAMES[::-1]).fingerprint() != anchors.fingerprint()
    assert Anchors(_unit(3, 5, 1), NAMES).fingerprint() != anchors.fingerprint()
    assert Anchors(anchors.matrix).fingerprint() != anchors.fingerprint()


def test_the_text_is_told_apart_from_what_an_encoder_rounds(anchors: Anchors) -> None:
    read = {"descriptions_sha256": "a", "encoder_weights": "b"}
    made = Anchors(anchors.matrix, NAMES, read)
    rounded = Anchors(anchors.matrix * (1 + 3e-7), NAMES, {**read, "versions": "others"})
    assert made.text_fingerprint() == rounded.text_fingerprint() is not None
    for other in ({**read, "descriptions_sha256": "c"}, {**read, "encoder_weights": "c"}):
        assert Anchors(anchors.matrix, NAMES, other).text_fingerprint() != made.text_fingerprint()
    assert anchors.text_fingerprint() is None


def test_repr_says_what_it_is(anchors: Anchors) -> None:
    assert repr(anchors).startswith("Anchors(3 × 5; cat, dog, frog; ")


def test_saved_and_loaded_bit_for_bit(anchors: Anchors, tmp_path: Path) -> None:
    file = tmp_path / "sub" / "a.safetensors"
    anchors.save(file)
    back = Anchors.load(file)
    assert torch.equal(back.matrix, anchors.matrix)
    assert back.class_names == NAMES
    assert dict(back.provenance) == dict(anchors.provenance)
    assert back.fingerprint() == anchors.fingerprint()
    with safe_open(file, "pt") as handle:
        assert list(handle.keys()) == ["anchors"]
        assert handle.metadata()["class_names"] == '["cat", "dog", "frog"]'


def test_equal_anchors_give_equal_bytes(anchors: Anchors, tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.safetensors" for index in range(8)]
    for file in files:
        anchors.save(file)
    assert len({file.read_bytes() for file in files}) == 1


def test_a_matrix_without_names_survives_the_disk(tmp_path: Path) -> None:
    Anchors(_unit(3, 5)).save(tmp_path / "a.safetensors")
    assert Anchors.load(tmp_path / "a.safetensors").class_names == ()


def test_names_with_commas_and_files_from_elsewhere(tmp_path: Path) -> None:
    names = ("a, b", "c", "ü")
    Anchors(_unit(3, 5), names).save(tmp_path / "a.safetensors")
    assert Anchors.load(tmp_path / "a.safetensors").class_names == names
    save_file({"text": _unit(3, 5)}, tmp_path / "b.safetensors", {"classes": "x, y,z"})
    assert Anchors.load(tmp_path / "b.safetensors").class_names == ("x", "y", "z")


@pytest.mark.parametrize("kept", [0, 4, 8, 40, -1])
def test_truncated_files_are_refused(anchors: Anchors, tmp_path: Path, kept: int) -> None:
    file = tmp_path / "a.safetensors"
    anchors.save(file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(AnchorError, match=r"a\.safetensors"):
        Anchors.load(file)


def test_other_files_are_refused(anchors: Anchors, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"\x80\x04" + b"not safetensors" * 10)
    with pytest.raises(AnchorError):
        Anchors.load(file)
    save_file({"x": _unit(3, 5), "y": _unit(3, 5)}, file)
    with pytest.raises(AnchorError, match="'x', 'y'"):
        Anchors.load(file)
    save_file({"anchors": _unit(3, 5)}, file, {"class_names": "{"})
    with pytest.raises(AnchorError, match="JSON list"):
        Anchors.load(file)
    save_file({"anchors": _unit(3, 5)}, file, {"class_names": '["a", "b"]'})
    with pytest.raises(AnchorError, match="2 class names"):
        Anchors.load(file)
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(AnchorError, match="no such file"):
            Anchors.load(path)


def test_a_place_that_cannot_be_written_is_an_output_error(anchors: Anchors, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        anchors.save(tmp_path / "file" / "a.safetensors")


def test_prototypes_are_normalised_class_means() -> None:
    features = torch.randn(40, 7, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 3
    made = Anchors.from_prototypes(features, labels, NAMES)
    for index in range(3):
        mean = features.numpy()[labels.numpy() == index].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(made.matrix[index].numpy(), mean / np.linalg.norm(mean), atol=1e-6)
    assert made.class_names == NAMES
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    shuffled = Anchors.from_prototypes(features[order], labels[order], NAMES)
    torch.testing.assert_close(shuffled.matrix, made.matrix)


@pytest.mark.parametrize(
    ("features", "labels", "word"),
    [
        (torch.ones(3, 4), torch.tensor([0, 1, 1]), "'frog'"),
        (torch.ones(3, 4), torch.tensor([0, 1, 3]), "0 to 3"),
        (torch.ones(3, 4), torch.tensor([0, 1, -1]), "-1"),
        (torch.ones(3, 4), torch.tensor([0.0, 1.0, 2.0]), "integers"),
        (torch.ones(3, 4), torch.tensor([0, 1]), "labels"),
        (torch.ones(3), torch.tensor([0, 1, 2]), "features"),
        (torch.full((3, 4), torch.inf), torch.tensor([0, 1, 2]), "finite"),
        (torch.tensor([[1.0], [1.0], [0.0]]), torch.tensor([0, 1, 2]), "'frog'"),
        (torch.ones(0, 4), torch.zeros(0, dtype=torch.int64), "'cat'"),
    ],
)
def test_bad_prototypes_are_refused(features: torch.Tensor, labels: torch.Tensor, word: str) -> None:
    with pytest.raises(AnchorError, match=word):
        Anchors.from_prototypes(features, labels, NAMES)


@pytest.mark.realdata
def test_the_shared_clip_anchors_load(shared: Path) -> None:
    made = Anchors.load(shared / "anchors" / "cifar10.clip-vit-b-32.safetensors")
    assert made.matrix.shape == (10, 512)
    assert made.class_names[0] == "airplane"
    assert made.class_names[8] == "ship"
    assert made.provenance["encoder"] == "CLIP ViT-B/32 text"
    chosen = made.for_classes(["truck", "cat"])
    assert torch.equal(chosen.matrix, made.matrix[[9, 3]])
    torch.testing.assert_close(made.matrix.norm(dim=1), torch.ones(10), atol=1e-6, rtol=0)
    # The rows must mean what the names say: wheels beside wheels, hooves beside hooves.
    cosines = made.matrix @ made.matrix.T
    row = {name: index for index, name in enumerate(made.class_names)}
    assert cosines[row["automobile"], row["truck"]] > cosines[row["automobile"], row["frog"]]
    assert cosines[row["deer"], row["horse"]] > cosines[row["deer"], row["ship"]]
