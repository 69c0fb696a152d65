"""Where a network ends in a linear layer: finding the head and taking it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stakes.errors import ModelError


@dataclass(frozen=True)
class HeadSearch:
    """What one forward pass told about the linear layers of a network.

    Attributes:
        name: dotted name of the head.
        aliases: all names under which the same module is registered, ``name`` first.
        head: the linear layer itself.
        features: its input on the dummy batch, (n, d).
        logits: its output on the dummy batch, (n, classes).
    """

    name: str
    aliases: tuple[str, ...]
    head: nn.Linear
    features: torch.Tensor
    logits: torch.Tensor


class Tap(nn.Module):
    """Stands where the head was, keeps what arrives, and hands on zeros of the head's shape.

    Needed only where a network works on after its head (a softmax, a temperature): that work then runs on
    zeros and its result is thrown away, so that it can neither change the features nor fail on their width.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self._seen: torch.Tensor | None = None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Keep features (n, d); return zeros (n, classes)."""
        self._seen = features
        return features.new_zeros(*features.shape[:-1], self.classes)

    def take(self) -> torch.Tensor:
        """The features of the last pass, once: nothing is held afterwards."""
        seen, self._seen = self._seen, None
        if seen is None:
            raise ModelError("the network did not reach its head in this pass")
        return seen


def plain_logits(output: Any) -> torch.Tensor:
    """The logits in a network's output: a tensor, or an object with ``.logits`` as in ``transformers``.

    Raises:
        ModelError: the output is neither.
    """
    if isinstance(output, torch.Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    raise ModelError(
        "output of the network",
        expected="a tensor of logits, or an object with .logits",
        got=type(output).__name__,
        fix="Wrap the network in a module whose forward returns the logits alone.",
    )


@torch.no_grad()
def find_head(network: nn.Module, dummy: torch.Tensor, name: str | None = None) -> HeadSearch:
    """Find the linear layer that makes the logits, by running a batch through the network.

    Without a name, the head is the one linear layer with a 2-D input whose output *is* the network's output.
    With a name, that layer is taken where its argmax agrees with the network's (so a softmax or a temperature
    behind it is allowed).

    Args:
        network: any network whose forward takes one batch of images; put it in eval mode first.
        dummy: normalised images (n, C, H, W).
        name: dotted name of the head, as in ``network.named_modules()``.

    Raises:
        ModelError: no layer or several fit, the named one does not, or the network cannot run on the batch.
    """
    linears = {key: layer for key, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(key: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_module: nn.Module, inputs: Any, output: Any) -> None:
            if inputs:
                seen[key] = (inputs[0].clone(), output.clone())  # against later in-place changes

        return note

    handles = [layer.register_forward_hook(watch(key)) for key, layer in linears.items()]
    try:
        output = plain_logits(network(dummy))
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(
            f"the network cannot run on a batch of shape {tuple(dummy.shape)} ({error})",
            fix="Check input_size (channels, height, width) and that forward takes the images alone.",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    key = _automatic(output, seen, linears) if name is None else _named(name, output, seen, linears)
    features, logits = seen[key]
    head = linears[key]
    others = [k for k, m in network.named_modules(remove_duplicate=False) if m is head and k != key]
    return HeadSearch(key, (key, *others), head, features, logits)


def _automatic(
    output: torch.Tensor, seen: dict[str, tuple[torch.Tensor, torch.Tensor]], linears: dict[str, nn.Linear]
) -> str:
    fitting = [
        key
        for key, (features, logits) in seen.items()
        if features.dim() == 2 and logits.shape == output.shape and torch.equal(logits, output)
    ]
    if len(fitting) == 1:
        return fitting[0]
    raise ModelError(
        "the head of the network is ambiguous" if fitting else "the network has no head that can be found",
        expected="one linear layer with a 2-D input whose output is the network's output",
        got=_listing(fitting or list(linears), linears),
        fix='Name it: head="NAME"; the network may work on behind it as long as the predicted class stays.'
        if linears
        else "End the network in a linear layer: other heads cannot be split off.",
    )


def _named(
    name: str,
    output: torch.Tensor,
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]],
    linears: dict[str, nn.Linear],
) -> str:
    if name not in linears:
        raise ModelError(
            f"head {name!r} is not a linear layer of the network",
            expected="one of its linear layers",
            got=_listing(list(linears), linears),
            fix='Pass head="NAME" with one of these names.',
        )
    features, logits = seen.get(name, (None, None))
    if (
        features is None
        or logits is None
        or features.dim() != 2
        or logits.shape != output.shape
        or not torch.equal(logits.argmax(1), output.argmax(1))
    ):
        raise ModelError(
            f"linear layer {name!r} is not the head of the network",
            expected="a 2-D input, and the same shape and predicted classes as the network's output",
            got=_listing([name], linears),
            fix=f"Its linear layers are {_listing(list(linears), linears)}: pass head with another name.",
        )
    return name


def _listing(names: list[str], linears: dict[str, nn.Linear], most: int = 8) -> str:
    if not names:
        return "no linear layer"
    shown = [f"{key} ({linears[key].in_features} → {linears[key].out_features})" for key in names[-most:]]
    return ("… " if len(names) > most else "") + ", ".join(shown)


def put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule of the dotted ``name``."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def take_out(body: nn.Module, found: HeadSearch, dummy: torch.Tensor) -> None:
    """Put an identity where the head is, or a tap where the network works on behind its head."""
    stand_in: nn.Module = nn.Identity()
    for name in found.aliases:
        put(body, name, stand_in)
    if not _passes(body, dummy, found.features):
        stand_in = Tap(found.head.out_features)
        for name in found.aliases:
            put(body, name, stand_in)


@torch.no_grad()
def _passes(body: nn.Module, dummy: torch.Tensor, features: torch.Tensor) -> bool:
    try:
        output = plain_logits(body(dummy))
    except RuntimeError:  # what follows the head does not take features
        return False
    return torch.equal(output, features)
