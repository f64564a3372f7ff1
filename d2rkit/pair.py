"""A target and its guide as one module, and ways to hold networks still while they are attacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from d2rkit.border import asked, shown
from d2rkit.objectives import Logits


class GuidedPair(nn.Module):
    """target f and guide g (None for the methods that train alone).

    forward(x, x_adv) -> Logits. The order of the forwards matters in train mode, since each one updates
    BatchNorm statistics: f(x'), f(x), g(x) as released for D2R, LBGAT and AdaGAT; f(x), f(x') for TRADES.
    """

    def __init__(self, target: nn.Module, guide: nn.Module | None = None):
        super().__init__()
        for name, network in (("target", target), ("guide", guide)):
            if not isinstance(network, nn.Module) and (name == "target" or network is not None):
                raise ValueError(f"{name} must be a network (torch.nn.Module), not {shown(network)}")
        self.target = target
        self.guide = guide

    def forward(
        self, x: Tensor | None, x_adv: Tensor | None, clean_first: bool = False, guide_only: bool = False
    ) -> Logits:
        """x, x_adv: (B, C, H, W) in [0, 1]; None skips the forwards that need it. guide_only: just g(x)."""
        if guide_only:
            if self.guide is None or x is None:
                raise ValueError("guide_only needs a guide and clean images")
            return Logits(None, None, asked(self.guide, x))
        if clean_first:
            clean, adv = self._target(x), self._target(x_adv)
        else:
            adv, clean = self._target(x_adv), self._target(x)
        guide = asked(self.guide, x) if self.guide is not None and x is not None else None
        return Logits(clean, adv, guide)

    def _target(self, images: Tensor | None) -> Tensor | None:
        return None if images is None else asked(self.target, images)


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
