"""What a ReLU network can answer anywhere in a box of images: interval bounds and linear bounds (CROWN).

Both are sound and neither is exact: a lower bound above 0 of the true class's margin is a proof that no image of the
box is classified otherwise; one below 0 proves nothing. The network is a chain of affine maps with a ReLU between two
of them. `affine_layers` reads them off, and everything else is a few lines of matrices; proofs are made in float64
on the CPU, wherever network and images lie.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from d2rkit.core.validation import check_batch, check_choice, check_labels, check_number
from d2rkit.networks.architectures import SmallCNN, pool
from d2rkit.networks.normalisation import Normalize

HOW = ("ibp", "crown")
SLACK = 1e-4  # a margin proven in float64 must exceed this, since the network itself answers in float32
AFFINE = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.Flatten, nn.AvgPool2d, nn.Identity, Normalize)


class Affine(NamedTuple):
    """x -> weight x + bias. weight: (out, in); bias: (out,)."""

    weight: Tensor
    bias: Tensor


def affine_layers(network: nn.Module, shape: Sequence[int]) -> list[Affine]:
    """The affine maps of a chain with a ReLU between two of them, in float64, as matrices on flattened images.

    network: an nn.Sequential of affine modules and ReLUs, or the kit's small CNN, as it answers in eval mode; shape:
    (C, H, W) of an image. ValueError for a network that is no such chain, as its modules or its answers show."""
    network = copy.deepcopy(network).cpu().double().eval()  # in this order: an Apple GPU has no float64
    pieces = list(_pieces(network))
    layers, at, run = [], tuple(shape), []
    for piece in [*pieces, None]:
        if piece is not None and not isinstance(piece, nn.ReLU):
            run.append(piece)
            continue
        layer, at = _as_matrix(run, at)
        layers.append(layer)
        run = []
    _check_chain(network, layers, shape)
    return layers


@torch.no_grad()
def _check_chain(network: nn.Module, layers: Sequence[Affine], shape: Sequence[int]) -> None:
    """ValueError if a network does more than its modules show: hooks, a Sequential's own forward, BatchNorm of batches.
    Then what is proven of the chain would be said of another function."""
    images = torch.rand(8, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, expected = images.flatten(1), network(images)
    for number, (weight, bias) in enumerate(layers):
        found = (found.relu() if number else found) @ weight.T + bias
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-8, atol=1e-8):
        raise ValueError(f"there are no bounds for this {type(network).__name__}: it is not the chain of its modules")


def _pieces(network: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    if isinstance(network, nn.Sequential):
        for part in network:
            yield from _pieces(part)
    elif isinstance(network, SmallCNN):
        for conv, norm in zip(network.convs, network.norms, strict=True):
            yield from (conv, norm, nn.ReLU())
        yield from (lambda x: pool(x, 1), network.linear)
    elif isinstance(network, (nn.ReLU, *AFFINE)):
        yield network
    else:
        kinds = ", ".join(kind.__name__ for kind in AFFINE)
        raise ValueError(f"there are no bounds for {type(network).__name__}; they need a chain of ReLU, {kinds}")


@torch.no_grad()
def _as_matrix(run: Sequence[Callable[[Tensor], Tensor]], shape: tuple[int, ...]) -> tuple[Affine, tuple[int, ...]]:
    """The matrix of an affine map: its values at 0 and at every unit vector; and the shape of what it returns."""
    size = torch.Size(shape).numel()
    images = torch.cat([torch.zeros(1, size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)])
    images = images.view(-1, *shape)
    for piece in run:
        images = piece(images)
    values = images.flatten(1)
    return Affine((values[1:] - values[0]).T.contiguous(), values[0]), tuple(images.shape[1:])


def box(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Least and greatest pixels within eps of x: (B, C, H, W), as far as they are pixels, each (B, pixels)."""
    check_batch(x)
    check_number("eps", eps)
    flat = x.flatten(1)
    return (flat - eps).clamp(0, 1), (flat + eps).clamp(0, 1)


def through(layer: Affine, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """An affine map of boxes: the middle goes through the map, the half-width through its absolute values."""
    middle, half = (low + high) / 2, (high - low) / 2
    middle, half = middle @ layer.weight.T + layer.bias, half @ layer.weight.abs().T
    return middle - half, middle + half


def interval_bounds(layers: Sequence[Affine], low: Tensor, high: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Bounds before each ReLU, and of the logits, by interval arithmetic (Gowal et al. 2018). Differentiable.

    low, high: (B, in); returned for each layer: low and high, (B, out)."""
    bounds = []
    for layer in layers:
        low, high = through(layer, low, high)
        bounds.append((low, high))
        low, high = low.relu(), high.relu()
    return bounds


def crown_bounds(layers: Sequence[Affine], low: Tensor, high: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The same by linear bounds (CROWN, Zhang et al. 2018), each cut with the interval bounds from the layer before."""
    bounds: list[tuple[Tensor, Tensor]] = []
    for number, layer in enumerate(layers):
        before = (low, high) if not bounds else (bounds[-1][0].relu(), bounds[-1][1].relu())
        least, most = through(layer, *before)
        if number:
            rows = torch.eye(len(layer.bias), dtype=low.dtype).expand(len(low), -1, -1)
            least = torch.maximum(least, lower_bound(rows, layers[: number + 1], bounds, low, high))
            most = torch.minimum(most, -lower_bound(-rows, layers[: number + 1], bounds, low, high))
        bounds.append((least, most))
    return bounds


def lower_bound(
    rows: Tensor, layers: Sequence[Affine], known: Sequence[tuple[Tensor, Tensor]], low: Tensor, high: Tensor
) -> Tensor:
    """(B, R): least values of `rows` (B, R, out) times the last layer's output over the boxes low..high, by going
    backwards through the layers. known: bounds before each ReLU.

    Between l < 0 < u a ReLU lies below the line from (l, 0) to (u, u) and above 0 or x, whichever loses less; a
    positive factor takes the lower line, a negative one the upper."""
    factors, constant = rows @ layers[-1].weight, rows @ layers[-1].bias
    for layer, (least, most) in zip(reversed(layers[:-1]), reversed(known[: len(layers) - 1]), strict=True):
        up, down = most.clamp_min(0), least.clamp_max(0)
        slope = up / (up - down).clamp_min(1e-30)  # 1 where always on, 0 where always off
        floor = (most > -least).to(slope.dtype)
        plus, minus = factors.clamp_min(0), factors.clamp_max(0)
        constant = constant + (minus @ (-down * slope).unsqueeze(2)).squeeze(2)
        factors = plus * floor.unsqueeze(1) + minus * slope.unsqueeze(1)
        constant = constant + factors @ layer.bias
        factors = factors @ layer.weight
    plus, minus = factors.clamp_min(0), factors.clamp_max(0)
    return (plus @ low.unsqueeze(2) + minus @ high.unsqueeze(2)).squeeze(2) + constant


def margin_bounds(layers: Sequence[Affine], low: Tensor, high: Tensor, y: Tensor, how: str = "crown") -> Tensor:
    """(B, classes): lower bounds of z_y - z_c over each box, infinite at c = y. how: of HOW; "crown" is never looser.

    The difference of two logits is one linear map, so it is bounded as such: tighter than two bounds of two logits."""
    check_choice(how, HOW, "bound")
    classes = len(layers[-1].bias)
    check_labels(y, len(low), classes)
    one_hot = torch.eye(classes, dtype=low.dtype)
    rows = one_hot[y].unsqueeze(1) - one_hot  # (B, classes, classes)
    inner = layers[:-1]
    known = interval_bounds(inner, low, high)
    least, most = (bound.relu() for bound in known[-1]) if inner else (low, high)
    factors = rows @ layers[-1].weight
    middle, half = ((least + most) / 2).unsqueeze(2), ((most - least) / 2).unsqueeze(2)
    margins = (factors @ middle - factors.abs() @ half).squeeze(2) + rows @ layers[-1].bias
    if how == "crown":
        margins = torch.maximum(margins, lower_bound(rows, layers, crown_bounds(inner, low, high), low, high))
    return margins.masked_fill(one_hot[y].bool(), torch.inf)


@torch.no_grad()
def certified(layers: Sequence[Affine], x: Tensor, y: Tensor, eps: float, how: str = "crown") -> Tensor:
    """(B,) bool: is it proven that every image within eps of x (L-infinity, pixels in [0, 1]) is classified as y?"""
    low, high = box(x.cpu().double(), eps)
    return margin_bounds(layers, low, high, y.cpu(), how).amin(1) > SLACK


def certified_radius(
    layers: Sequence[Affine], x: Tensor, y: Tensor, *, most: float = 0.25, how: str = "crown", halvings: int = 8
) -> Tensor:
    """(B,) float64: a radius up to `most` within which each image is proven safe, by halving; -1 where not even the
    image itself is (its prediction is wrong, or right by less than SLACK)."""
    proven = torch.where(certified(layers, x, y, 0.0, how), 0.0, -1.0).double()
    low, high = torch.zeros_like(proven), torch.full_like(proven, most)
    for turn in range(halvings + 1):
        middle = high if turn == 0 else (low + high) / 2
        safe = torch.stack([certified_at(layers, x, y, middle, how), proven >= 0]).all(0)
        proven = torch.where(safe, torch.maximum(proven, middle), proven)
        low, high = torch.where(safe, middle, low), torch.where(safe, high, middle)
    return proven


@torch.no_grad()
def certified_at(layers: Sequence[Affine], x: Tensor, y: Tensor, radii: Tensor, how: str) -> Tensor:
    """As `certified`, with a radius (B,) for each image."""
    flat, eps = x.cpu().double().flatten(1), radii.unsqueeze(1)
    return margin_bounds(layers, (flat - eps).clamp(0, 1), (flat + eps).clamp(0, 1), y.cpu(), how).amin(1) > SLACK
