"""What a pair of networks makes of the plane: whose class every place is, and how sure it is of every point."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2rkit.methods import attacks
from d2rkit.methods.pair import GuidedPair, required_guide

PIXELS = 90  # of a side of the decision map


def decision_map(network: nn.Module) -> np.ndarray:
    """Class at each of PIXELS x PIXELS places of the unit square."""
    side = (torch.arange(PIXELS) + 0.5) / PIXELS
    v, u = torch.meshgrid(side, side, indexing="ij")
    return network(torch.stack([u, v], -1).view(-1, 2, 1, 1)).argmax(1).view(PIXELS, PIXELS).numpy()


def look(pair: GuidedPair, x: Tensor, y: Tensor, eps: float) -> dict[str, Any]:
    """What a pair makes of the plane and of its points, attacked by PGD-10 on the target: fields of
    `guide_and_target.Trained`."""
    guide = required_guide(pair)
    x_adv = attacks.pgd_ce(pair.target, x, y, eps=eps, step_size=eps / 4, steps=10)
    with torch.no_grad():
        maps = {"target_map": decision_map(pair.target), "guide_map": decision_map(guide)}
        logits = {"target_clean": pair.target(x), "target_adv": pair.target(x_adv), "guide_clean": guide(x)}
    margins = {name: (-attacks.margin(z, y)).numpy() for name, z in logits.items()}
    return {"attacked": x_adv.flatten(1).numpy(), **maps, **margins}
