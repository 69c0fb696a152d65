"""Small networks that the tests of this room share."""

from __future__ import annotations

import torch
from torch import nn

NAMES = ("ant", "bee", "cow")
SIZE = (3, 16, 16)


def shake(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight and statistic a value of its own, so that no BatchNorm is an identity."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=draws)
            elif value.is_floating_point() and value.dim() < 2:
                value.add_(torch.empty_like(value).normal_(0, 0.2, generator=draws))
    return module


def tiny_transformers(kind: str, attention: str = "eager") -> nn.Module:
    """A tiny transformers classifier of three classes with seeded random weights."""
    import transformers

    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    config = {
        "resnet": lambda: transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels
        ),
        "vit": lambda: transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
            **labels,
        ),
        "convnext": lambda: transformers.ConvNextConfig(
            num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], image_size=16, **labels
        ),
    }[kind]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: nn.Module = transformers.AutoModelForImageClassification.from_config(
            config, attn_implementation=attention
        )
    return built.eval()
