"""Faster copies of networks for attacks: BatchNorm folded into convolutions, weights channels_last, frozen.

An attack sees a network in eval mode, where a BatchNorm after a convolution is a fixed scale and shift. Folding
both into the convolution changes logits by rounding only and saves a pass over every feature map. ReLUs then work
in place, which changes nothing and saves the memory of a feature map.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_weights

from d2rkit.pair import GuidedPair


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
            twin = _with_relu_in_place(fuse(traced, inplace=True, no_trace=True))
        self.twin = twin.requires_grad_(False).to(memory_format=torch.channels_last)
        self.attacked = torch.compile(self.twin, mode="reduce-overhead", dynamic=False) if compiled else self.twin

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """The twin, with the weights and statistics that the network has now."""
        theirs = self.network.state_dict()
        folded = {f"{conv}.{kind}" for conv, _ in self.folds for kind in ("weight", "bias")}
        for name, tensor in self.twin.state_dict().items():
            if name not in folded:
                tensor.copy_(theirs[name])
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


def _with_relu_in_place(traced: fx.GraphModule) -> fx.GraphModule:
    """ReLU overwrites its input where nothing else reads it: neither another node nor the backward pass of the
    convolution or BatchNorm that made it."""
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if node.op != "call_function" or node.target is not F.relu:
            continue
        source = node.args[0]
        if len(source.users) == 1 and isinstance(modules.get(source.target), nn.Conv2d | nn.BatchNorm2d):
            node.kwargs = {**node.kwargs, "inplace": True}
    traced.recompile()
    return traced
