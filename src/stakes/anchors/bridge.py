"""Bringing anchors and features of different widths into one space."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from stakes.errors import AnchorError


@dataclass(frozen=True, eq=False)
class Bridge:
    """A fixed map that brings anchors (b × d_a) and features (n × d_f) to the width max(d_a, d_f).

    The narrower side is lifted by a matrix Q (narrow × wide) with orthonormal rows, Q Qᵀ = I: x ↦ x Q. Then
    (x Q)·(y Q) = x·y, so norms and all inner products *within* each side are kept exactly (up to rounding).
    With equal widths nothing is done. Q comes from the QR decomposition of a Gaussian matrix drawn with a CPU
    generator from ``seed``, with signs fixed by a positive diagonal of R: uniform over such matrices.

    What is *not* kept, because nothing could be: inner products *between* anchors and features have no
    meaning before the bridge, and after it they depend on the seed. Record the seed with the result. The same
    seed gives the same Q on one machine; another linear-algebra library may differ in the last bits.

    Attributes:
        feature_width: d_f.
        anchor_width: d_a.
        seed: 0 to 2⁶³ − 1.
        feature_map: Q (d_f × d_a) where features are the narrower, else None.
        anchor_map: Q (d_a × d_f) where anchors are the narrower, else None.

    Source:
        The paper leaves the widths open. Its authors' code maps the wider features down at random, which
        loses directions of the features; lifting loses none.

    Example:
        >>> bridge = Bridge.between(512, 384, seed=0)
        >>> bridge.anchors(torch.eye(10, 384)).shape, bridge.features(torch.zeros(5, 512)).shape
        (torch.Size([10, 512]), torch.Size([5, 512]))
    """

    feature_width: int
    anchor_width: int
    seed: int
    feature_map: torch.Tensor | None = None
    anchor_map: torch.Tensor | None = None

    @classmethod
    def between(cls, feature_width: int, anchor_width: int, seed: int) -> Bridge:
        """The bridge for these widths.

        Args:
            feature_width: d_f ≥ 1.
            anchor_width: d_a ≥ 1.
            seed: 0 to 2⁶³ − 1.

        Raises:
            AnchorError: a width or the seed is out of range.
        """
        for name, width in (("feature width", feature_width), ("anchor width", anchor_width)):
            if width < 1:
                raise AnchorError(name, expected="at least 1", got=str(width))
        if not 0 <= seed < 2**63:
            raise AnchorError("seed of the bridge", expected="0 to 2^63 - 1", got=str(seed))
        if feature_width == anchor_width:
            return cls(feature_width, anchor_width, seed)
        lift = _orthonormal_rows(min(feature_width, anchor_width), max(feature_width, anchor_width), seed)
        if feature_width < anchor_width:
            return cls(feature_width, anchor_width, seed, feature_map=lift)
        return cls(feature_width, anchor_width, seed, anchor_map=lift)

    @property
    def width(self) -> int:
        """The common width after the bridge."""
        return max(self.feature_width, self.anchor_width)

    def anchors(self, matrix: torch.Tensor) -> torch.Tensor:
        """Anchors (b × d_a) in the common space (b × width); unit rows stay unit rows.

        Raises:
            AnchorError: the matrix has another width.
        """
        return _apply(matrix, self.anchor_map, self.anchor_width, "anchors")

    def features(self, vectors: torch.Tensor) -> torch.Tensor:
        """Features (n × d_f) in the common space (n × width); gradients pass through.

        Raises:
            AnchorError: the features have another width.
        """
        return _apply(vectors, self.feature_map, self.feature_width, "features")

    def to(self, device: torch.device | str) -> Bridge:
        """The same bridge with its map on ``device``."""
        return replace(
            self,
            feature_map=None if self.feature_map is None else self.feature_map.to(device),
            anchor_map=None if self.anchor_map is None else self.anchor_map.to(device),
        )

    def __repr__(self) -> str:
        return f"Bridge(features {self.feature_width}, anchors {self.anchor_width}, seed {self.seed})"


def _apply(values: torch.Tensor, lift: torch.Tensor | None, width: int, what: str) -> torch.Tensor:
    if values.ndim != 2 or values.shape[1] != width:
        raise AnchorError(f"{what} at the bridge", expected=f"(rows, {width})", got=str(tuple(values.shape)))
    return values if lift is None else values @ lift.to(values.dtype)


def _orthonormal_rows(narrow: int, wide: int, seed: int) -> torch.Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    gaussian = torch.randn(wide, narrow, generator=generator, dtype=torch.float64)
    q: torch.Tensor
    q, r = torch.linalg.qr(gaussian)
    signs = torch.where(torch.diagonal(r) < 0, -1.0, 1.0).to(q.dtype)
    lift: torch.Tensor = (q * signs).T.float().contiguous()
    return lift
