"""Preconditioning by the inputs of layers: P in closed form, patch by patch, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stakes.methods import curvature
from stakes.methods.curvature import InputCurvature

DAMPING = 0.1


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=draws(seed))


def measured(network: nn.Module, *batches: Tensor, **call: Any) -> InputCurvature:
    return InputCurvature(network, batches, **{"damping": DAMPING, "draws": draws()} | call)


def applied(curve: InputCurvature, network: nn.Module, layer: nn.Module, gradient: Tensor) -> np.ndarray:
    layer.weight.grad = gradient.clone()
    curve.apply(network)
    return layer.weight.grad.double().numpy()


def p_of(rows: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """δ (A + δ I)⁻¹ of rows (n, inputs), A with mean eigenvalue 1."""
    covariance = rows.T @ rows / len(rows)
    covariance /= np.linalg.eigvalsh(covariance).mean()
    return damping * np.linalg.inv(covariance + damping * np.eye(len(covariance)))


def patches(inputs: np.ndarray, conv: nn.Conv2d) -> np.ndarray:
    """All that the kernel sees, place by place: (n · places, C · kh · kw)."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    padded = np.pad(inputs, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    rows = []
    for image in padded:
        for top in range(0, image.shape[1] - dh * (kh - 1), sh):
            for left in range(0, image.shape[2] - dw * (kw - 1), sw):
                seen = [
                    image[c, top + dh * i, left + dw * j]
                    for c in range(len(image))
                    for i in range(kh)
                    for j in range(kw)
                ]
                rows.append(seen)
    return np.array(rows)


# -- P ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 5), (4, 3, 5), (2, 3, 4, 5)], ids=["rows", "tokens", "deeper"])
@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_a_linear_layer(shape, damping):
    network = nn.Sequential(nn.Linear(5, 3))
    pixels, gradient = rand(*shape), rand(3, 5, seed=1)
    found = applied(measured(network, pixels, damping=damping), network, network[0], gradient)
    rows = pixels.double().numpy().reshape(-1, 5)
    assert np.allclose(found, gradient.double().numpy() @ p_of(rows, damping), atol=1e-4)


@pytest.mark.parametrize("count", [4, 12])
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_a_layer_with_too_many_inputs_for_a_covariance(count, damping, monkeypatch):
    monkeypatch.setattr(curvature, "WIDE", 5)
    network = nn.Sequential(nn.Linear(9, 3))
    pixels, gradient = rand(count, 9), rand(3, 9, seed=1)
    found = applied(measured(network, *pixels.split(3), damping=damping), network, network[0], gradient)
    seen = pixels[torch.randperm(count, generator=draws())[:5]] if count > 5 else pixels
    assert np.allclose(found, gradient.double().numpy() @ p_of(seen.double().numpy(), damping), atol=1e-5)
    nothing = applied(measured(network, torch.zeros(2, 9)), network, network[0], gradient)
    assert np.array_equal(nothing, gradient.double().numpy()), "inputs that are never used are free"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"padding": 1},
        {"padding": (0, 2), "stride": (2, 1)},
        {"dilation": 2},
        {"padding": 2, "dilation": (2, 1), "stride": 2},
        {"kernel_size": (3, 2), "padding": (1, 0)},
        {"kernel_size": 1, "stride": 2},
    ],
    ids=str,
)
def test_a_convolution(options):
    conv = nn.Conv2d(2, 3, **{"kernel_size": 3} | options)
    network = nn.Sequential(conv)
    pixels, gradient = rand(5, 2, 7, 6), rand(*conv.weight.shape, seed=1)
    found = applied(measured(network, pixels), network, conv, gradient)
    rows = patches(pixels.double().numpy(), conv)
    assert len(rows) == network(pixels).flatten(2).shape[2] * 5, "as many places as the output has"
    wanted = gradient.double().numpy().reshape(3, -1) @ p_of(rows)
    assert np.allclose(found, wanted.reshape(found.shape), atol=1e-4)


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "dilation": 2}])
def test_channels_alone(options):
    conv = nn.Conv2d(4, 3, 3, **options)
    network = nn.Sequential(conv)
    pixels, gradient = rand(5, 4, 7, 6), rand(*conv.weight.shape, seed=1)
    found = applied(measured(network, pixels, extent="channels"), network, conv, gradient)
    one = p_of(np.moveaxis(pixels.double().numpy(), 1, -1).reshape(-1, 4))
    before = gradient.double().numpy()
    for row in range(3):
        for column in range(3):
            assert np.allclose(found[:, :, row, column], before[:, :, row, column] @ one, atol=1e-4)


def test_probes_that_use_few_of_many_channels():
    """Covariances of rank 2 in 64 channels: float32 must neither fail nor lose P."""
    conv = nn.Conv2d(64, 3, 3)
    pixels = torch.einsum("nrhw,rc->nchw", rand(5, 2, 7, 6), rand(2, 64, seed=2))
    gradient = rand(3, 64, 3, 3, seed=1)
    found = applied(
        measured(nn.Sequential(conv), pixels, extent="kronecker"), nn.Sequential(conv), conv, gradient
    )
    wanted = gradient.double().numpy().reshape(3, -1) @ _kronecker(pixels, conv)
    assert np.linalg.norm(found.reshape(3, -1) - wanted) < 1e-4 * np.linalg.norm(wanted)


def _kronecker(pixels: Tensor, conv: nn.Conv2d) -> np.ndarray:
    """δ (A_C ⊗ A_K + δ I)⁻¹ as a whole, each factor with mean eigenvalue 1."""
    seen = patches(pixels.double().numpy(), conv).reshape(-1, conv.in_channels, conv.weight[0, 0].numel())
    factors = [np.einsum("nck,ndk->cd", seen, seen), np.einsum("nck,ncl->kl", seen, seen)]
    whole = np.kron(*(factor / np.linalg.eigvalsh(factor).mean() for factor in factors))
    return DAMPING * np.linalg.inv(whole + DAMPING * np.eye(len(whole)))


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "dilation": 2}, {"kernel_size": (3, 2)}])
def test_channels_and_places_apart(options):
    conv = nn.Conv2d(4, 3, **{"kernel_size": 3} | options)
    network = nn.Sequential(conv)
    pixels, gradient = rand(5, 4, 7, 6), rand(*conv.weight.shape, seed=1)
    found = applied(measured(network, pixels, extent="kronecker"), network, conv, gradient)
    wanted = gradient.double().numpy().reshape(3, -1) @ _kronecker(pixels, conv)
    assert np.allclose(found, wanted.reshape(found.shape), atol=1e-4)


def test_one_pixel_kernels_have_one_p_whatever_the_extent():
    conv = nn.Conv2d(4, 3, 1)
    network, pixels, gradient = nn.Sequential(conv), rand(5, 4, 3, 3), rand(3, 4, 1, 1, seed=1)
    first, second, third = (
        applied(measured(network, pixels, extent=extent), network, conv, gradient)
        for extent in ("patches", "kronecker", "channels")
    )
    assert np.allclose(first, second, atol=1e-6)
    assert np.allclose(first, third, atol=1e-6)


def test_a_later_layer_sees_what_the_earlier_ones_make():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4)).eval()
    pixels, gradient = rand(9, 1, 8, 8), rand(4, 18, seed=1)
    inputs = network[:3](pixels).detach().double().numpy()
    found = applied(measured(network, pixels), network, network[3], gradient)
    assert np.allclose(found, gradient.double().numpy() @ p_of(inputs), atol=1e-4)


def test_batches_add_up():
    network, pixels = nn.Sequential(nn.Linear(5, 3)), rand(10, 5)
    gradient = rand(3, 5, seed=1)
    whole = applied(measured(network, pixels), network, network[0], gradient)
    parts = applied(measured(network, pixels[:7], pixels[7:]), network, network[0], gradient)
    assert np.allclose(whole, parts, atol=1e-6)
    assert not np.allclose(
        whole, applied(measured(network, pixels[:7]), network, network[0], gradient), atol=1e-3
    )


# -- what it does ------------------------------------------------------------------------------------------------


def test_a_used_direction_is_shrunk_and_an_unused_one_is_not():
    """Inputs in a subspace: outside of it nothing changes; inside, δ/(λ + δ) of each direction is left."""
    basis = torch.linalg.qr(rand(6, 6))[0]
    inputs = rand(50, 2, seed=1) * torch.tensor([3.0, 1.0]) @ basis[:2]
    network = nn.Sequential(nn.Linear(6, 1))
    curve = measured(network, inputs)
    for free in basis[2:]:
        assert np.allclose(
            applied(curve, network, network[0], free[None]), free[None].double().numpy(), atol=1e-4
        )
    covariance = (inputs.T @ inputs).double().numpy()
    values, vectors = np.linalg.eigh(covariance / (np.trace(covariance) / 6))
    for value, vector in zip(values[-2:], vectors.T[-2:], strict=True):
        found = applied(curve, network, network[0], torch.tensor(vector[None], dtype=torch.float32))
        assert np.allclose(found, vector * DAMPING / (value + DAMPING), atol=1e-4)


@pytest.mark.parametrize("extent", ["patches", "channels"])
def test_a_step_spares_what_the_network_does_on_the_probes(extent):
    """To change the answer on one image by so much, a preconditioned step changes those on the probes less."""
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in layers[::3]:
            layer.reset_parameters()
    network = nn.Sequential(*layers)
    pattern, mark = rand(5, 48), rand(1, 3, 4, 4, seed=2)
    probes = (rand(40, 5, seed=1) @ pattern).view(40, 3, 4, 4)
    spoiled = {}
    for kind in ("plain", "preconditioned"):
        network.zero_grad()
        network(mark)[0, 0].backward()
        if kind == "preconditioned":
            measured(network, probes, extent=extent).apply(network)
        with torch.no_grad():
            before = network(probes), network(mark)[0, 0]
            step = 1e-3 / sum(float(p.grad.square().sum()) for p in network.parameters()) ** 0.5
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    parameter -= step * parameter.grad
            spoiled[kind] = float((network(probes) - before[0]).norm() / (before[1] - network(mark)[0, 0]))
            assert before[1] > network(mark)[0, 0], "still downhill"
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    parameter += step * parameter.grad
    assert spoiled["preconditioned"] < 0.7 * spoiled["plain"]


def test_probes_that_are_black_leave_everything_as_it_is():
    network, gradient = nn.Sequential(nn.Linear(5, 3)), rand(3, 5, seed=1)
    found = applied(measured(network, torch.zeros(4, 5)), network, network[0], gradient)
    assert np.array_equal(found, gradient.double().numpy())


# -- what it leaves alone ----------------------------------------------------------------------------------------


class _Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(4, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.named = nn.Conv2d(4, 4, 3, padding="same")
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 2)
        self.idle = nn.Linear(4, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.last(self.norm(self.named(self.grouped(self.plain(pixels)))).mean((2, 3)))


@pytest.mark.parametrize("extent", ["patches", "channels"])
def test_only_weights_of_linear_layers_and_whole_convolutions_change(extent):
    network = _Odd().eval()
    curve = measured(network, rand(6, 4, 5, 5), extent=extent)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    curve.apply(network)
    changed = {name for name, value in network.named_parameters() if not bool((value.grad == 1).all())}
    assert changed == {"plain.weight", "last.weight"}
    assert names_of(curve, network) == ["plain.weight", "last.weight"]
    assert all(value.grad.shape == value.shape for value in network.parameters())


class _Attending(nn.Module):
    """A transformer as PyTorch builds one: its attention multiplies by weights of layers that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(4, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        words = pixels.flatten(2).transpose(1, 2)
        return self.last((words + self.attention(words, words, words)[0]).mean(1))


def test_a_layer_whose_inputs_are_not_seen_is_not_trained():
    network = _Attending().eval()
    assert isinstance(network.attention.out_proj, nn.Linear)
    curve = measured(network, rand(6, 4, 3, 3), extent="kronecker")
    assert names_of(curve, network) == ["last.weight"]


@pytest.mark.parametrize(
    ("stem", "trained"),
    [
        (nn.Conv2d(3, 4, 2, 2), False),
        (nn.Conv2d(3, 4, (2, 3), (2, 3)), False),
        (nn.Conv2d(3, 4, 3, 2), True),
        (nn.Conv2d(3, 4, 2), True),
        (nn.Conv2d(3, 4, 1), True),
    ],
    ids=["patches", "oblong patches", "overlapping", "one step", "pixel by pixel"],
)
def test_a_layer_that_cuts_pixels_into_patches_is_not_trained(stem, trained):
    deeper = nn.Conv2d(4, 4, 2, 2)
    network = nn.Sequential(stem, deeper, nn.Flatten(), nn.LazyLinear(2))
    pixels = rand(6, 3, 12, 12)
    network(pixels)
    wanted = ["1.weight", "3.weight"]
    assert names_of(measured(network, pixels), network) == (["0.weight"] if trained else []) + wanted


def test_a_weight_that_two_layers_share_is_trained_once():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    assert names_of(measured(network, rand(6, 4)), network) == ["0.weight"]


def names_of(curve: InputCurvature, network: nn.Module) -> list[str]:
    """Of the weights that are trained."""
    named = {id(parameter): name for name, parameter in network.named_parameters()}
    return [named[id(weight)] for weight in curve.weights(network)]


def test_a_layer_without_gradient_stays_without():
    network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    curve = measured(network, rand(6, 5))
    network[1].weight.grad = rand(3, 4)
    curve.apply(network)
    assert network[0].weight.grad is None
    assert network[1].weight.grad is not None


def test_it_serves_another_network_of_the_same_build():
    network, other = nn.Sequential(nn.Linear(5, 3)), nn.Sequential(nn.Linear(5, 3))
    pixels, gradient = rand(9, 5), rand(3, 5, seed=1)
    curve = measured(network, pixels)
    assert np.array_equal(
        applied(curve, other, other[0], gradient), applied(curve, network, network[0], gradient)
    )


def test_measuring_leaves_no_trace():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    measured(network, rand(3, 2, 4, 4))

    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        measured(network, rand(3, 2, 4, 4), forward=broken)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_of_very_many_rows_drawn_ones_stand_for_all(monkeypatch):
    network, pixels, gradient = nn.Sequential(nn.Linear(5, 3)), rand(60, 5), rand(3, 5, seed=1)
    untouched = draws()
    measured(network, pixels, draws=untouched)
    assert torch.equal(untouched.get_state(), draws().get_state()), "nothing to draw"
    monkeypatch.setattr(curvature, "ROWS", 20)
    chosen = torch.randperm(60, generator=draws(4))[:20]
    found = applied(measured(network, pixels, draws=draws(4)), network, network[0], gradient)
    assert np.allclose(found, gradient.double().numpy() @ p_of(pixels[chosen].double().numpy()), atol=1e-4)
    assert not np.allclose(
        found, applied(measured(network, pixels, draws=draws(5)), network, network[0], gradient), atol=1e-4
    )
