"""What more than one command makes of its words: data, models, anchors, settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stakes.errors import AnchorError

if TYPE_CHECKING:
    from stakes.anchors import Anchors
    from stakes.data.forget import ForgetSplit
    from stakes.data.sources import Source
    from stakes.models.classifier import Classifier
    from stakes.models.recipe import PretrainSettings


def open_problem(
    model: str, data: str | None, forget: str, seed: int, *, unlabelled: str | None = None, allow_pickle: bool
) -> tuple[Classifier, ForgetSplit, Source | None]:
    """Checkpoint first: it says which classes and image size the data must fit."""
    from stakes.data.forget import split_forget
    from stakes.data.sources import open_source
    from stakes.models.checkpoint import load_checkpoint

    classifier = load_checkpoint(model, allow_pickle=allow_pickle)
    size = classifier.input_size
    names = classifier.class_names
    source = open_source(data, size=size, class_names=names) if data is not None else None
    split = split_forget(forget, source, class_names=names, size=size, seed=seed, unlabelled=unlabelled)
    return classifier, split, source


def open_sized(data: str, side: int | None) -> Source:
    """Data to train on, its images resized to a side where one is named."""
    from stakes.data.sources import open_source

    source = open_source(data)
    if side is None:
        return source
    channels = next(split.size[0] for split in (source.train, source.test) if split is not None)
    return open_source(data, size=(channels, side, side))


def training_settings(preset: str, precision: str, assignments: list[str] | None) -> PretrainSettings:
    """The recipe of a name, changed as the command line says."""
    from stakes.config import parse_assignments
    from stakes.models.recipe import recipe

    return recipe(preset).with_overrides({"precision": precision} | parse_assignments(assignments or []))


def choose_anchors(
    needed: bool, class_names: Sequence[str], file: Path | None, attributes: Path | None, encoder: str
) -> Anchors | None:
    """Anchors of these classes from a file, or built from attributes: a user's or the bundled ones.

    None where a method needs none and none are named; those that are named are kept with the run, for its analyses.
    """
    if not needed and file is None and attributes is None:
        return None
    from stakes.anchors import Anchors, build_anchors

    if file is not None and attributes is not None:
        raise AnchorError("anchors", expected="--anchors or --attributes", got="both")
    if file is not None:
        return Anchors.load(file).for_classes(class_names)
    return build_anchors(class_names, attributes=attributes, encoder=encoder)


def preset_label(preset: str | None, changed: bool) -> str | None:
    """A preset with changed settings must not pass for the preset."""
    return f"{preset} with changes" if preset and changed else preset
