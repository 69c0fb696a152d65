r"""Structure: affinities of features to anchors, how they change, and which parameters they hang on (paper 3.2, 3.3).

Pure functions of tensors. ``S`` is an affinity matrix of n instances (rows) and b anchors (columns), each entry
the cosine of a feature vector and an anchor, in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.errors import ConfigError
from stakes.memory import Fitting

Alignment = Literal["cosine", "mse", "mmd", "kl", "wasserstein"]
Axis = Literal["instance", "anchor"]
Parameters = Mapping[str, Tensor]


def affinity(features: Tensor, anchors: Tensor) -> Tensor:
    """S = norm(V) Aᵀ, the structure (paper eq. 1).

    Args:
        features: (n, d), any scale; each row is L2-normalised.
        anchors: (b, d) with unit rows.

    Returns:
        (n, b) cosines in [-1, 1].

    Example:
        >>> affinity(torch.tensor([[2.0, 0.0]]), torch.eye(2))
        tensor([[1., 0.]])
    """
    return F.normalize(features, dim=1) @ anchors.T


def alignment_loss(
    original: Tensor, unlearned: Tensor, kind: Alignment = "cosine", axis: Axis = "anchor"
) -> Tensor:
    """How far the unlearned structure is from the original one; lower is closer (paper eq. 2 and Table 6).

    ``cosine``: minus the mean cosine of matching columns (``axis="anchor"``, the paper's sum over b) or of matching
    rows (``axis="instance"``), in [-1, 1]. ``mse``: mean squared difference. ``kl``: mean over rows of
    KL(softmax S_ori ‖ softmax S_unl). ``wasserstein``: mean over columns of the 1-Wasserstein distance between
    the two empirical distributions of affinities. ``mmd``: squared maximum mean discrepancy of the rows, Gaussian
    kernel, bandwidth the median squared distance between different rows of S_ori (1 where there is but one row).
    The last four are at least 0, up to rounding.
    ``axis`` matters for ``cosine`` only.

    Args:
        original: S_ori, (n, b).
        unlearned: S_unl, (n, b).

    Raises:
        ConfigError: shapes differ, unknown kind or axis.

    Note:
        On one instance the cosine of columns is ±1 with zero gradient: use ``axis="instance"`` there.
        The paper names the other four measures without formulas; these are their usual forms.

    Example:
        >>> S = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
        >>> round(alignment_loss(S, 2 * S).item(), 4)
        -1.0
    """
    if original.shape != unlearned.shape or original.ndim != 2:
        raise ConfigError(
            "alignment",
            expected="two matrices (n, b) of one shape",
            got=f"{original.shape}, {unlearned.shape}",
        )
    if kind == "cosine":
        if axis not in get_args(Axis):
            raise ConfigError("alignment axis", expected="instance or anchor", got=repr(axis))
        return -F.cosine_similarity(original, unlearned, dim=1 if axis == "instance" else 0).mean()
    if kind == "mse":
        return F.mse_loss(unlearned, original)
    if kind == "kl":
        target = F.log_softmax(original, dim=1)
        return F.kl_div(F.log_softmax(unlearned, dim=1), target, reduction="batchmean", log_target=True)
    if kind == "wasserstein":
        return (original.sort(dim=0).values - unlearned.sort(dim=0).values).abs().mean()
    if kind == "mmd":
        return _mmd(original, unlearned)
    raise ConfigError("alignment loss", expected="one of " + ", ".join(get_args(Alignment)), got=repr(kind))


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    """Biased (V-statistic) squared MMD; squared distances avoid the root's infinite slope at 0."""
    within = _squared_distances(x, x)
    pairs = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    between = within.detach()[pairs[0], pairs[1]]
    bandwidth = between.median().clamp_min(1e-6) if len(between) else 1.0
    kernels = [
        torch.exp(-d / bandwidth) for d in (within, _squared_distances(y, y), _squared_distances(x, y))
    ]
    return kernels[0].mean() + kernels[1].mean() - 2 * kernels[2].mean()


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(1) - y.unsqueeze(0)).square().sum(dim=2)


def structural_collapse(before: Tensor, now: Tensor) -> Tensor:
    """Mean absolute change of the affinities of retained images (paper Fig. 2).

        collapse = 1/(n b) Σ_ij |S_now,ij − S_before,ij|

    Unit: cosine, in [0, 2]; 0 means that no affinity moved. Both matrices hold the same images in the same order
    and the same anchors. The paper shows the quantity without a formula; this is the one used everywhere here.

    Example:
        >>> structural_collapse(torch.zeros(1, 2), torch.tensor([[0.5, -0.1]])).item()
        0.30000001192092896
    """
    return (now - before).abs().mean()


def sample_importance(
    loss: Callable[[Parameters, Tensor, Tensor], Tensor],
    parameters: Parameters,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """Structural importance, exactly as eq. 4: I_i = 1/N_s Σ_x |∂ L_align(x) / ∂ψ_i|.

    Args:
        loss: L_align of one probe as a function of parameters, pixels (C, H, W) and its row of S_ori (b,); must
            be free of side effects (BatchNorm in evaluation mode).
        parameters: named ψ.
        batches: pairs of pixels (n, C, H, W) and rows of S_ori (n, b).
        chunk: probes whose gradients are held at once, memory is chunk times the size of ψ; None: as suits the device.

    Returns:
        A tensor of ψ's shape for each name, at least 0.

    Note:
        Where S_unl equals S_ori (a projector that starts as the identity) the cosine is at its maximum and every
        gradient is 0; callers check with `all_zero`.

    Example:
        >>> importance = sample_importance(
        ...     lambda p, x, s: -torch.nn.functional.cosine_similarity(p["w"] * x.flatten(), s, dim=0),
        ...     {"w": torch.tensor([1.0, 2.0])}, [(torch.ones(3, 1, 1, 2), torch.ones(3, 2))])
        >>> importance["w"].shape, bool((importance["w"] > 0).all())
        (torch.Size([2]), True)
    """
    chunk = chunk or gradients_at_once(parameters)
    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), chunk_size=chunk)
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    count = 0
    frozen = {name: value.detach() for name, value in parameters.items()}
    fit = Fitting("the number of gradients at once")
    for pixels, rows in batches:

        def magnitudes(part: Tensor, pixels: Tensor = pixels, rows: Tensor = rows) -> dict[str, Tensor]:
            found = gradients(frozen, pixels[part], rows[part])
            return {name: gradient.detach().abs().sum(dim=0) for name, gradient in found.items()}

        # Split here as well: vmap's own chunks keep all results until the end.
        add_up(total, torch.arange(len(pixels), device=pixels.device).split(chunk), magnitudes, fit)
        count += len(pixels)
    return {name: value / max(count, 1) for name, value in total.items()}


def add_up(
    total: Parameters,
    chunks: Iterable[Tensor],
    work: Callable[[Tensor], dict[str, Tensor]],
    fit: Fitting,
) -> None:
    """Add to ``total``, in place, what ``work`` gives for each chunk of rows, or for parts of it that fit."""
    for chunk in chunks:
        for found in fit(chunk, work):
            for name, value in found.items():
                total[name].add_(value)


def gradients_at_once(parameters: Parameters) -> int:
    """How many samples' gradients to hold at once: 8 on a CPU; on a GPU as many as take 2 GiB, 128 at most.

    A GPU is idle between the small kernels of a few samples.

    Example:
        >>> gradients_at_once({"w": torch.zeros(10)})
        8
    """
    if all(value.device.type != "cuda" for value in parameters.values()):
        return 8
    size = sum(value.numel() * value.element_size() for value in parameters.values())
    return max(8, min(128, 2**31 // size))


def batch_importance(
    loss: Callable[[Tensor, Tensor], Tensor], parameters: Parameters, batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Structural importance from batches: the mean over batches of |∂ L_align(batch) / ∂ψ_i|.

    Cheaper than `sample_importance` and defined for both axes, but gradients of opposite sign inside a batch
    cancel, so it is at most as large and not what eq. 4 writes.

    Args:
        loss: L_align of a batch of pixels (n, C, H, W) with rows of S_ori (n, b), through live ``parameters``.
        parameters: named ψ, requiring gradients.
        batches: pairs of pixels and rows of S_ori.
    """
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    images = 0
    for pixels, rows in batches:
        gradients = torch.autograd.grad(loss(pixels, rows), list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.abs() * len(pixels)
        images += len(pixels)
    return {name: value / max(images, 1) for name, value in total.items()}


def all_zero(importance: Parameters, tolerance: float = 1e-6) -> bool:
    """Whether an importance holds nothing but rounding: the regulariser would then protect nothing.

    ``tolerance`` is compared with the largest entry. Seen on three networks: at most 2e-7 where the cosine gradient
    vanishes and float32 rounding is left, and 2e-5 after a single step of SGD with lr 1e-5.
    """
    return max((float(value.abs().max()) for value in importance.values()), default=0.0) <= tolerance


def scale_importance(
    importance: Parameters, to: Literal["none", "minmax", "mean"] = "none"
) -> dict[str, Tensor]:
    """Bring an importance to a scale: as it is, to [0, 1] in each tensor, or to mean 1 over all entries."""
    if to == "none":
        return dict(importance)
    if to == "minmax":
        return {n: (v - v.min()) / (v.max() - v.min()).clamp_min(1e-12) for n, v in importance.items()}
    entries = sum(value.numel() for value in importance.values())
    mean = torch.stack([value.sum() for value in importance.values()]).sum() / entries
    return {name: value / mean.clamp_min(1e-20) for name, value in importance.items()}


def regularisation(importance: Parameters, now: Parameters, origin: Parameters) -> Tensor:
    """L_reg = ½ Σ_i I_i (ψ_i − ψ_i^ori)² (paper eq. 3).

    Example:
        >>> regularisation({"w": torch.tensor([2.0])}, {"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])})
        tensor(4.)
    """
    terms = [(importance[name] * (now[name] - origin[name]).square()).sum() for name in importance]
    return 0.5 * torch.stack(terms).sum()


def elastic_net(weight: Tensor, l1: float = 0.99, l2: float = 0.005) -> Tensor:
    """Classifier regularisation l1 ‖W‖₁ + l2 ‖W‖² of the head (Zou and Hastie 2005).

    Example:
        >>> round(elastic_net(torch.tensor([[1.0, -2.0]]), 1.0, 0.5).item(), 2)
        5.5
    """
    return l1 * weight.abs().sum() + l2 * weight.square().sum()
