"""An average of a network's weights that follows it through training (EMA), kept in torch's AveragedModel."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from d2rkit.core.arithmetic import FOREACH


@torch.no_grad()
def blend(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * network, parameters and buffers, of two networks that are alike."""
    pairs = _pairs(average, network)
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    if floats:
        FOREACH._foreach_lerp_([mine for mine, _ in floats], [theirs for _, theirs in floats], 1 - decay)
    for mine, theirs in pairs:
        if not mine.is_floating_point():
            mine.copy_(mine * decay + theirs * (1 - decay))


@torch.no_grad()
def follow(average: AveragedModel, network: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * network, parameters and buffers; the first time a copy.

    To the bit what update_parameters() does with get_ema_multi_avg_fn(decay), which looks at its counter through the
    device, and so makes a GPU wait at every step; here the counter stays on the CPU."""
    if average.n_averaged == 0:
        for mine, theirs in _pairs(average.module, network):
            mine.copy_(theirs)
    else:
        blend(average.module, network, decay)
    average.n_averaged += 1


def _pairs(average: nn.Module, network: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (mine, theirs.detach())
        for kind in ("parameters", "buffers")
        for mine, theirs in zip(getattr(average, kind)(), getattr(network, kind)(), strict=True)
    ]
