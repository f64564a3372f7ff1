"""Training a small ReLU network whose answers can be proven: interval bound propagation (Gowal et al. 2018).

The worst logits that the bounds allow go into the cross-entropy in the place of the logits under an attack. At first
the bounds are far too wide to learn from, so that radius and weight of the worst case grow from 0, from a tenth of the
run on to 60 % of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2rkit.core.validation import check_choice, check_count, check_number
from d2rkit.data.arrays import Split
from d2rkit.methods.attacks import pgd_ce, uniform_start
from d2rkit.networks.bounds import Affine, box, margin_bounds

HOW = ("natural", "pgd-at", "ibp")
BATCH, RATE = 100, 5e-3
ATTACK_STEPS = 5


def relu_mlp(seed: int, hidden: Sequence[int] = (64, 32), features: int = 64, classes: int = 10) -> nn.Sequential:
    """Flatten, then linear layers with a ReLU between two of them."""
    sizes = [features, *hidden, classes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = [nn.Linear(*pair) for pair in pairwise(sizes)]
    return nn.Sequential(nn.Flatten(), *(part for layer in linear for part in (layer, nn.ReLU())))[:-1]


def live_layers(network: nn.Sequential) -> list[Affine]:
    """The linear layers of a relu_mlp themselves, so that a bound's gradient reaches them."""
    return [Affine(part.weight, part.bias) for part in network if isinstance(part, nn.Linear)]


def worst_case(network: nn.Sequential, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """(B, classes) logits, shifted so that the true one is 0, none of them lower than anywhere within eps of x."""
    margins = margin_bounds(live_layers(network), *box(x, eps), y, "ibp")
    return -margins.masked_fill(torch.isinf(margins), 0)


def fit_relu_mlp(
    train: Split, how: str, eps: float, seed: int = 0, *, epochs: int = 60, worst: float = 1.0
) -> nn.Sequential:
    """A relu_mlp trained on `train`, in eval mode. how: "natural" (clean images), "pgd-at" (images attacked by PGD with
    ATTACK_STEPS steps) or "ibp". eps: pixel scale. worst: the share of the worst case in the loss at the end of "ibp".

    Adam with one cycle of the learning rate. ValueError for impossible settings."""
    check_choice(how, HOW, "way to train")
    check_number("eps", eps, high=1)
    check_number("worst", worst, high=1)
    check_count("epochs", epochs, 1)
    network, x, y = relu_mlp(seed), train.pixels(), train.labels
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(y) // BATCH)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    order: Sequence[Tensor] = ()
    for step in range(steps):
        if step % (steps // epochs) == 0:
            order = torch.randperm(len(y), generator=generator).split(BATCH)
        index = order[step % (steps // epochs)]
        images, labels = x[index], y[index]
        grown = min(1.0, max(0.0, 2 * step / steps - 0.2))
        if how == "pgd-at":
            start = uniform_start(images, eps, generator)
            images = pgd_ce(network, images, labels, eps=eps, step_size=eps / 2, steps=ATTACK_STEPS, start=start)
        share = worst * grown if how == "ibp" else 0.0
        loss = (1 - share) * F.cross_entropy(network(images), labels)
        if share:
            loss = loss + share * F.cross_entropy(worst_case(network, images, labels, grown * eps), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()
