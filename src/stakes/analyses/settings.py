"""How analyses are carried out: seed, sizes of samples, memory."""

from __future__ import annotations

from pydantic import Field

from stakes.config import Settings


class AnalysisSettings(Settings):
    """Settings of all analyses; samples are drawn by ``seed`` and stated in each section.

    Example:
        >>> AnalysisSettings().with_overrides({"gallery": 500}).gallery
        500
    """

    seed: int = Field(0, ge=0)
    batch: int = Field(256, ge=1, description="images a network pass")
    gallery: int = Field(
        10_000, ge=2, description="most images of the retain set; the gallery of the retrieval"
    )
    test_images: int = Field(10_000, ge=2, description="most images of the test set")
    forget_images: int = Field(10_000, ge=1, description="most images of the forget set")
    queries: int = Field(1_000, ge=1, description="most queries of each case of the retrieval")
    neighbours: int = Field(5, ge=1, le=10, description="images in a picture row of the retrieval")
    examples: int = Field(4, ge=1, le=12, description="images of each kind in pictures, drawn by seed")
    maps: int = Field(64, ge=1, description="images of each kind whose Grad-CAM maps are compared")
    snapshots: int = Field(20, ge=1, description="most snapshots of a run that are measured, evenly spread")
    snapshot_images: int = Field(2_000, ge=2, description="retained images on which collapse is measured")
    block_bytes: int = Field(64 * 1024**2, ge=1, description="memory of one block of the exact search")
