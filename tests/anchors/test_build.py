"""From class names to anchors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import stakes.anchors
from stakes.anchors import Anchors, SentenceEncoder, build_anchors, describe
from stakes.errors import AnchorError
from stakes.files import digest_json

MINE = {"cat": ["striped fur", "tail"], "frog": ["green skin", "webbed toes"]}


class Constant:
    """An encoder of our own, to show that any object with a name and ``encode`` will do."""

    name = "constant"

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]]).repeat(len(texts), 1)


class Ordered(Constant):
    name = "ordered"

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.eye(len(texts))


def test_rows_are_the_encoded_descriptions_in_class_order(minilm: SentenceEncoder) -> None:
    made = build_anchors(["frog", "cat"], attributes=MINE, encoder=minilm)
    assert made.class_names == ("frog", "cat")
    texts = [describe(name, MINE[name]) for name in ("frog", "cat")]
    assert torch.equal(made.matrix, minilm.encode(texts))


def test_the_default_is_bundled_and_offline() -> None:
    made = build_anchors([str(digit) for digit in range(10)])
    assert made.matrix.shape == (10, 384)
    assert made.provenance["attribute_source"] == "bundled digits"
    assert made.provenance["encoder"] == "minilm"


def test_provenance_is_complete_and_survives_the_disk(minilm: SentenceEncoder, tmp_path: Path) -> None:
    made = build_anchors(["frog", "cat"], encoder=minilm)
    made.save(tmp_path / "a.safetensors")
    back = Anchors.load(tmp_path / "a.safetensors")
    assert back.fingerprint() == made.fingerprint()
    told = back.provenance
    descriptions = json.loads(told["descriptions"])
    assert list(descriptions) == ["frog", "cat"]
    assert told["descriptions_sha256"] == digest_json(descriptions)
    assert told["encoder_weights"] == minilm.weights
    assert {"stakes", "torch", "sentence-transformers"} <= set(json.loads(told["versions"]))


def test_subset_equals_selection(minilm: SentenceEncoder) -> None:
    whole = build_anchors(["cat", "dog", "frog", "ship"], encoder=minilm)
    part = build_anchors(["ship", "cat"], encoder=minilm)
    assert torch.equal(whole.for_classes(["ship", "cat"]).matrix, part.matrix)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(MINE))
    made = build_anchors(["cat", "frog"], attributes=path, encoder=Ordered())
    assert torch.equal(made.matrix, torch.eye(2))
    assert made.provenance["encoder"] == "ordered"
    assert str(tmp_path) not in json.dumps(dict(made.provenance))


def test_two_sources_are_refused() -> None:
    with pytest.raises(AnchorError, match="both"):
        build_anchors(["cat", "frog"], attributes=MINE, llm="m", encoder=Ordered())


def test_anchors_that_coincide_are_refused() -> None:
    with pytest.raises(AnchorError, match="same anchor for 'cat' and 'frog'"):
        build_anchors(["cat", "frog"], attributes=MINE, encoder=Constant())


def test_every_public_name_is_there_and_documented() -> None:
    for name in stakes.anchors.__all__:
        assert getattr(stakes.anchors, name).__doc__, name


def test_importing_is_light() -> None:
    code = (
        "import sys, stakes.anchors\n"
        "heavy = {'sentence_transformers', 'transformers', 'openai', 'huggingface_hub', 'sklearn'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.realdata
def test_attributes_that_come_with_faces(shared: Path, minilm: SentenceEncoder) -> None:
    names = [f"person_{index}" for index in range(10)]
    made = build_anchors(names, attributes=shared / "data" / "faces10" / "attributes.json", encoder=minilm)
    assert made.matrix.shape == (10, 384)
