"""What a network computes beyond its weights: two that differ in a layer without parameters are two networks."""

from __future__ import annotations

import ast
import inspect
import textwrap

from torch import nn

from stakes.files import digest_json

# Their classes are named by their layers' settings; the source of others, the user's own, counts.
_KNOWN = frozenset({"torch", "torchvision", "timm", "transformers", "stakes"})


def wiring(network: nn.Module) -> str:
    """SHA-256 of the layers, their settings and order, and the code of classes that no library has.

    Comments and formatting do not count. Not seen: what a class does by values that its ``extra_repr`` does not tell,
    functions it calls outside its body, and methods replaced on an object.

    Example:
        >>> same = wiring(nn.Sequential(nn.MaxPool2d(2))) == wiring(nn.Sequential(nn.MaxPool2d(2)))
        >>> other = wiring(nn.Sequential(nn.Identity())) == wiring(nn.Sequential(nn.MaxPool2d(2)))
        >>> same, other
        (True, False)
    """
    kinds = {type(module) for module in network.modules()}
    names = sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    own = sorted(_code(kind) for kind in kinds if kind.__module__.partition(".")[0] not in _KNOWN)
    return digest_json({"layers": repr(network), "classes": names, "code": own})


def _code(kind: type[nn.Module]) -> str:
    try:
        return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(kind))))
    except (OSError, TypeError, SyntaxError):  # typed in at a prompt, for example
        return kind.__qualname__
