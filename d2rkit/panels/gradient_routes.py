"""Who gets the gradient: each term of a training objective, and through which images it moves which network.

There are four routes from a loss to weights: f through x, f through x', g through x, g through x'. The gradient of a
term with respect to f(x) alone, carried on into f's weights, is what the term does to f through x; and so on.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2rkit.core.validation import check_choice
from d2rkit.data.datasets import ImageData
from d2rkit.experiments.experiment import Experiment, build_pair
from d2rkit.methods.catalogue import get_method
from d2rkit.methods.objectives import Logits
from d2rkit.methods.pair import GuidedPair, required_guide
from d2rkit.panels.training_paths import RECIPE, TRAINED
from d2rkit.training.loop import fit
from d2rkit.training.recipe import generator_for

ROUTES = ("target_clean", "target_adv", "guide_clean", "guide_adv")  # the fields of Logits, which are what they are of
# What a switch stops: a term's gradient into the guide, or, of terms that compare f(x') with f(x), into f(x).
STOPS = ("mse", "clean", "adv", "own")


@dataclass(frozen=True)
class Batch:
    """A pair at one moment of its training, and images of its training set; x: (B, C, H, W) in [0, 1]."""

    pair: GuidedPair
    x: Tensor
    y: Tensor
    epoch: int
    recipe: Experiment


@dataclass(frozen=True)
class Flow:
    """method: its name. terms: (K,) names; values: (K,) weighted terms.
    sizes: (K, 4), norm of the gradient of each term by each of ROUTES, NaN where the method makes no such prediction or
    that network does not learn; stopped: (K, 4), closed by a switch.
    target, guide: (K,), norm of each term's gradient in all of a network's weights; total: of the whole loss, (target,
    guide). agreement: (K,), cosine of each term's gradient in the guide with that of CE(g(x), y), NaN where there is
    none."""

    method: str
    terms: tuple[str, ...]
    values: np.ndarray
    sizes: np.ndarray
    stopped: np.ndarray
    target: np.ndarray
    guide: np.ndarray
    total: tuple[float, float]
    agreement: np.ndarray

    @property
    def along(self) -> np.ndarray:
        """(K,): how much of each term's gradient in the guide points where that of CE(g(x), y) does; their sum is what
        the whole loss does in that direction."""
        return self.guide * np.nan_to_num(self.agreement)


def stages(data: ImageData, seed: int = 0, *, at: Sequence[int] = (0, 1, 3, 6), images: int = 100,
           recipe: Experiment = RECIPE, report=None) -> list[Batch]:  # fmt: skip
    """Train a pair, and keep it as it was after each epoch of `at` (0: before training), with the first `images`
    training images. ValueError where training fails, or for an epoch that it does not have."""
    for epoch in at:
        if not 0 <= epoch <= recipe.epochs:
            raise ValueError(f"training has epochs 0 to {recipe.epochs}, no epoch {epoch}")
    experiment = replace(recipe, seed=seed)
    pair = build_pair(experiment, data)
    kept = {0: copy.deepcopy(pair)}

    def keep(row) -> None:
        kept[row["epoch"]] = copy.deepcopy(pair)

    outcome = fit(pair, data, experiment, device="cpu", on_epoch=keep, report=report)
    if outcome.status not in TRAINED:
        raise ValueError(f"training seed {seed} ended with: {outcome.status}")
    few = data.train.take(slice(0, images))
    return [Batch(kept[epoch], few.pixels(), few.labels, epoch, experiment) for epoch in at]


def flow(batch: Batch, method: str, stops: Collection[str] = ()) -> Flow:
    """Where the gradients of `method` go on this batch: attacked as the method does it, forwarded as in training, with
    the method's default weights. stops: some of STOPS. Leaves the pair as it is. ValueError for unknown names."""
    row = get_method(method)
    for stop in stops:
        check_choice(stop, STOPS, "stop")
    pair = copy.deepcopy(batch.pair).train()
    generator = generator_for("attack", batch.recipe.seed)
    recipe, y = batch.recipe, batch.y
    x_adv = row.perturb(
        pair, batch.x, y, eps=recipe.eps, step_size=recipe.step_size, steps=recipe.steps, generator=generator
    )
    logits = row.forward(pair, batch.x, x_adv)
    logits = logits if row.needs_guide else logits._replace(guide_clean=None)
    guide = required_guide(pair)
    weights: dict[str, list[Tensor]] = {"target": [*pair.target.parameters()], "guide": [*guide.parameters()]}
    ce = F.cross_entropy(guide(batch.x), y)
    labels = torch.cat([g.flatten() for g in torch.autograd.grad(ce, weights["guide"])])
    plain = row.loss(logits, y).parts
    terms, rows = tuple(plain), []
    sums = {network: torch.zeros(()) for network in weights}
    for name in terms:
        open_routes = _routes(plain[name], logits)
        closed = _closed(name, set(open_routes), stops)
        part = row.loss(_detached(logits, closed), y).parts[name] if closed else plain[name]
        carried = _carried(part, logits, weights)
        rows.append((part.item(), carried, closed))
        for network in sums:
            sums[network] = sums[network] + _sum(carried, network, weights[network])
    return _summary(method, terms, rows, sums, logits, weights, labels)


def _routes(part: Tensor, logits: Logits) -> list[str]:
    """The predictions that a gradient of `part` reaches."""
    there = [name for name in ROUTES if getattr(logits, name) is not None and getattr(logits, name).requires_grad]
    if not there or not part.requires_grad:
        return []
    gradients = torch.autograd.grad(part, [getattr(logits, n) for n in there], retain_graph=True, allow_unused=True)
    return [name for name, gradient in zip(there, gradients, strict=True) if gradient is not None]


def _closed(term: str, routes: set[str], stops: Collection[str]) -> set[str]:
    """The routes of a term that the switches close."""
    closed = {name for name in routes if name.startswith("guide")} if term in stops else set()
    if "own" in stops and {"target_clean", "target_adv"} <= routes:
        closed.add("target_clean")
    return closed


def _detached(logits: Logits, names: Collection[str]) -> Logits:
    return logits._replace(**{name: getattr(logits, name).detach() for name in names})


def _carried(part: Tensor, logits: Logits, weights: dict[str, list]) -> dict[str, Tensor]:
    """By route: the gradient of `part` in the network's weights, flat."""
    names = _routes(part, logits)
    if not names:
        return {}
    heads = torch.autograd.grad(part, [getattr(logits, n) for n in names], retain_graph=True)
    carried = {}
    for name, head in zip(names, heads, strict=True):
        into = weights[name.split("_")[0]]
        pieces = torch.autograd.grad(getattr(logits, name), into, grad_outputs=head, retain_graph=True)
        carried[name] = torch.cat([piece.flatten() for piece in pieces])
    return carried


def _sum(carried: dict[str, Tensor], network: str, weights: list[Tensor]) -> Tensor:
    blank = torch.zeros(sum(w.numel() for w in weights))
    return blank + sum(g for name, g in carried.items() if name.startswith(network))


def _summary(method, terms, rows, sums, logits, weights, labels) -> Flow:
    sizes, stopped = np.full((len(terms), len(ROUTES)), np.nan), np.zeros((len(terms), len(ROUTES)), bool)
    into = {network: np.zeros(len(terms)) for network in sums}
    agreement = np.full(len(terms), np.nan)
    for k, (_, carried, closed) in enumerate(rows):
        for r, name in enumerate(ROUTES):
            z = getattr(logits, name)
            if z is not None and z.requires_grad:
                sizes[k, r] = carried[name].norm().item() if name in carried else 0.0
            stopped[k, r] = name in closed
        for network in sums:
            gradient = _sum(carried, network, weights[network])
            into[network][k] = gradient.norm().item()
            if network == "guide" and into["guide"][k] > 0:
                agreement[k] = F.cosine_similarity(gradient, labels, dim=0).item()
    values = np.array([value for value, _, _ in rows])
    total = (float(sums["target"].norm()), float(sums["guide"].norm()))
    return Flow(method, terms, values, sizes, stopped, into["target"], into["guide"], total, agreement)
