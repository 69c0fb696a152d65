"""Grad-CAM: where a network looks when it names an image's class, before and after (paper Fig. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.analyses.context import SIDES, TITLES, Context, SetName, Side, SkipAnalysis
from stakes.data.images import ImageSet
from stakes.drawing import GREEN, VERMILLION, new_figure, save_figure, short, show_image
from stakes.errors import MissingExtraError
from stakes.models.classifier import Classifier
from stakes.report.section import Figure, Section, Table

# Places a side below which a map is too coarse to say where a network looks.
_FEWEST = 4


@torch.no_grad()
def last_map(classifier: Classifier) -> str | None:
    """Name of the part that gives the last spatial map: the last to finish among those that hold a convolution.

    It is found in one pass over a blank image: the last map of at least 4 × 4 places, or where there is none the last
    of more than one place. In a ResNet on 224 pixels that is the last stage; on 32 pixels, where the last stage is
    down to 2 × 2, the one before. None where there is no convolution, or only one that cuts the image into patches, as
    in a vision transformer: what comes after it is no map of the image.
    """
    finished: dict[int, str] = {}
    convolutions: list[nn.Conv2d] = []
    hooks = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(module: nn.Module, _: object, output: object) -> None:
            if isinstance(module, nn.Conv2d):
                convolutions.append(module)
            if isinstance(output, Tensor) and output.ndim == 4:
                finished.update(dict.fromkeys(range(1, 1 + min(_FEWEST, *output.shape[2:])), name))

        hooks.append(module.register_forward_hook(hook))

    for name, module in classifier.named_modules():
        if name and any(isinstance(part, nn.Conv2d) for part in module.modules()):
            watch(name, module)
    try:
        classifier(torch.zeros(1, *classifier.input_size, device=classifier.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    only_patches = len(convolutions) == 1 and convolutions[0].stride == convolutions[0].kernel_size
    return None if only_patches else finished.get(_FEWEST, finished.get(2))


def heat_maps(
    classifier: Classifier, pixels: Tensor, labels: Tensor, layer: str, *, batch: int = 64
) -> Tensor:
    """Grad-CAM of the logit of each image's label: ReLU Σ_c w_c A_c, w_c the mean of ∂logit/∂A_c over places.

    Args:
        pixels: (n, C, H, W) in [0, 1].
        labels: (n,).
        layer: name of the part whose maps A are taken; see `last_map`.

    Returns:
        (n, H, W), at least 0, of any scale, stretched to the size of the image (bilinear).

    Raises:
        MissingExtraError: captum is not installed.

    Source:
        Selvaraju et al., "Grad-CAM", ICCV 2017; computed by captum's `LayerGradCam`.
    """
    cam, interpolate = _captum()
    device = classifier.mean.device
    found = cam(classifier, classifier.get_submodule(layer))
    maps = []
    for part, target in zip(pixels.split(batch), labels.split(batch), strict=True):
        image = part.to(device).requires_grad_(True)
        heat = found.attribute(image, target=target.to(device), relu_attributions=True)
        maps.append(interpolate(heat, tuple(part.shape[2:]), "bilinear").detach()[:, 0].float().cpu())
    return torch.cat(maps)


def similarity(before: Tensor, after: Tensor) -> Tensor:
    """Cosine of each pair of maps (n, H, W), in [0, 1]; NaN where one of them is 0 everywhere.

    Example:
        >>> similarity(torch.ones(2, 1, 1), torch.tensor([[[2.0]], [[0.0]]])).tolist()
        [1.0, nan]
    """
    one, two = before.flatten(1).double(), after.flatten(1).double()
    blank = (one.norm(dim=1) == 0) | (two.norm(dim=1) == 0)
    return F.cosine_similarity(one, two, dim=1).clamp(0, 1).masked_fill(blank, torch.nan)


def _captum() -> tuple[Any, Any]:
    try:
        from captum.attr import LayerAttribution, LayerGradCam
    except ImportError:
        raise MissingExtraError(
            "Grad-CAM",
            expected="captum",
            got="it is not installed",
            fix="Install the extra: pip install 'stakes[analyses]'.",
        ) from None
    return LayerGradCam, LayerAttribution.interpolate


@dataclass(frozen=True)
class _Looked:
    """Maps of some images of a set."""

    name: SetName
    images: ImageSet
    maps: dict[Side, Tensor]

    @property
    def likeness(self) -> Tensor:
        found = similarity(self.maps["before"], self.maps["after"])
        return found[~found.isnan()]


def analysis(context: Context) -> Section:
    """Maps of forgotten and other images before and after, and how alike they are."""
    layers = {side: last_map(context.classifier(side)) for side in SIDES}
    layer = layers["after"]
    if layer is None:
        raise SkipAnalysis(
            "the network has no convolution that gives a map of the image, so there is nothing for Grad-CAM to show."
        )
    kept, _ = context.first_of("retain", "test", why="forgotten images are compared with others")
    sets: tuple[SetName, ...] = ("forget", kept)
    looked = [_look(context, name, layer) for name in sets]
    means = {one.name: float(one.likeness.mean()) if len(one.likeness) else None for one in looked}
    numbers: dict[str, float | int | None] = {}
    for one in looked:
        numbers |= {
            f"{TITLES[one.name]}_map_cosine": means[one.name],
            f"{TITLES[one.name]}_maps": len(one.likeness),
            f"{TITLES[one.name]}_blank_maps_after": int(
                (one.maps["after"].flatten(1).amax(dim=1) == 0).sum()
            ),
        }
    return Section(
        name="gradcam",
        title="Grad-CAM",
        sentence=f"Maps before and after are alike by a mean cosine of {_text(means['forget'])} for forgotten images "
        f"and {_text(means[kept])} for {TITLES[kept]} ones.",
        limit="A map shows which places raise the logit of the image's own class; it does not show whether the image "
        "was forgotten. Maps that are blank on one side are left out of the mean.",
        numbers=numbers,
        tables=(
            Table(
                caption="Cosine of Grad-CAM maps of the image's own class, before to after.",
                columns=("images", "n", "mean cosine", "blank after"),
                rows=tuple(
                    (
                        TITLES[one.name],
                        len(one.images),
                        means[one.name],
                        numbers[f"{TITLES[one.name]}_blank_maps_after"],
                    )
                    for one in looked
                ),
            ),
        ),
        figures=tuple(_figure(context, one) for one in looked),
        settings={"maps of": layer, "class": "the image's own label", "seed": context.settings.seed},
    )


def _look(context: Context, name: SetName, layer: str) -> _Looked:
    _, images = context.first_of(name, why="Grad-CAM looks at images")
    images = context.sample(images, context.settings.maps, "gradcam", name)
    pixels = images.batch(slice(None))
    maps = {}
    for done, side in enumerate(SIDES, start=1):
        maps[side] = heat_maps(context.classifier(side), pixels, images.labels, layer)
        context.progress(f"grad-cam {TITLES[name]}", done, len(SIDES))
    return _Looked(name, images, maps)


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _figure(context: Context, looked: _Looked) -> Figure:
    """Image, map before and map after, in columns of examples."""
    rows = context.draw(
        len(looked.images), context.settings.examples, "gradcam examples", looked.name
    ).tolist()
    forgotten = looked.name == "forget"
    edge = VERMILLION if forgotten else GREEN
    figure = new_figure(1.5 * len(rows) + 0.4, 4.8)
    axes = figure.subplots(3, len(rows), squeeze=False)
    for column, at in enumerate(rows):
        pixels = looked.images.batch([at])[0]
        name = looked.images.class_names[int(looked.images.labels[at])]
        show_image(axes[0, column], pixels, title=short(name), edge=edge)
        for axis, side in zip(axes[1:, column], SIDES, strict=True):
            heat = looked.maps[side][at]
            show_image(axis, pixels.mean(dim=0, keepdim=True))
            axis.imshow(
                (heat / heat.max().clamp_min(1e-12)).numpy(), cmap="viridis", alpha=0.6, vmin=0, vmax=1
            )
    for axis, text in zip(axes[:, 0], (f"{TITLES[looked.name]} image", "before", "after"), strict=True):
        axis.set_ylabel(text, fontsize=9)
    return Figure(
        file=save_figure(figure, context.folder / f"gradcam-{TITLES[looked.name]}.png"),
        alt=f"{len(rows)} {TITLES[looked.name]} images with the places that speak for their class, before and after.",
        caption=f"Grad-CAM of {TITLES[looked.name]} images: yellow places raise the logit of the image's class most.",
        personal=forgotten,
    )
