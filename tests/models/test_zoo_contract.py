"""Networks of timm and torchvision keep the contract of every architecture. `make test-zoo` runs this."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tinynets import NAMES, shake

from stakes.anchors.anchors import Anchors
from stakes.api import unlearn
from stakes.models import Classifier, build_network, load_checkpoint, save_checkpoint
from stakes.models.fold import fold_batchnorm

# Small ones, one a family: plain and bottleneck ResNets, depthwise and squeeze-excite, dense, transformers,
# ConvNeXt, MLP. Each at the smallest size it takes.
ZOO: list[tuple[str, int, dict[str, Any]]] = [
    ("timm:resnet10t", 32, {}),
    ("timm:resnet26", 32, {}),
    ("timm:mobilenetv3_small_050", 32, {}),
    ("timm:efficientnet_b0", 32, {}),
    ("timm:regnety_002", 32, {}),
    ("timm:convnext_atto", 32, {}),
    ("timm:vit_tiny_patch16_224", 32, {"img_size": 32}),
    ("timm:deit_tiny_patch16_224", 32, {"img_size": 32}),
    ("timm:swin_tiny_patch4_window7_224", 56, {"img_size": 56}),
    ("timm:mixer_s32_224", 64, {"img_size": 64}),
    ("torchvision:resnet18", 32, {}),
    ("torchvision:resnext50_32x4d", 32, {}),
    ("torchvision:densenet121", 32, {}),
    ("torchvision:mobilenet_v2", 32, {}),
    ("torchvision:mobilenet_v3_small", 32, {}),
    ("torchvision:efficientnet_b0", 32, {}),
    ("torchvision:shufflenet_v2_x0_5", 32, {}),
    ("torchvision:regnet_y_400mf", 64, {}),
    ("torchvision:convnext_tiny", 32, {}),
    ("torchvision:vit_b_16", 32, {"image_size": 32}),
    ("torchvision:swin_t", 32, {}),
    ("torchvision:vgg11_bn", 32, {}),
]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.fixture(params=ZOO, ids=[name for name, _, _ in ZOO], scope="module")
def built(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, int, Classifier]:
    architecture, side, options = request.param
    library = architecture.split(":")[0]
    pytest.importorskip(library, reason=f"{library} is an optional dependency; `make test-zoo` brings it")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = shake(build_network(architecture, num_classes=3, **options))
        heads = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
        torch.nn.init.normal_(heads[-1].weight, std=0.1)  # some start at zero, where no gradient passes
    model = Classifier.from_network(
        network.train(), class_names=NAMES, input_size=(3, side, side), mean=MEAN, std=STD
    )
    return network, side, model


def draw(side: int, count: int = 3) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(0))


def test_the_split_changes_nothing(built: tuple[torch.nn.Module, int, Classifier]) -> None:
    network, side, model = built
    pixels, state = draw(side), copy.deepcopy(network.state_dict())
    normal = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    plain = copy.deepcopy(network).eval()
    assert torch.equal(model(pixels), plain(normal))
    assert torch.equal(model.head(model.features(pixels)), model(pixels))
    assert model.features(pixels).shape == (3, model.feature_width)
    assert model.exported_state().keys() == state.keys()
    assert torch.equal(model.to_network().eval()(normal), model(pixels))


def test_a_reload_gives_the_same_bits(built: tuple[torch.nn.Module, int, Classifier], tmp_path: Path) -> None:
    _, side, model = built
    save_checkpoint(model, tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved")
    assert again.fingerprint() == model.fingerprint()
    assert torch.equal(again(draw(side)), model(draw(side)))


def test_gradients_reach_input_and_head(built: tuple[torch.nn.Module, int, Classifier]) -> None:
    _, side, model = built
    pixels = draw(side).requires_grad_()
    (gradient,) = torch.autograd.grad(model(pixels).logsumexp(1).sum(), pixels)
    assert bool((gradient != 0).any())
    clone = model.clone().train()
    clone(draw(side)).sum().backward()
    assert clone.head.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_folding_batchnorm_keeps_the_answers(built: tuple[torch.nn.Module, int, Classifier]) -> None:
    _, side, model = built
    torch.testing.assert_close(fold_batchnorm(model)(draw(side)), model(draw(side)), rtol=1e-3, atol=1e-4)


# torch has no vmap for its fast attention on the CPU and says that it takes a slower way.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(
    ("method", "preset"), [("structguard", "default"), ("structguard", "paper"), ("l2ul", None)]
)
def test_it_can_be_unlearned(
    built: tuple[torch.nn.Module, int, Classifier], method: str, preset: str | None, tmp_path: Path
) -> None:
    _, side, model = built
    before = model.fingerprint()
    result = unlearn(
        model,
        (draw(side), model(draw(side)).argmax(1)),
        anchors=Anchors(torch.eye(3, 8), NAMES),
        method=method,
        preset=preset,
        settings={
            "probes.per_image": 2,
            "probes.iterations": 2,
            "probes.epsilon": 1.0,
            "probes.inversion.batches": 1,
            "probes.inversion.batch": 4,
            "probes.inversion.iterations": 2,
            "probe_batch": 4,
            "max_steps": 2,
            "lr": 1e-4,  # untrained networks diverge easily
            # Some answer alike whatever they see; statistics of such a batch have no spread, and gradients overflow.
            "batchnorm": "freeze",
        },
        out=tmp_path / "run",
        cache=tmp_path / "cache",
        device="cpu",
    )
    assert model.fingerprint() == before
    assert result.classifier.fingerprint() == result.record.hashes.model_after != before
    assert load_checkpoint(tmp_path / "run").fingerprint() == result.record.hashes.model_after
