"""Residual networks for small and large images, with the parameter names of torchvision's checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from stakes.errors import ConfigError

Stem = Literal["imagenet", "cifar", "cifar-maxpool"]
STEMS: tuple[Stem, ...] = get_args(Stem)


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


def _conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut (He et al. 2016, Fig. 5 left).

    Args:
        inputs: channels in.
        width: channels of the block; also channels out.
        stride: stride of the first convolution and of the shortcut.
    """

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, inputs, h, w) to (n, width, h/stride, w/stride), non-negative."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions around a shortcut (He et al. 2016, Fig. 5 right; stride in the 3×3).

    Args:
        inputs: channels in.
        width: channels of the 3×3 convolution; four times as many go out.
        stride: stride of the 3×3 convolution and of the shortcut.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = _conv1x1(inputs, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv1x1(width, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, inputs, h, w) to (n, 4 · width, h/stride, w/stride), non-negative."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + shortcut)  # type: ignore[no-any-return]


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, depth: int, *, stride: int
) -> nn.Sequential:
    blocks = [block(inputs, width, stride)]
    blocks += [block(width * block.expansion, width) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """A residual network: stem, four stages, global average pooling, one linear layer ``fc``.

    Args:
        name: what the network is called in ``config.json``.
        block: ``BasicBlock`` or ``Bottleneck``.
        depths: blocks per stage, four numbers.
        num_classes: outputs of ``fc``.
        stem: ``imagenet`` (7×7 stride 2, then max-pool), ``cifar`` (3×3 stride 1, no pool) or
            ``cifar-maxpool`` (3×3 stride 1, then 3×3 max-pool stride 2: the paper's baselines).
        in_channels: channels of the image, 3 for colour and 1 for grey.
        width: channels of the first stage; each later stage doubles it.

    Raises:
        ConfigError: an unknown stem, or a number below 1.

    Example:
        >>> network = resnet18(num_classes=10, stem="cifar-maxpool")
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016. Weights are drawn from the global
        generator, as in every PyTorch module: ``build_network`` seeds it and puts it back.
    """

    def __init__(
        self,
        name: str,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        num_classes: int,
        stem: Stem = "imagenet",
        in_channels: int = 3,
        width: int = 64,
    ) -> None:
        super().__init__()
        _check(num_classes=num_classes, in_channels=in_channels, width=width)
        if stem not in STEMS:
            raise ConfigError(
                "unknown stem", expected=" or ".join(STEMS), got=repr(stem), fix="Choose one of these."
            )
        self.description: dict[str, Any] = {
            "architecture": name,
            "stem": stem,
            "in_channels": in_channels,
            "width": width,
        }
        self.conv1 = (
            nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
            if stem == "imagenet"
            else _conv3x3(in_channels, width)
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, stride=2, padding=1)
        out = block.expansion * width
        self.layer1 = _stage(block, width, width, depths[0], stride=1)
        self.layer2 = _stage(block, out, 2 * width, depths[1], stride=2)
        self.layer3 = _stage(block, 2 * out, 4 * width, depths[2], stride=2)
        self.layer4 = _stage(block, 4 * out, 8 * width, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * out, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, num_classes) of normalised images (n, in_channels, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(name, expected="a whole number of at least 1", got=str(number))


def resnet10(*, num_classes: int, stem: Stem = "cifar", in_channels: int = 3, width: int = 16) -> ResNet:
    """One basic block per stage and few channels: 8 · ``width`` features, for images of 8×8 and up."""
    return ResNet(
        "resnet10",
        BasicBlock,
        (1, 1, 1, 1),
        num_classes=num_classes,
        stem=stem,
        in_channels=in_channels,
        width=width,
    )


def resnet18(*, num_classes: int, stem: Stem = "imagenet", in_channels: int = 3, width: int = 64) -> ResNet:
    """ResNet-18: two basic blocks per stage, 512 features at the usual width of 64."""
    return ResNet(
        "resnet18",
        BasicBlock,
        (2, 2, 2, 2),
        num_classes=num_classes,
        stem=stem,
        in_channels=in_channels,
        width=width,
    )


def resnet50(*, num_classes: int, stem: Stem = "imagenet", in_channels: int = 3, width: int = 64) -> ResNet:
    """ResNet-50: 3, 4, 6, 3 bottlenecks, 2048 features at the usual width of 64."""
    return ResNet(
        "resnet50",
        Bottleneck,
        (3, 4, 6, 3),
        num_classes=num_classes,
        stem=stem,
        in_channels=in_channels,
        width=width,
    )
