"""APGD that spends nothing on images it has fooled: the same flags as the package's.

APGD (Croce & Hein 2020) goes on for 100 steps with every image of a batch, although a fooled one can change nothing
any more: images do not influence each other, all random numbers are drawn before the first step, and what counts in
the end is whether an image was fooled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor, nn


class StillRight(nn.Module):
    """`network` through one run of an attack on images of labels y: (N,). Images that it got wrong in an earlier call
    are left out; they get logits that say y and have no gradient, so the attack keeps what it found for them."""

    def __init__(self, network: nn.Module, y: Tensor):
        super().__init__()
        self.network, self.y = network, y
        self.left = torch.arange(len(y), device=y.device)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x.index_select(0, self.left))
        given = F.one_hot(self.y, logits.shape[1]).to(logits.dtype).index_copy(0, self.left, logits)
        right = (logits.detach().argmax(1) == self.y[self.left]).nonzero().flatten()
        self.left = self.left[right] if len(right) else self.left[:1]  # without any there would be no gradient
        return given


def leave_out_fooled(attack: APGDAttack) -> None:
    """From now on each run of `attack` computes only images that it has not fooled."""
    network, run = attack.model, attack.attack_single_run

    def attack_single_run(x: Tensor, y: Tensor, x_init: Tensor | None = None):
        attack.model = StillRight(network, y)
        try:
            return run(x, y, x_init)
        finally:
            attack.model = network

    attack.attack_single_run = attack_single_run
