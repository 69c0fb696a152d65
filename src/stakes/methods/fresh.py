"""A network as it was before it learned anything."""

from __future__ import annotations

import torch

from stakes.errors import ModelError
from stakes.models.classifier import Classifier
from stakes.models.registry import build_described


def reinitialise(model: Classifier, seed: int) -> None:
    """Give every weight and statistic of a classifier its untrained value, in place; its projector goes.

    A network that the library can build is built again with the seed. Any other one is asked layer by layer, by
    ``reset_parameters``.

    Raises:
        ModelError: parameters or running buffers that no layer knows how to reset.
    """
    model.projector = None
    architecture = model.architecture
    if architecture is None:
        with torch.random.fork_rng(devices=_cuda(model)):
            torch.manual_seed(seed)
            _reset(model)
        return
    network = build_described(
        architecture, num_classes=model.num_classes, in_channels=model.input_size[0], seed=seed
    )
    fresh = Classifier.from_network(
        network, class_names=model.class_names, input_size=model.input_size, head=model.head_name
    )
    model.body.load_state_dict(fresh.body.state_dict())
    model.head.load_state_dict(fresh.head.state_dict())


def _reset(model: Classifier) -> None:
    covered: set[int] = set()
    for part in (model.body, model.head):
        for module in part.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                covered |= {id(value) for value in (*module.parameters(), *module.buffers())}
    kept = [part for part in model.state_dict(keep_vars=True).items() if part[1].is_floating_point()]
    left = [name for name, value in kept if id(value) not in covered]
    if left:
        raise ModelError(
            "the network cannot be trained from nothing",
            expected="layers with reset_parameters()",
            got=", ".join(left[:4]) + " without one",
            fix="Give the module that owns them a reset_parameters method, or use oracle-finetune.",
        )


def _cuda(model: Classifier) -> list[torch.device]:
    device = model.head.weight.device
    return [device] if device.type == "cuda" else []
