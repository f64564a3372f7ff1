"""Faster copies of networks for attacks: BatchNorm folded into convolutions, laid out for the device, frozen.

An attack sees a network in eval mode, where BatchNorm is a fixed scale and shift. After a convolution both fold into
its weights, elsewhere they are one multiply-add; this changes logits by rounding only and saves passes over feature
maps, forward and backward.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_weights

from d2rkit.layout import arrange
from d2rkit.pair import GuidedPair


class Affine(nn.Module):
    """scale * x + shift for each channel, x: (B, C, H, W): BatchNorm with fixed statistics."""

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        for name, values in zip(("scale", "shift"), _scale_and_shift(norm), strict=True):
            self.register_buffer(name, values)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift.to(x.dtype), x, self.scale.to(x.dtype))  # autocast may have changed x's


class Twin:
    """A folded copy of `network` that can follow it through training: `refresh()` takes over its weights.

    A network that torch.fx cannot trace gets a plain frozen copy. compiled: by torch.compile, for the shapes that
    come first, on a GPU as CUDA graphs; weights are taken over in place, so nothing is compiled or captured again."""

    def __init__(self, network: nn.Module, compiled: bool = False):
        self.network = network
        twin = copy.deepcopy(network).eval()
        try:
            traced = fx.symbolic_trace(twin)
        except (fx.proxy.TraceError, TypeError, NameError):
            self.folds: list[tuple[str, str]] = []
        else:
            self.folds = _conv_then_norm(traced)
            twin = fuse(traced, inplace=True, no_trace=True)
        norms = {name: module for name, module in twin.named_modules() if isinstance(module, nn.BatchNorm2d)}
        self.affine = [name for name, norm in norms.items() if norm.running_var is not None]
        for name in self.affine:
            twin.set_submodule(name, Affine(norms[name]))
        self.twin = arrange(twin.requires_grad_(False))
        self.attacked = torch.compile(self.twin, mode="reduce-overhead", dynamic=False) if compiled else self.twin

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """The twin, with the weights and statistics that the network has now."""
        theirs = self.network.state_dict()
        folded = {f"{conv}.{kind}" for conv, _ in self.folds for kind in ("weight", "bias")}
        made = folded | {f"{name}.{kind}" for name in self.affine for kind in ("scale", "shift")}
        for name, tensor in self.twin.state_dict().items():
            if name not in made:
                tensor.copy_(theirs[name])
        for name in self.affine:
            new = self.twin.get_submodule(name)
            scale, shift = _scale_and_shift(self.network.get_submodule(name))
            new.scale.copy_(scale)
            new.shift.copy_(shift)
        for conv, norm in self.folds:
            old, bn, new = (
                m.get_submodule(n) for m, n in ((self.network, conv), (self.network, norm), (self.twin, conv))
            )
            weight, bias = fuse_conv_bn_weights(
                old.weight, old.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
            )
            new.weight.copy_(weight)
            new.bias.copy_(bias)
        return self.attacked


class PairTwin:
    """Twins of both networks of a pair; `refresh()` gives a pair to attack."""

    def __init__(self, pair: GuidedPair, compiled: bool = False):
        self.twins = [Twin(net, compiled) for net in (pair.target, pair.guide) if net is not None]

    def refresh(self) -> GuidedPair:
        return GuidedPair(*(twin.refresh() for twin in self.twins))


def folded(network: nn.Module) -> nn.Module:
    """A folded, frozen copy of `network` as it is now."""
    return Twin(network).twin


def _conv_then_norm(traced: fx.GraphModule) -> list[tuple[str, str]]:
    """Names of every convolution whose only user is a BatchNorm, and of that BatchNorm."""
    modules = dict(traced.named_modules())
    pairs = []
    for node in traced.graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        source = node.args[0]
        if source.op == "call_module" and isinstance(modules[source.target], nn.Conv2d) and len(source.users) == 1:
            pairs.append((source.target, node.target))
    return pairs


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What BatchNorm in eval mode does to a channel, each of shape (1, C, 1, 1)."""
    with torch.no_grad():
        scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * scale
    return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)


@dataclass(frozen=True)
class AttackCopy:
    network: nn.Module
    reason: str = ""


def attack_copy(network: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> AttackCopy:
    return AttackCopy(folded(network))
