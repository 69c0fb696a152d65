"""A network split into features and head, with the normalisation inside."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn

from stakes.errors import ModelError
from stakes.files import digest_json, digest_tensors
from stakes.models.checks import check_names, check_normalisation, checked_size, dummy_batch
from stakes.models.head import HeadSearch, Tap, find_head, plain_logits, put, take_out
from stakes.models.projector import Projector
from stakes.models.registry import rebuildable
from stakes.models.wiring import wiring
from stakes.spread import shared_pass


class Classifier(nn.Module):
    """f(x) = h(p(g((x − μ) / σ))): features g, an optional projector p, a linear head h.

    Make one with ``Classifier.from_network`` or ``load_checkpoint`` rather than with the constructor.

    Attributes:
        body: the network with its head taken out: its output on normalised images is the features.
        head: the linear layer from features to logits.
        projector: between the two, or None. Assign a ``Projector`` to deploy through one.
        class_names: one name per output, in order.
        input_size: (C, H, W) of the images.
        feature_width: d, the width of the features.
        num_classes: b, the number of outputs.

    Shapes:
        pixels (n, C, H, W), float, in [0, 1]; features (n, d); logits (n, b), unnormalised.

    Example:
        >>> from stakes.models import Classifier, build_network
        >>> network = build_network("resnet10", num_classes=2, in_channels=1)
        >>> model = Classifier.from_network(network, class_names=["cat", "dog"], input_size=(1, 8, 8))
        >>> model
        Classifier(ResNet: 1×8×8 pixels → 128 features → 2 classes, head 'fc', no projector)
        >>> model(torch.rand(3, 1, 8, 8)).shape
        torch.Size([3, 2])

    Source:
        The paper, section 3.1 (f = h ∘ g) and 4.1 (projector). Assumes that the head is one linear layer.
        Nothing is promised about images of another size than ``input_size``, though a network may well take
        them.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        body: nn.Module,
        head: nn.Linear,
        *,
        class_names: Sequence[str],
        input_size: tuple[int, int, int],
        mean: Sequence[float],
        std: Sequence[float],
        head_names: tuple[str, ...],
        architecture: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.projector: nn.Module | None = None
        self.class_names = tuple(class_names)
        self.input_size = input_size
        self.head_names = head_names
        self.normalisation = (tuple(float(m) for m in mean), tuple(float(s) for s in std))
        self.architecture = copy.deepcopy(architecture)
        self._tapped = isinstance(body.get_submodule(head_names[0]), Tap)
        # Not persistent: they belong to config.json, not to the weights.
        for name, values in zip(("mean", "std"), self.normalisation, strict=True):
            value = torch.tensor(values, dtype=head.weight.dtype, device=head.weight.device)
            self.register_buffer(name, value.view(1, -1, 1, 1), persistent=False)

    @classmethod
    def from_network(
        cls,
        network: nn.Module,
        *,
        class_names: Sequence[str],
        input_size: tuple[int, int, int],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        head: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> Self:
        """Split a copy of any image classifier into features and head.

        The network itself is never changed. The head is found by one pass over two dummy images in eval mode:
        it is the linear layer with a 2-D input whose output is the network's output. The result is in eval
        mode and in float32.

        Args:
            network: takes normalised images (n, C, H, W); returns logits (n, b) or an object with
                ``.logits``.
            class_names: b names, in the order of the outputs.
            input_size: (C, H, W).
            mean: μ per channel of pixels in [0, 1]; 0 where left out.
            std: σ per channel, above 0; 1 where left out.
            head: dotted name of the head, where it cannot be found or the network works on behind it. Then
                the classifier's logits are that layer's output, and only the predicted classes must agree.
            config: how to rebuild the network, as in ``config.json``. Found by itself for the library's own
                networks and for ``transformers``.

        Raises:
            ModelError: no head or several, wrong number of class names, a bad normalisation, or a network
                that cannot be copied or run.
        """
        size = checked_size(input_size)
        mean = tuple(mean) if mean is not None else (0.0,) * size[0]
        std = tuple(std) if std is not None else (1.0,) * size[0]
        check_normalisation(mean, std, size[0])
        try:
            body = copy.deepcopy(network).float().eval()
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(
                f"the network cannot be copied ({error})",
                fix="Detach tensors it keeps as attributes, or give a freshly loaded network.",
            ) from error
        dummy = dummy_batch(body, size, mean, std)
        found = find_head(body, dummy, head)
        check_names(class_names, found)
        take_out(body, found, dummy)
        made = cls(
            body,
            found.head,
            class_names=class_names,
            input_size=size,
            mean=mean,
            std=std,
            head_names=found.aliases,
            architecture=config
            if config is not None
            else rebuildable(network, num_classes=found.head.out_features, in_channels=size[0]),
        )
        _check_split(made.eval(), found, dummy)
        made._lay_out()
        return made

    def _features_of(self, normalised: torch.Tensor) -> torch.Tensor:
        output = self.body(normalised)
        if not self._tapped:
            return plain_logits(output)
        tap = self.body.get_submodule(self.head_names[0])
        return tap.take()  # type: ignore[operator, no-any-return]

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features (n, d) of pixels (n, C, H, W) in [0, 1]: the input of the head, before any projector."""
        if pixels.dim() != 4 or pixels.shape[1] != self.input_size[0] or not pixels.is_floating_point():
            raise ModelError(
                "images for the classifier",
                expected=f"floats of shape (n, {', '.join(map(str, self.input_size))}) in [0, 1]",
                got=f"{pixels.dtype} of shape {tuple(pixels.shape)}",
                fix="Divide bytes by 255, and add the batch dimension with unsqueeze(0).",
            )
        return shared_pass(self.body, self._features_of, _usual_strides((pixels - self.mean) / self.std))

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (n, b) of features (n, d), through the projector where there is one."""
        if self.projector is not None:
            features = self.projector(features)
        return self.head(features)  # type: ignore[no-any-return]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (n, b) of pixels (n, C, H, W) in [0, 1], on the deployed path."""
        return self.logits(self.features(pixels))

    @property
    def feature_width(self) -> int:
        """d, the width of the features."""
        return self.head.in_features

    @property
    def num_classes(self) -> int:
        """b, the number of outputs."""
        return self.head.out_features

    @property
    def head_name(self) -> str:
        """Name of the head inside the original network."""
        return self.head_names[0]

    @property
    def config(self) -> dict[str, Any]:
        """All that ``config.json`` says: architecture, classes, normalisation, sizes, head, projector."""
        mean, std = self.normalisation
        settings: dict[str, Any] = {
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "mean": list(mean),
            "std": list(std),
            "input_size": list(self.input_size),
            "head": self.head_name,
        }
        if isinstance(self.projector, Projector):
            settings["projector"] = {"width": self.projector.width, "hidden": self.projector.hidden}
        architecture = copy.deepcopy(self.architecture or {"architecture": None})
        if "model_type" in architecture:  # a transformers config keeps its own top level
            return {**architecture, "stakes": settings}
        return {**architecture, **settings}

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As for any module; on a GPU convolutions get channels last, for which its kernels are made."""
        moved = super().to(*args, **kwargs)
        moved._lay_out()
        return moved

    def _lay_out(self) -> None:
        # Not on a CPU: with channels last, fewer than eight of them and a stride, oneDNN writes beyond its buffer
        # (uxlfoundation/oneDNN#6035, open with torch 2.13).
        _arrange(self, torch.channels_last if self.mean.is_cuda else torch.contiguous_format)

    def clone(self) -> Self:
        """A deep copy that shares nothing with this one."""
        return copy.deepcopy(self)

    def exported_state(self) -> dict[str, torch.Tensor]:
        """Weights and buffers under the original network's own names, plus ``projector.*``.

        The tensors are detached but share memory with the classifier: clone them to keep them.
        """
        state = {name: value.detach() for name, value in self.body.state_dict().items()}
        for name in self.head_names:
            for key, value in self.head.state_dict().items():
                state[f"{name}.{key}"] = value.detach()
        if self.projector is not None:
            extra = {f"projector.{k}": v.detach() for k, v in self.projector.state_dict().items()}
            if clash := sorted(extra.keys() & state.keys()):
                raise ModelError(
                    f"the network has its own {clash[0]}",
                    fix="Rename its submodule 'projector': that name is kept for ours.",
                )
            state.update(extra)
        return state

    def fingerprint(self) -> str:
        """SHA-256 of ``exported_state``: equal weights give equal fingerprints on every device."""
        return digest_tensors(self.exported_state())

    def identity(self) -> str:
        """SHA-256 of what it computes and of what its outputs are called: weights, layers, normalisation, class names.

        Equal weights may stand for different functions, so what is kept for a model is kept by this. Not guaranteed
        to tell apart what `stakes.models.wiring` does not see.
        """
        return digest_json(
            {
                "weights": self.fingerprint(),
                "wiring": wiring(self.body),
                "normalisation": digest_tensors({"mean": self.mean, "std": self.std}),
                "input_size": list(self.input_size),
                "class_names": list(self.class_names),
            }
        )

    def to_network(self) -> nn.Module:
        """A copy of the user's own kind of network, head back in place; it takes *normalised* images.

        Raises:
            ModelError: there is a projector, for which the original network has no place.
        """
        if self.projector is not None:
            raise ModelError(
                "the classifier deploys through a projector, and the original network has no place for it",
                fix="Deploy the classifier itself, or unlearn with the path that leaves the projector out.",
            )
        network = copy.deepcopy(self.body)
        head = copy.deepcopy(self.head)
        for name in self.head_names:
            put(network, name, head)
        return network

    def __repr__(self) -> str:
        size = "×".join(map(str, self.input_size))
        projector = (
            "no projector" if self.projector is None else repr(self.projector).splitlines()[0].rstrip("(")
        )
        kind = f"{type(self).__name__}({type(self.body).__name__}"
        return (
            f"{kind}: {size} pixels → {self.feature_width} features "
            f"→ {self.num_classes} classes, head {self.head_name!r}, {projector})"
        )


def _arrange(network: nn.Module, layout: torch.memory_format) -> None:
    """Lay out the weights of convolutions. Those of other classes, derived ones too, may look at theirs with ``view``,
    which asks for the usual layout."""
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.ConvTranspose2d):
            weight: torch.Tensor = module.weight  # type: ignore[assignment]
            weight.data = weight.data.contiguous(memory_format=layout)
            if layout == torch.contiguous_format:
                weight.data = _usual_strides(weight.data)


def _usual_strides(channels: torch.Tensor) -> torch.Tensor:
    """The same, with the strides of the usual layout where there is one channel, whose strides can say either."""
    return channels.squeeze(1).unsqueeze(1) if channels.shape[1] == 1 else channels


@torch.no_grad()
def _check_split(made: Classifier, found: HeadSearch, dummy: torch.Tensor) -> None:
    features = made._features_of(dummy)
    if features.shape != found.features.shape or not torch.allclose(
        made.logits(features), found.logits, rtol=1e-5, atol=1e-6
    ):
        raise ModelError(
            f"taking the head {found.name!r} out changes the network",
            expected="head(features) equal to the network's logits",
            got="other values: the network seems to use its head in more than one place, or at random",
            fix="Give a network whose forward is deterministic in eval mode and ends in that layer.",
        )
