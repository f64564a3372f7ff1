"""Two classes in the plane whose distribution is known to the last digit, and small networks trained on samples of it.

Each class has one common kind of example and one rare kind, which lies deep among the other class's common ones. The
plane is a grid of SIDE x SIDE places, and points are images of 2 pixels, so that the kit's attacks and objectives run
on them. Networks are judged on all places and all moves between them: no test sample, no attack that may fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2rkit.core.validation import check_number, nearest
from d2rkit.evaluation import frontier
from d2rkit.evaluation.frontier import Frontier
from d2rkit.methods.catalogue import get_method
from d2rkit.methods.pair import GuidedPair

SIDE = 50  # places along each side: eps is a multiple of 1 / SIDE
MASS = 10**6  # of each class
COMMON, RARE = 0.17, 0.25  # how far from the middle the blobs of a class lie
SEEDS = 5
POINTS, STEPS, ATTACK_STEPS, RATE, WIDTH = 200, 100, 2, 0.04, 24

NETWORKS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "natural": ("natural", {}),
    "TRADES, β = 1": ("trades", {"beta": 1.0}),
    "TRADES, β = 6": ("trades", {"beta": 6.0}),
    "TRADES, β = 20": ("trades", {"beta": 20.0}),
    "PGD-AT": ("pgd-at", {}),
    "D2R+CAG": ("d2r-cag", {}),
}


# -- the data -----------------------------------------------------------------------------------------------
@lru_cache(maxsize=64)
def masses(spread: float, rare: float) -> np.ndarray:
    """(2, SIDE, SIDE) whole numbers, class 0 on the right. spread: standard deviation of the common blobs, half of it
    that of the rare ones; rare: share of the rare kind. ValueError for impossible numbers."""
    check_number("spread", spread, 0.01, 0.3)
    check_number("rare", rare, high=0.5)
    side = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    x, y = np.meshgrid(side, side)

    def blob(u: float, v: float, sd: float) -> np.ndarray:
        density = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sd**2))
        return density / density.sum()

    each = [
        (1 - rare) * blob(sign * COMMON, 0, spread) + rare * blob(-sign * RARE, -sign * RARE, spread / 2)
        for sign in (1, -1)
    ]
    return np.rint(MASS * np.stack(each)).astype(np.int64)


def sample(known: np.ndarray, count: int, seeds: int) -> tuple[Tensor, Tensor]:
    """`count` points for each seed: x (seeds * count, 2, 1, 1) in [0, 1], y (seeds * count,)."""
    places = []
    for seed in range(seeds):
        places.append(np.random.default_rng(seed).choice(known.size, count, p=known.ravel() / known.sum()))
    labels, row, column = np.unravel_index(np.concatenate(places), known.shape)
    x = (np.stack([column, row], 1) + 0.5) / SIDE
    return torch.tensor(x, dtype=torch.float32).view(-1, 2, 1, 1), torch.from_numpy(labels)


def reach_of(eps: float) -> int:
    """eps in places; ValueError if it is no multiple of a place, or too large to be drawn."""
    check_number("eps", eps, high=0.2)
    reach = round(eps * SIDE)
    if abs(reach - eps * SIDE) > 1e-6:
        raise ValueError(f"eps must be a multiple of {1 / SIDE:g}, the distance of two places, not {eps}")
    return reach


@lru_cache(maxsize=256)
def best(spread: float, rare: float, reach: int) -> Frontier:
    return frontier.frontier(masses(spread, rare), reach)


# -- the networks -------------------------------------------------------------------------------------------
class Crowd(nn.Module):
    """Small networks of two hidden layers side by side, one a seed: x (seeds * B, 2, 1, 1) -> (seeds * B, 2), each
    network having its own stretch of the batch. A mean over the batch is the mean of their losses, so that they train
    together as they would alone, in little more time than one."""

    def __init__(self, seeds: int):
        super().__init__()
        sizes = [2, WIDTH, WIDTH, 2]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        generators = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
        for inputs, outputs in pairwise(sizes):
            drawn = [(2 * torch.rand(inputs + 1, outputs, generator=g) - 1) / inputs**0.5 for g in generators]
            both = torch.stack(drawn)
            self.weights.append(nn.Parameter(both[:, 1:].clone()))
            self.biases.append(nn.Parameter(both[:, :1].clone()))

    def forward(self, x: Tensor) -> Tensor:
        hidden = (x.reshape(len(self.weights[0]), -1, 2) - 0.5) / 0.2
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden.relu() if number else hidden, weight)
        return hidden.reshape(-1, 2)


def train(known: np.ndarray, name: str, eps: float, seeds: int = SEEDS) -> np.ndarray:
    """(seeds, SIDE, SIDE) bool: what networks trained with `name` of NETWORKS answer at every place.

    Every seed has its own sample and its own initial weights; full batches, Adam with one cycle of the learning rate.
    ValueError for an unknown name."""
    if name not in NETWORKS:
        raise nearest(name, NETWORKS, "network")
    word, options = NETWORKS[name]
    method = replace(get_method(word), uniform_start=True)
    x, y = sample(known, POINTS, seeds)
    pair = GuidedPair(*(Crowd(seeds) for _ in range(2 if method.needs_guide else 1)))
    optimizer = torch.optim.Adam(pair.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    how = {"eps": eps, "step_size": 0.75 * eps, "steps": ATTACK_STEPS, "generator": generator}
    for _ in range(STEPS):
        loss = method.loss(method.forward(pair, x, method.perturb(pair, x, y, **how)), y, options).total
        optimizer.zero_grad(set_to_none=True)
        (seeds * loss).backward()
        optimizer.step()
        schedule.step()
    return decisions(pair.target, seeds)


@torch.no_grad()
def decisions(network: nn.Module, seeds: int) -> np.ndarray:
    side = (torch.arange(SIDE) + 0.5) / SIDE
    v, u = torch.meshgrid(side, side, indexing="ij")
    everywhere = torch.stack([u, v], -1).view(1, -1, 2).expand(seeds, -1, -1)
    return network(everywhere.reshape(-1, 2, 1, 1)).argmax(1).view(seeds, SIDE, SIDE).bool().numpy()


@dataclass(frozen=True)
class Trained:
    """Networks of one kind, one a seed. decisions: (S, SIDE, SIDE) bool; clean, robust: (S,) shares of the mass, exact;
    given: clean accuracy given up against the best there is; needed: the least that anyone gives up who is this
    robust; both (S,). What is given beyond that is the networks' own doing, not the data's."""

    name: str
    decisions: np.ndarray
    clean: np.ndarray
    robust: np.ndarray
    given: np.ndarray
    needed: np.ndarray

    @property
    def own(self) -> np.ndarray:
        """(S,): given up without need; negative only if the frontier were wrong."""
        return self.given - self.needed


def judged(name: str, answers: np.ndarray, known: np.ndarray, limits: Frontier) -> Trained:
    accuracies = np.array([frontier.accuracies(answer, known, limits.reach) for answer in answers]) / limits.total
    bayes = limits.bayes / limits.total
    needed = np.array([bayes - limits.most_clean(robust) for robust in accuracies[:, 1]])
    return Trained(name, answers, accuracies[:, 0], accuracies[:, 1], bayes - accuracies[:, 0], needed)


@lru_cache(maxsize=256)
def trained(name: str, spread: float, rare: float, eps: float) -> Trained:
    """Networks of this kind on this data, trained once; with eps = 0 an attack changes nothing."""
    known = masses(spread, rare)
    return judged(name, train(known, name, eps), known, best(spread, rare, reach_of(eps)))
