"""APGD that spends nothing on images it has fooled: the same flags as the package's.

APGD (Croce & Hein 2020) goes on for 100 steps with every image of a batch, although a fooled one can change nothing
any more: images do not influence each other, all random numbers are drawn before the first step, and what counts in
the end is whether an image was fooled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOOK_EVERY = 2  # calls: to ask a GPU which images are left makes it wait


class StillRight(nn.Module):
    """`network` through one run of an attack on images of labels y: (N,). Images that it got wrong in an earlier call
    are left out; they get logits that say y and have no gradient, so the attack keeps what it found for them."""

    def __init__(self, network: nn.Module, y: Tensor):
        super().__init__()
        self.network, self.y = network, y
        self.left = torch.arange(len(y), device=y.device)
        self.calls, self.every = 0, 1 if y.device.type == "cpu" else LOOK_EVERY

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x.index_select(0, self.left))
        given = logits.new_zeros(len(self.y), logits.shape[1]).scatter(1, self.y[:, None], 1.0)
        given = given.index_copy(0, self.left, logits)
        self.calls += 1
        if self.calls % self.every:
            return given
        right = (logits.detach().argmax(1) == self.y[self.left]).nonzero().flatten()
        self.left = self.left[right] if len(right) else self.left[:1]  # without any there would be no gradient
        return given


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2), (N,), z sorted downwards (Croce & Hein 2020, eq. 7): the package's, which
    indexes by tensors of the CPU."""
    ordered = logits.sort(1).values
    gap = logits.gather(1, y[:, None]) - logits.gather(1, target[:, None])
    return -gap.squeeze(1) / (ordered[:, -1] - 0.5 * (ordered[:, -3] + ordered[:, -4]) + 1e-12)
