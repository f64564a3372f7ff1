"""Folded copies of networks for attacks: BatchNorm folded into convolutions, laid out for the device, frozen.

An attack sees a network in eval mode, where BatchNorm is a fixed scale and shift. After a convolution both fold into
its weights, elsewhere they are one multiply-add; this changes logits by rounding only and saves passes over feature
maps, forward and backward. Whether a copy is the same function is not known here: see attack_copies.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeGuard, TypeVar, cast

import torch
from torch import Tensor, fx, nn

from d2rkit.acceleration.memory_format import set_memory_format
from d2rkit.core.arithmetic import FOREACH

Kind = TypeVar("Kind", bound=nn.Module)


class Affine(nn.Module):
    """scale * x + shift for each channel, x: (B, C, H, W): BatchNorm with fixed statistics."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        mean, variance = _statistics(norm)
        scale = (variance + norm.eps).rsqrt()
        scale = scale if norm.weight is None else norm.weight.detach() * scale
        shift = (0 if norm.bias is None else norm.bias.detach()) - mean * scale
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("shift", shift.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift.to(x.dtype), x, self.scale.to(x.dtype))  # autocast may have changed x's


class FoldedCopy:
    """A folded copy of `network` that can follow it through training: `refresh()` takes over its weights, in place, so
    that nothing compiled or captured as a CUDA graph has to be so again.

    Raises whatever torch.fx raises for a network that it cannot trace, ValueError for one that makes tensors of its
    own in forward, which a trace freezes."""

    def __init__(self, network: nn.Module):
        self.network = network
        twin = fx.symbolic_trace(copy.deepcopy(network).eval())
        if frozen := [name for name in vars(twin) | twin._buffers if name.startswith("_tensor_constant")]:
            raise ValueError(f"it makes {len(frozen)} tensor(s) of its own in forward")
        self.folds = _fold(twin)
        self.affine = [name for name, module in twin.named_modules() if _has_statistics(module)]
        for name in self.affine:
            twin.set_submodule(name, Affine(_norm(twin, name)))
        self.twin = set_memory_format(twin.requires_grad_(False))
        self.refresh()

    def cast(self, dtype: torch.dtype, x: Tensor) -> None:
        """Hold what autocast would cast to `dtype` in each pass over images like x: (B, C, H, W) in `dtype`: the same
        logits, without the casts."""
        met: set[nn.Module] = set()  # those that multiply feature maps, not the images themselves
        hooks = [
            module.register_forward_pre_hook(lambda m, inputs: met.add(m) if inputs[0].dtype == dtype else None)
            for module in self.twin.modules()
            if isinstance(module, Affine)
        ]
        with torch.no_grad(), torch.autocast(x.device.type, dtype):
            self.twin(x[:1])
        for hook in hooks:
            hook.remove()
        for module in self.twin.modules():
            if type(module) in (nn.Conv2d, nn.Linear) or module in met:
                module.to(dtype)
        set_memory_format(self.twin)

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """The twin, with the weights and statistics that the network has now."""
        theirs, ours = self.network.state_dict(), self.twin.state_dict()
        folded = {f"{conv}.{kind}" for conv, _ in self.folds for kind in ("weight", "bias")}
        made = folded | {f"{name}.{kind}" for name in self.affine for kind in ("scale", "shift")}
        theirs |= dict(self.network.named_buffers())  # those that no state_dict holds, too
        ours |= dict(self.twin.named_buffers())
        kept = [name for name in ours if name not in made]
        if kept:
            FOREACH._foreach_copy_([ours[name] for name in kept], [theirs[name] for name in kept])
        if self.folds:
            self._refresh_folds(ours)
        if self.affine:
            self._refresh_affine(ours)
        return self.twin

    # From all BatchNorms at once: a kernel for each step of the calculation, not for each layer.
    def _refresh_folds(self, ours: dict[str, Tensor]) -> None:
        convs = [cast(nn.Conv2d, self.network.get_submodule(conv)) for conv, _ in self.folds]
        norms = [_norm(self.network, norm) for _, norm in self.folds]
        scales, biases = _rsqrt_of_variances(norms), FOREACH._foreach_neg([_statistics(norm)[0] for norm in norms])
        _where_there(FOREACH._foreach_add_, biases, [conv.bias for conv in convs])
        FOREACH._foreach_mul_(biases, scales)
        for change in (biases, scales):
            _where_there(FOREACH._foreach_mul_, change, [norm.weight for norm in norms])
        _where_there(FOREACH._foreach_add_, biases, [norm.bias for norm in norms])
        FOREACH._foreach_copy_([ours[f"{name}.bias"] for name, _ in self.folds], biases)
        for (name, _), conv, scale in zip(self.folds, convs, scales, strict=True):
            torch.mul(conv.weight, scale.view(-1, 1, 1, 1), out=ours[f"{name}.weight"])

    def _refresh_affine(self, ours: dict[str, Tensor]) -> None:
        norms = [_norm(self.network, name) for name in self.affine]
        scales = _rsqrt_of_variances(norms)
        _where_there(FOREACH._foreach_mul_, scales, [norm.weight for norm in norms])
        shifts = FOREACH._foreach_mul([_statistics(norm)[0] for norm in norms], scales)
        FOREACH._foreach_neg_(shifts)
        _where_there(FOREACH._foreach_add_, shifts, [norm.bias for norm in norms])
        for kind, values in (("scale", scales), ("shift", shifts)):
            places = [ours[f"{name}.{kind}"] for name in self.affine]
            FOREACH._foreach_copy_(places, [value.view(1, -1, 1, 1) for value in values])


def _rsqrt_of_variances(norms: Sequence[nn.BatchNorm2d]) -> list[Tensor]:
    values = FOREACH._foreach_add([_statistics(norm)[1] for norm in norms], [norm.eps for norm in norms])
    if hasattr(torch, "_foreach_rsqrt_"):
        FOREACH._foreach_rsqrt_(values)
    else:  # torch 2.5
        for value in values:
            value.rsqrt_()
    return values


def _where_there(operation: Callable, values: list[Tensor], others: Sequence[Tensor | None]) -> None:
    """operation(values, others), without the pairs whose other is None."""
    pairs = [(value, other) for value, other in zip(values, others, strict=True) if other is not None]
    if pairs:
        operation(*map(list, zip(*pairs, strict=True)))


def _fold(traced: fx.GraphModule) -> list[tuple[str, str]]:
    """Take every BatchNorm that is the only user of a convolution out of `traced`, and give that convolution weights
    and a bias of its own for refresh() to fill. Returns their names.

    Left alone are modules that are called more than once, whose tensors forward reads itself, and subclasses."""
    modules, nodes, folds = dict(traced.named_modules()), list(traced.graph.nodes), []
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}

    def plain(node: fx.Node, kind: type[Kind]) -> Kind | None:
        """The module that `node` calls, if it is of this very kind and nothing else calls or reads it."""
        name = str(node.target)
        called = node.op == "call_module" and calls[name] == 1 and name not in read
        return cast(Kind, modules[name]) if called and type(modules[name]) is kind else None

    for node in nodes:
        norm = plain(node, nn.BatchNorm2d)
        if norm is None or not _has_statistics(norm):
            continue
        source = node.args[0] if node.args else None
        if not (isinstance(source, fx.Node) and len(source.users) == 1 and (conv := plain(source, nn.Conv2d))):
            continue
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
        conv.weight = nn.Parameter(torch.empty_like(conv.weight))  # which no other layer shares
        conv.bias = nn.Parameter(conv.weight.new_empty(conv.out_channels))
        folds.append((str(source.target), str(node.target)))
    traced.delete_all_unused_submodules()
    traced.recompile()
    return folds


def _has_statistics(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether it is a BatchNorm that does the same to every image in eval mode."""
    return type(module) is nn.BatchNorm2d and module.running_var is not None


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Running mean and variance of a BatchNorm that has them: (C,)."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None, "only BatchNorms with statistics are folded"
    return mean, variance


def _norm(network: nn.Module, name: str) -> nn.BatchNorm2d:
    return cast(nn.BatchNorm2d, network.get_submodule(name))
