"""A faster copy of a classifier whose weights no longer change: BatchNorm folded into the convolutions."""

from __future__ import annotations

import torch
from torch import nn

from stakes.models.classifier import Classifier

# Folding only reorders float32 roundings; a larger difference means that the graph lost something.
_TOLERANCE = 1e-4


@torch.no_grad()
def fold_batchnorm(classifier: Classifier) -> Classifier:
    """An eval-mode copy with convolution and BatchNorm pairs merged: the same logits in less time.

    BatchNorm in eval mode is the affine map y = γ (x − μ)/√(v + ε) + β, so the pair is one convolution with
    weights w · γ/√(v + ε) and bias (c − μ) · γ/√(v + ε) + β.

    On one CPU core a ResNet-18 on 32×32 images needs 6 % less time forward and 13 to 16 % less forward and backward to
    the pixels; other networks and devices differ.

    Args:
        classifier: any classifier; it is not changed.

    Returns:
        The copy. Its parameters need no gradient (gradients to the pixels still flow), its logits differ from
        the original's by at most 1e-4 of the largest logit on a dummy batch. Where the network cannot be
        traced by ``torch.fx`` or the logits differ more, a plain eval-mode copy.

    Example:
        >>> from stakes.models import build_network
        >>> network = build_network("resnet10", num_classes=2)
        >>> model = Classifier.from_network(network, class_names=["cat", "dog"], input_size=(3, 8, 8))
        >>> fold_batchnorm(model)(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 2])

    Source:
        Jacob et al. 2018, section 3.2; done by ``torch.fx.experimental.optimization.fuse``. The copy is for
        making probes and measuring, not for saving: its weights have other names.
    """
    plain = classifier.clone().eval().requires_grad_(False)
    body = _folded(plain.body)
    if body is None:
        return plain
    folded = plain.clone()
    folded.body = body.requires_grad_(False)
    return folded if _agree(plain, folded) else plain


def _folded(body: nn.Module) -> nn.Module | None:
    from torch.fx.experimental.optimization import fuse

    try:
        folded: nn.Module = fuse(body)
    # What fx raises on networks that it cannot trace, from control flow to unusual BatchNorms.
    except (
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
        NotImplementedError,
        AssertionError,
    ):
        return None
    return folded.eval()


def _agree(plain: Classifier, folded: Classifier) -> bool:
    pixels = torch.rand((4, *plain.input_size), generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(plain.mean)
    try:
        # TF32 rounds more coarsely than what is looked for.
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            wanted, got = plain(pixels), folded(pixels)
    except (RuntimeError, TypeError, AttributeError):
        return False
    worst = (wanted - got).abs().max()
    return bool(worst <= _TOLERANCE * wanted.abs().max())
