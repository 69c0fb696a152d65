"""Small encoders with random weights, in the file layouts of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stakes.anchors.encoders import SentenceEncoder, load_encoder
from stakes.anchors.quiet import quiet

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


def _byte_tokenizer(folder: Path, longest: int) -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    _write(folder / "vocab.json", {word: index for index, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    end = "<|endoftext|>"
    marks = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": longest, **marks},
    )
    last = len(words) - 1
    return {
        "vocab_size": len(words),
        "max_position_embeddings": longest,
        "bos_token_id": last - 1,
        "eos_token_id": last,
        "pad_token_id": last,
    }


def _tiny_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    inner = folder / "0_CLIPModel"
    inner.mkdir(parents=True)
    text = _byte_tokenizer(inner, 77)
    vision = {**TOWER, "image_size": 32, "patch_size": 16}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(text_config={**TOWER, **text}, vision_config=vision, projection_dim=16)
        CLIPModel(config).save_pretrained(inner)
    pictures = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32, **PICTURES}
    _write(inner / "preprocessor_config.json", pictures)
    kind = "sentence_transformers.models.CLIPModel"
    _write(folder / "modules.json", [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": kind}])


def _tiny_siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    folder.mkdir(parents=True)
    text = {**_byte_tokenizer(folder, 64), "projection_size": 32}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        config = SiglipConfig(
            text_config={**TOWER, **text}, vision_config={**TOWER, "image_size": 32, "patch_size": 16}
        )
        SiglipModel(config).save_pretrained(folder)
    kinds = {"image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor"}
    _write(folder / "preprocessor_config.json", {**kinds, "size": {"height": 32, "width": 32}, **PICTURES})


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    _tiny_clip(root / "tiny-clip")
    _tiny_siglip(root / "tiny-siglip")
    return {"clip": root / "tiny-clip", "siglip": root / "tiny-siglip"}


@pytest.fixture(scope="session")
def minilm() -> SentenceEncoder:
    return load_encoder("minilm")


@pytest.fixture(scope="session")
def encoders(tiny_folders: dict[str, Path], minilm: SentenceEncoder) -> dict[str, SentenceEncoder]:
    """Every kind of encoder, by kind: each must pass the same tests."""
    return {"minilm": minilm, **{kind: load_encoder(str(folder)) for kind, folder in tiny_folders.items()}}
