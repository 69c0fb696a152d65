"""What a reader of a record's figures should know."""

from __future__ import annotations

from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.held_to import HeldTo


def notes(split: ForgetSplit, held: HeldTo | None) -> tuple[str, ...]:
    """Where sets overlap, and figures say less or other than they seem to, or images are none to be held to.

    Args:
        held: the unlabelled images, once the model was asked about them.

    Example:
        >>> import torch
        >>> images = ImageSet.from_tensors(torch.rand(2, 3, 4, 4), [0, 1], ["cat", "dog"])
        >>> notes(ForgetSplit(images.subset([0]), retain=images), None)[0][:30]
        '1 retained image has the same '
    """
    unlike = (held.unlike,) if held is not None and held.unlike else ()
    return (*_twins(split), *_measured(split, None if held is None else held.images), *unlike)


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
