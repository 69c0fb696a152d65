"""Anchors: one unit vector per class, the fixed stakes of the structure."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stakes.anchors.attributes import check_class_names
from stakes.anchors.safefile import stable_bytes
from stakes.errors import AnchorError
from stakes.files import digest, digest_tensors, write_bytes

TENSOR = "anchors"
NAMES = "class_names"
COMMA_NAMES = "classes"  # how files made elsewhere list their classes
RESERVED = frozenset({NAMES, COMMA_NAMES})


@dataclass(frozen=True, eq=False)
class Anchors:
    """The anchor matrix A (b × d): a unit row a_c for each class c, with names and provenance.

    Attributes:
        matrix: (b, d) float32 on the CPU, rows of norm 1. A norm off by at most 1e-3 is mended (rows within
            1e-6 are kept bit for bit); anything further off is refused. The tensor is the object's own copy.
        class_names: b different names in row order; empty for a matrix that came without names, which then
            fits any list of b classes, in its own order.
        provenance: where the rows came from, strings only (encoder, attribute source, descriptions...);
            read-only.

    Raises:
        AnchorError: not (b ≥ 2, d ≥ 1), not floating point, not finite, not unit rows, or names that do not
            fit.

    Source:
        Paper, section 3.1. Assumes that the anchors tell the classes apart, which nothing here can promise:
        two classes with the same description get the same row.

    Example:
        >>> anchors = Anchors(torch.eye(3), ("cat", "dog", "frog"))
        >>> anchors.for_classes(["frog", "cat"]).matrix.tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    matrix: torch.Tensor
    class_names: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        matrix = _unit_matrix(self.matrix)
        names = check_class_names(self.class_names) if self.class_names else ()
        if names and len(names) != len(matrix):
            raise AnchorError(
                "anchors", expected=f"one row for each of {len(names)} class names", got=f"{len(matrix)} rows"
            )
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "provenance", _checked_provenance(self.provenance))

    def __reduce__(self) -> tuple[type[Anchors], tuple[torch.Tensor, tuple[str, ...], dict[str, str]]]:
        # A mapping that cannot be changed cannot be pickled, and anchors travel between processes.
        return Anchors, (self.matrix, self.class_names, dict(self.provenance))

    def __repr__(self) -> str:
        classes = ", ".join(self.class_names[:3]) + (", ..." if len(self.class_names) > 3 else "")
        rows, width = self.matrix.shape
        return f"Anchors({rows} × {width}; {classes or 'no class names'}; {self.fingerprint()[:12]})"

    @property
    def width(self) -> int:
        """The number d of columns."""
        return self.matrix.shape[1]

    def for_classes(self, class_names: Sequence[str]) -> Anchors:
        """The anchors of these classes, in this order.

        Args:
            class_names: b' different names; each must be one of the anchors' own. Anchors without names are
                taken in their own order and must have exactly b' rows.

        Raises:
            AnchorError: some classes have no anchor (they are named), or the count does not fit.
        """
        names = check_class_names(class_names)
        if not self.class_names:
            if len(names) != len(self.matrix):
                raise AnchorError(
                    "anchors without class names",
                    expected=f"{len(names)} rows, one for each class in the model's order",
                    got=f"{len(self.matrix)} rows",
                )
            return Anchors(self.matrix, names, self.provenance)
        row = {name: index for index, name in enumerate(self.class_names)}
        missing = [name for name in names if name not in row]
        if missing:
            raise AnchorError(
                "anchors",
                expected="a row for every class",
                got=f"none for {_few(missing)}",
                fix=f"These anchors are for {_few(self.class_names)}: make them for the model's classes.",
            )
        return Anchors(self.matrix[[row[name] for name in names]], names, self.provenance)

    def fingerprint(self) -> str:
        """SHA-256 of matrix and class names (not of the provenance): what a result depends on."""
        return digest(digest_tensors({TENSOR: self.matrix}), *self.class_names)

    def text_fingerprint(self) -> str | None:
        """SHA-256 of the descriptions and of the encoder that read them; None where no known encoder did.

        Two machines round an encoder's answers otherwise, so that equal texts need not give equal fingerprints.
        """
        wanted = ("descriptions_sha256", "encoder_weights")
        if not all(key in self.provenance for key in wanted):
            return None
        return digest(*(self.provenance[key] for key in wanted), *self.class_names)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; equal anchors give equal bytes.

        The file holds the tensor ``anchors``; its metadata hold ``class_names`` (JSON) and the provenance.

        Raises:
            OutputError: the place cannot be written.
        """
        metadata = dict(self.provenance)
        if self.class_names:
            metadata[NAMES] = json.dumps(list(self.class_names), ensure_ascii=False)
        write_bytes(Path(path), stable_bytes({TENSOR: self.matrix}, metadata))

    @classmethod
    def load(cls, path: str | Path) -> Anchors:
        """Read a safetensors file written by :meth:`save` or elsewhere.

        The matrix is the tensor ``anchors``, or the only tensor of the file. Class names are the metadata
        ``class_names`` (JSON list) or ``classes`` (comma separated); without either the anchors have none.

        Raises:
            AnchorError: missing, truncated, corrupt, or not valid anchors.
        """
        from safetensors import SafetensorError, safe_open

        file = Path(path)
        if not file.is_file():
            raise AnchorError(f"anchors file {file}", expected="a safetensors file", got="no such file")
        try:
            with safe_open(file, framework="pt", device="cpu") as handle:
                metadata: dict[str, str] = dict(handle.metadata() or {})
                keys = list(handle.keys())
                key = TENSOR if TENSOR in keys else keys[0] if len(keys) == 1 else None
                matrix = handle.get_tensor(key) if key is not None else None
        except (SafetensorError, OSError, ValueError) as error:
            raise AnchorError(
                f"anchors file {file}",
                expected="a whole safetensors file",
                got=f"a damaged or other one ({error})",
                fix="Make it again with `stakes anchors`, or copy it again.",
            ) from error
        if matrix is None:
            raise AnchorError(
                f"anchors file {file}", expected=f"a tensor named {TENSOR!r}", got=_few(sorted(keys))
            )
        names = _names_of(metadata, file)
        return cls(matrix, names, {k: v for k, v in metadata.items() if k not in RESERVED})

    @classmethod
    def from_prototypes(
        cls, features: torch.Tensor, labels: torch.Tensor, class_names: Sequence[str]
    ) -> Anchors:
        """Visual prototypes: a_c = norm(mean of the features of class c).

        Args:
            features: (n, d), finite, any floating type.
            labels: (n,) integers from 0 to b − 1.
            class_names: b names; every class needs at least one feature.

        Raises:
            AnchorError: shapes or labels that do not fit, a class without features, or a mean of zero.

        Source:
            Paper, section 4.3 and Table 4 (Ours-vis), which averages features of *retained* images: these
            anchors need retain data, unlike those from attributes, and scored lower there.

        Example:
            >>> v = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
            >>> Anchors.from_prototypes(v, torch.tensor([0, 1, 1]), ["a", "b"]).matrix.tolist()
            [[1.0, 0.0], [0.0, 1.0]]
        """
        names = check_class_names(class_names)
        features, labels = features.detach().cpu(), labels.detach().cpu()
        _check_features(features, labels, len(names))
        counts = torch.bincount(labels.long(), minlength=len(names))
        if bool((counts == 0).any()):
            absent = [name for name, count in zip(names, counts.tolist(), strict=True) if count == 0]
            raise AnchorError(
                "visual prototypes", expected="a feature of every class", got=f"none of {_few(absent)}"
            )
        sums = torch.zeros(len(names), features.shape[1], dtype=torch.float64)
        means = sums.index_add_(0, labels.long(), features.double()) / counts[:, None]
        norms = means.norm(dim=1, keepdim=True)
        if bool((norms < 1e-12).any()):
            zero = [name for name, norm in zip(names, norms[:, 0].tolist(), strict=True) if norm < 1e-12]
            raise AnchorError(
                "visual prototypes", expected="means that have a direction", got=f"zero for {_few(zero)}"
            )
        return cls(
            (means / norms).float(), names, {"source": "visual prototypes", "images": str(len(labels))}
        )


def _unit_matrix(matrix: torch.Tensor) -> torch.Tensor:
    if not isinstance(matrix, torch.Tensor) or matrix.ndim != 2 or not matrix.is_floating_point():
        got = (
            f"{matrix.dtype} {tuple(matrix.shape)}"
            if isinstance(matrix, torch.Tensor)
            else f"a {type(matrix).__name__}"
        )
        raise AnchorError("anchors", expected="a floating-point tensor (classes, width)", got=got)
    if matrix.shape[0] < 2 or matrix.shape[1] < 1:
        raise AnchorError("anchors", expected="at least 2 rows and 1 column", got=str(tuple(matrix.shape)))
    single = matrix.detach().to("cpu", torch.float32).clone()
    if not bool(torch.isfinite(single).all()):
        rows = torch.nonzero(~torch.isfinite(single).all(dim=1))[:, 0].tolist()
        raise AnchorError("anchors", expected="finite numbers", got=f"NaN or infinity in rows {_few(rows)}")
    norms = single.double().norm(dim=1, keepdim=True)
    off = (norms - 1).abs()
    if float(off.max()) > 1e-3:
        worst = int(off.argmax())
        raise AnchorError(
            "anchors",
            expected="rows of norm 1 (within 1e-3)",
            got=f"norm {float(norms[worst]):.4g} in row {worst}",
            fix="Divide each row by its norm.",
        )
    # Rows that are already unit to rounding stay as they are, so that saving and loading changes no bit.
    return torch.where(off > 1e-6, (single.double() / norms).float(), single)


def _checked_provenance(provenance: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in provenance.items():
        if not isinstance(key, str) or not isinstance(value, str) or key in RESERVED:
            raise AnchorError(
                "provenance of anchors",
                expected=f"strings under names other than {_few(sorted(RESERVED))}",
                got=f"{key!r}: {type(value).__name__}",
            )
    return types.MappingProxyType(dict(provenance))


def _names_of(metadata: Mapping[str, str], file: Path) -> tuple[str, ...]:
    if NAMES in metadata:
        try:
            names = json.loads(metadata[NAMES])
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise AnchorError(
                f"class names in anchors file {file}", expected="a JSON list", got="something else"
            )
        return tuple(names)
    listed = metadata.get(COMMA_NAMES, "")
    return tuple(name.strip() for name in listed.split(",")) if listed.strip() else ()


def _check_features(features: torch.Tensor, labels: torch.Tensor, classes: int) -> None:
    if features.ndim != 2 or not features.is_floating_point() or labels.shape != features.shape[:1]:
        raise AnchorError(
            "visual prototypes",
            expected="floating-point features (n, d) and labels (n,)",
            got=f"{tuple(features.shape)} {features.dtype} and {tuple(labels.shape)}",
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise AnchorError("labels of visual prototypes", expected="integers", got=str(labels.dtype))
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= classes:
        got = f"{low} to {high}"
        raise AnchorError("labels of visual prototypes", expected=f"0 to {classes - 1}", got=got)
    if not bool(torch.isfinite(features).all()):
        raise AnchorError("features of visual prototypes", expected="finite numbers", got="NaN or infinity")


def _few(items: Sequence[object], most: int = 10) -> str:
    shown = ", ".join(repr(item) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")
