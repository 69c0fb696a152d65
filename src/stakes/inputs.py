"""What the public calls are given, as the library has it, and what does not go together refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.errors import ConfigError, DataError, ModelError
from stakes.models.classifier import Classifier
from stakes.models.wiring import wiring

if TYPE_CHECKING:
    from stakes.methods import Method

Images = ImageSet | tuple[Tensor, Tensor]


def as_classifier(
    model: nn.Module,
    images: ImageSet | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    head: str | None = None,
) -> Classifier:
    """Wrap any torch classifier; a `Classifier` is taken as it is.

    Raises:
        ModelError: the split into features and head cannot be found, or no images tell the input size.
    """
    if isinstance(model, Classifier):
        return model
    if images is None:
        raise ModelError("model", expected="a Classifier, or images that tell the input size", got="neither")
    return Classifier.from_network(
        model, class_names=images.class_names, input_size=images.size, mean=mean, std=std, head=head
    )


def as_method(
    method: str | Method[Any], preset: str | None, settings: Mapping[str, Any] | None, call: str
) -> Method[Any]:
    """A method by its name and settings; a configured one is taken as it is.

    Args:
        call: what is called, for the message.

    Raises:
        ConfigError: settings beside a configured method, or wrong ones.
    """
    from stakes.methods import Method, find_method

    if not isinstance(method, Method):
        return find_method(method).configure(preset, settings)
    if settings:
        raise ConfigError(
            call,
            expected="settings with a method's name, or inside a configured method",
            got="both ways",
        )
    return method


def as_split(
    model: nn.Module,
    forget: Images | ForgetSplit,
    test: Images | None,
    retain: Images | None,
    class_names: Sequence[str] | None,
    unlabelled: ImageSet | Tensor | None = None,
) -> ForgetSplit:
    """The images of a call as a split; class names are the model's where none are given."""
    if isinstance(forget, ForgetSplit):
        if any(one is not None for one in (test, retain, unlabelled)):
            raise DataError(
                "unlearn", expected="test, retain and unlabelled inside the ForgetSplit", got="both ways"
            )
        return forget
    names = class_names or (model.class_names if isinstance(model, Classifier) else None)

    def as_set(images: Images | None) -> ImageSet | None:
        if images is None or isinstance(images, ImageSet):
            return images
        if names is None:
            raise DataError(
                "class names",
                expected="names of the model's classes, in the order of its outputs",
                got="none",
                fix="Pass class_names=[...].",
            )
        if not isinstance(images, (tuple, list)) or len(images) != 2:
            raise DataError(
                "images", expected="an ImageSet, or a pair of pixels and labels", got=type(images).__name__
            )
        return ImageSet.from_tensors(images[0], images[1], names)

    forget_set = as_set(forget)
    if forget_set is None or not len(forget_set):
        raise DataError("forget set", expected="one image or more", got="none", fix="Name images to forget.")
    if isinstance(unlabelled, Tensor):
        zeros = torch.zeros(len(unlabelled), dtype=torch.int64)
        unlabelled = ImageSet.from_tensors(unlabelled, zeros, forget_set.class_names)
    return ForgetSplit(forget=forget_set, test=as_set(test), retain=as_set(retain), unlabelled=unlabelled)


def refuse_unlabelled(method: Method[Any], owner: str | None = None) -> None:
    """Unlabelled images for a method that has no use for them.

    Args:
        owner: who gives them; the method itself where it is None.
    """
    if "probes" not in method.needs:
        raise ConfigError(
            f"unlabelled images of {owner or f'method {method.name}'}",
            expected="a method that trains on probes, such as structguard, l2ul or adv",
            got=method.name,
            fix="Leave them out, or choose another method.",
        )


def refuse_mismatch(classifier: Classifier, images: ImageSet) -> None:
    """Images of other classes, or of another size, than the classifier's."""
    if tuple(classifier.class_names) != tuple(images.class_names):
        raise DataError(
            "class names of images and model",
            expected=", ".join(classifier.class_names[:8]),
            got=", ".join(images.class_names[:8]),
            fix="Names and order must be those of the model's outputs.",
        )
    if tuple(classifier.input_size) != tuple(images.size):
        raise DataError(
            "image size",
            expected=str(classifier.input_size),
            got=str(images.size),
            fix="Use images.with_size(...).",
        )


def refuse_other_network(model: Classifier, reference: Classifier) -> None:
    """A reference that is not an earlier state of the model."""

    def built(classifier: Classifier) -> tuple[object, ...]:
        shapes = {name: tuple(value.shape) for name, value in classifier.state_dict().items()}
        return shapes, wiring(classifier.body), tuple(classifier.class_names), classifier.input_size

    def said(classifier: Classifier) -> str:
        mean, std = classifier.normalisation
        names = ", ".join(classifier.class_names[:8])
        return f"{classifier.architecture or 'a network'} for {names}, mean {mean}, std {std}"

    scaled = all(torch.equal(getattr(model, k).cpu(), getattr(reference, k).cpu()) for k in ("mean", "std"))
    if built(model) != built(reference) or not scaled:
        raise ModelError(
            "reference",
            expected=f"the model's own network and classes ({said(model)})",
            got=said(reference),
            fix="Give an earlier state of the same model.",
        )
