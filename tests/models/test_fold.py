from __future__ import annotations

import pytest
import torch
from tinynets import shake, tiny_transformers
from torch import fx, nn

from stakes.models import Projector, build_network, fold_batchnorm


@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
@pytest.mark.parametrize("projected", [False, True])
def test_same_logits_and_gradients_without_batchnorm(name, projected, classify, pixels):
    model = classify(shake(build_network(name, num_classes=3, width=4, stem="cifar")))
    if projected:
        model.projector = Projector(model.feature_width)
    before = model.fingerprint()
    folded = fold_batchnorm(model.train())
    assert model.training
    assert model.fingerprint() == before
    assert all(p.requires_grad for p in model.parameters())
    model.eval()
    assert not folded.training
    assert isinstance(folded.body, fx.GraphModule)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    pixels.requires_grad_()
    torch.testing.assert_close(folded(pixels), model(pixels), rtol=1e-4, atol=1e-5)
    (ours,), (theirs,) = (torch.autograd.grad(m(pixels)[:, 0].sum(), pixels) for m in (folded, model))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


class Branching(nn.Module):
    """Control flow on values, which a trace cannot follow."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.bn(self.conv(x)).mean((2, 3))
        return self.fc(x if x.sum() > 0 else -x)


class Wrong(nn.Module):
    """Other values when traced than when run."""

    def __init__(self):
        super().__init__()
        self.flat, self.fc = nn.Flatten(), nn.Linear(768, 3)

    def forward(self, x):
        traced = isinstance(x, fx.Proxy)
        return self.fc(self.flat(x) * (2.0 if traced else 1.0))


@pytest.mark.parametrize("build", [lambda: shake(Branching()), Wrong])
def test_falls_back_to_the_plain_classifier(build, classify, pixels):
    model = classify(build())
    folded = fold_batchnorm(model)
    assert not isinstance(folded.body, fx.GraphModule)
    assert torch.equal(folded(pixels), model(pixels))
    assert not any(p.requires_grad for p in folded.parameters())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("kind", ["resnet", "vit", "convnext"])
def test_transformers_keep_their_logits(kind, classify, pixels):
    model = classify(tiny_transformers(kind))
    torch.testing.assert_close(fold_batchnorm(model)(pixels), model(pixels), rtol=1e-4, atol=1e-5)


def test_work_behind_the_head_is_left_out(classify, pixels):
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3), nn.Softmax(1))
    model = classify(network, head="1")
    assert torch.equal(fold_batchnorm(model)(pixels), model(pixels))
