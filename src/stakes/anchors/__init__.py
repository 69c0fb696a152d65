"""Anchors: attributes of classes, encoders, and the fixed unit vectors made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

from stakes.anchors.anchors import Anchors
from stakes.anchors.attributes import (
    Attributes,
    check_attributes,
    check_class_names,
    describe,
    read_attributes,
)
from stakes.anchors.bridge import Bridge
from stakes.anchors.catalogue import bundled_attributes
from stakes.anchors.encoders import Encoder, SentenceEncoder, load_encoder
from stakes.anchors.llm import llm_attributes
from stakes.errors import AnchorError
from stakes.files import digest_json

__all__ = [
    "Anchors",
    "Attributes",
    "Bridge",
    "Encoder",
    "SentenceEncoder",
    "build_anchors",
    "bundled_attributes",
    "check_attributes",
    "describe",
    "llm_attributes",
    "load_encoder",
    "read_attributes",
]


def build_anchors(
    class_names: Sequence[str],
    *,
    attributes: str | Path | Mapping[str, Sequence[str]] | None = None,
    llm: str | None = None,
    encoder: str | Encoder = "minilm",
    cache_dir: str | Path | None = None,
) -> Anchors:
    """Anchors of classes: a_c = norm(T(d_c)), d_c the concatenated attributes of class c.

    Args:
        class_names: b ≥ 2 different names, in the order of the model's outputs.
        attributes: a JSON file or mapping {class: [attribute, ...]}; by default the bundled lists.
        llm: instead, the name of a language model that writes them (see :func:`llm_attributes`).
        encoder: a name (see :func:`load_encoder`) or an object with ``name`` and ``encode``.
        cache_dir: where answers of a language model are kept; the user's cache folder by default.

    Returns:
        :class:`Anchors` (b × d). Its provenance holds ``encoder``, ``encoder_source``, ``encoder_weights``
        (SHA-256), ``attribute_source``, ``descriptions`` (JSON, class to d_c), ``descriptions_sha256`` and
        ``versions`` (JSON, library to version).

    Raises:
        AnchorError: attributes are missing or malformed, both sources are given, or two anchors coincide.
        NetworkError: the weights or the language model cannot be reached.
        MissingExtraError: an optional package is not installed.

    Source:
        Paper, section 3.1. Anchors are as good as the attributes: nothing checks that they are true.

    Example:
        >>> import stakes
        >>> stakes.build_anchors(["cat", "dog", "frog"]).matrix.shape
        torch.Size([3, 384])
    """
    names = check_class_names(class_names)
    found = _attributes(names, attributes, llm, cache_dir)
    descriptions = found.descriptions()
    used = load_encoder(encoder) if isinstance(encoder, str) else encoder
    matrix = used.encode(list(descriptions.values()))
    anchors = Anchors(matrix, names, _provenance(used, found, descriptions))
    _refuse_twins(anchors)
    return anchors


def _attributes(
    names: tuple[str, ...],
    attributes: str | Path | Mapping[str, Sequence[str]] | None,
    llm: str | None,
    cache_dir: str | Path | None,
) -> Attributes:
    if attributes is not None and llm is not None:
        raise AnchorError("source of attributes", expected="a file or a language model", got="both")
    if llm is not None:
        return llm_attributes(names, llm, cache_dir=cache_dir)
    if attributes is None:
        return bundled_attributes(names)
    if isinstance(attributes, str | Path):
        return read_attributes(attributes, names)
    return check_attributes(attributes, names)


def _provenance(encoder: Encoder, found: Attributes, descriptions: dict[str, str]) -> dict[str, str]:
    versions = {
        name: metadata.version(name) for name in ("stakes", "sentence-transformers", "transformers", "torch")
    }
    provenance = {
        "encoder": encoder.name,
        "attribute_source": found.source,
        "descriptions": json.dumps(descriptions, ensure_ascii=False),
        "descriptions_sha256": digest_json(descriptions),
        "versions": json.dumps(versions),
    }
    if isinstance(encoder, SentenceEncoder):
        provenance |= {"encoder_source": encoder.source, "encoder_weights": encoder.weights}
    return provenance


def _refuse_twins(anchors: Anchors) -> None:
    """Two classes with one anchor cannot be told apart by any affinity."""
    cosines = anchors.matrix.double() @ anchors.matrix.double().T - 2 * torch.eye(len(anchors.matrix))
    if float(cosines.max()) > 1 - 1e-6:
        first, second = divmod(int(cosines.argmax()), len(anchors.matrix))
        raise AnchorError(
            "anchors",
            expected="descriptions that the encoder can tell apart",
            got=f"the same anchor for {anchors.class_names[first]!r} and {anchors.class_names[second]!r}",
            fix="Give these classes attributes that differ.",
        )
