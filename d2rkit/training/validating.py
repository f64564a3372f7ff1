"""How many validation images a pair gets right after an epoch."""

from __future__ import annotations

import torch
from torch import nn

from d2rkit.core import devices
from d2rkit.data.datasets import Split
from d2rkit.methods import attacks
from d2rkit.training.recipe import Recipe

LARGEST = 500  # images at once: the attack keeps gradients of all of them


def validation_hits(recipe: Recipe, target: nn.Module, guide: nn.Module | None, images: Split) -> dict[str, int]:
    """How many `images` the target gets right clean and under PGD, and the guide clean. Networks in eval mode."""
    size = min(LARGEST, recipe.micro_batch or LARGEST)
    hits = {"clean": 0, "pgd": 0} | ({"guide": 0} if guide is not None else {})
    with devices.ieee_float32():
        for i in range(0, len(images), size):
            batch: Split = images.take(slice(i, i + size))
            x, y = batch.pixels(), batch.labels
            x_adv = attacks.pgd_ce(target, x, y, eps=recipe.eps, step_size=recipe.eps / 4, steps=recipe.val_steps)
            with torch.no_grad():
                hits["clean"] += (target(x).argmax(1) == y).sum().item()
                hits["pgd"] += (target(x_adv).argmax(1) == y).sum().item()
                if guide is not None:
                    hits["guide"] += (guide(x).argmax(1) == y).sum().item()
    return hits
