"""What a reader of a record's figures should know."""

from __future__ import annotations

from collections.abc import Mapping

from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.held_to import HeldTo

_BLIND = (
    "The model has no BatchNorm over maps (BatchNorm2d), which keeps statistics of the training data: probes know less "
    "of it, and more is lost on such models than on others. Look at the test accuracy before you ship it."
)


def notes(
    split: ForgetSplit,
    held: HeldTo | None,
    before: Mapping[str, float | None] | None = None,
    *,
    without_statistics: bool = False,
) -> tuple[str, ...]:
    """Where sets overlap, and figures say less or other than they seem to, or images are none to be held to.

    Args:
        held: the unlabelled images, once the model was asked about them.
        before: accuracies of the model before, percent, by the name of the set.
        without_statistics: probes were inverted from a model that keeps no statistics of its training data.

    Example:
        >>> import torch
        >>> images = ImageSet.from_tensors(torch.rand(2, 3, 4, 4), [0, 1], ["cat", "dog"])
        >>> notes(ForgetSplit(images.subset([0]), retain=images), None)[0][:30]
        '1 retained image has the same '
    """
    unlike = (held.unlike,) if held is not None and held.unlike else ()
    used = None if held is None else held.images
    blind = (_BLIND,) if without_statistics and held is None else ()
    return (*_guesses(split, before or {}), *_twins(split), *_measured(split, used), *unlike, *blind)


def _guesses(split: ForgetSplit, before: Mapping[str, float | None]) -> tuple[str, ...]:
    """A model that knows nothing to begin with: more likely it is wired wrongly."""
    chance = 100 / len(split.forget.class_names)
    found = [(name, value) for name, value in before.items() if value is not None and value <= chance]
    return tuple(
        f"The model did no better than guessing before anything was done: {name} accuracy {value:.2f} %, where "
        f"guessing has {chance:.2f}. Check the order of class_names, mean and std, and the order of colour channels."
        for name, value in found[:1]
    )


def _twins(split: ForgetSplit) -> tuple[str, ...]:
    """Retained images that are images to forget."""
    if split.retain is None:
        return ()
    forget = set(split.forget.hashes())
    twins = sum(name in forget for name in split.retain.hashes())
    if not twins:
        return ()
    one = twins == 1
    return (
        f"{twins} retained image{' has' if one else 's have'} the same pixels and label as an image to forget: "
        f"forgetting the one means misclassifying the other, and retain accuracy counts {'it' if one else 'them'}.",
    )


def _measured(split: ForgetSplit, used: ImageSet | None) -> tuple[str, ...]:
    """Unlabelled images that figures are measured on as well: these say less of all others then."""
    if used is None:
        return ()
    own = set(used.pixel_hashes())
    sets = (("test", split.test), ("retained", split.retain))
    found = {name: sum(one in own for one in images.pixel_hashes()) for name, images in sets if images}
    return tuple(
        f"{count} {name} image{' has' if count == 1 else 's have'} the same pixels as an unlabelled one that the model "
        f"was held to its answer on: {name.removesuffix('ed')} accuracy counts {'it' if count == 1 else 'them'}."
        for name, count in found.items()
        if count
    )
