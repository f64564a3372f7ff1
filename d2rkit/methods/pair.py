"""A target and its guide as one module, and ways to hold networks still while they are attacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from d2rkit.core.validation import asked, shown
from d2rkit.methods.objectives import Logits


class GuidedPair(nn.Module):
    """target f and guide g (None for methods without a guide).

    forward(x, x_adv) -> Logits. The order of the forwards matters in train mode, since each one updates
    BatchNorm statistics: f(x'), f(x), g(x) as released for D2R, LBGAT and AdaGAT; f(x), f(x') for TRADES; g(x') last.
    """

    def __init__(self, target: nn.Module, guide: nn.Module | None = None):
        super().__init__()
        for name, network in (("target", target), ("guide", guide)):
            if not isinstance(network, nn.Module) and (name == "target" or network is not None):
                raise ValueError(f"{name} must be a network (torch.nn.Module), not {shown(network)}")
        self.target = target
        self.guide = guide

    def forward(
        self,
        x: Tensor | None,
        x_adv: Tensor | None,
        clean_first: bool = False,
        guide_only: bool = False,
        *,
        target_clean: bool = True,
        guide_clean: bool = True,
        guide_adv: bool = False,
        guide_still: bool = False,
    ) -> Logits:
        """x, x_adv: (B, C, H, W) in [0, 1]; None skips the forwards that need it. guide_only: just g(x).

        target_clean, guide_clean, guide_adv: whether f(x), g(x) and g(x') are made. guide_still: the guide neither
        learns nor keeps statistics: it is forwarded in eval mode and without a gradient."""
        if guide_only:
            if self.guide is None or x is None:
                raise ValueError("guide_only needs a guide and clean images")
            return Logits(None, None, asked(self.guide, x))
        plain = x if target_clean else None
        if clean_first:
            clean, adv = self._target(plain), self._target(x_adv)
        else:
            adv, clean = self._target(x_adv), self._target(plain)
        with at_rest(self.guide) if guide_still and self.guide is not None else nullcontext():
            beside = self._guide(x if guide_clean else None), self._guide(x_adv if guide_adv else None)
        return Logits(clean, adv, *beside)

    def _guide(self, images: Tensor | None) -> Tensor | None:
        return None if images is None or self.guide is None else asked(self.guide, images)

    def _target(self, images: Tensor | None) -> Tensor | None:
        return None if images is None else asked(self.target, images)


def required_guide(pair: GuidedPair) -> nn.Module:
    """The guide of a pair that must have one; ValueError if it has none."""
    if pair.guide is None:
        raise ValueError("this pair has no guide, which is needed here")
    return pair.guide


@contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """`module` is in eval mode inside, and what it returns has no gradient."""
    with torch.no_grad(), eval_mode(module):
        yield


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter of `modules` requires a gradient inside: an attack needs the image's gradient only."""
    _check_networks(modules)
    thawed = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in thawed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """`modules` are in eval mode inside; afterwards every submodule is as it was."""
    _check_networks(modules)
    training = [m for module in modules for m in module.modules() if m.training]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check_networks(modules: tuple[object, ...]) -> None:
    for module in modules:
        if not isinstance(module, nn.Module):
            raise ValueError(f"a network must be a torch.nn.Module, not {shown(module)}")
