"""Guides that the optimiser does not train: which network one is, what it needs, and what a method keeps beside a pair.

Most methods train their guide along. Some freeze one that was trained before, one has the running average of its
target's weights for a guide, and one weighs classes by what was predicted an epoch ago.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from d2rkit.core import devices
from d2rkit.methods import attacks
from d2rkit.methods.catalogue import METHODS, Method, get_method
from d2rkit.methods.objectives import Logits, needed
from d2rkit.methods.pair import GuidedPair, required_guide
from d2rkit.training.averaging import blend
from d2rkit.training.recipe import Recipe

R = TypeVar("R", bound=Recipe)
DECAY = 0.999  # a step, of the guide that is an average; less in the first steps, see decay_at()


class Networks(Protocol):
    """What guide_of() reads of an Experiment: the names of its method and of the two networks."""

    @property
    def method(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def guide(self) -> str: ...


def guide_of(experiment: Networks) -> str:
    """The name of the network beside the target: that of the target itself where the guide is its average; "" if the
    method has no guide."""
    method = METHODS.get(experiment.method)
    if method is None:
        return experiment.guide
    if not method.needs_guide:
        return ""
    return experiment.target if method.guide == "average" else experiment.guide


def check_guide(recipe: Recipe, method: Method) -> None:
    """ValueError where a guide that is drawn at random would be frozen as it is."""
    if method.guide == "frozen" and not recipe.guide_warmup:
        words = f"{method.title} freezes its guide, which is drawn at random"
        raise ValueError(f"{words}: set guide_warmup to the epochs, 1 or more, in which it is trained first")


def by_method(experiment: R, name: str) -> R:
    """The same recipe or experiment by another method. A guide that is then frozen is trained before for a third of the
    epochs, unless guide_warmup says for how many; one that is an average is not trained at all."""
    warm_up, guide = experiment.guide_warmup, get_method(name).guide
    if guide == "frozen":
        warm_up = warm_up or max(1, experiment.epochs // 3)
    return replace(experiment, method=name, guide_warmup=0 if guide == "average" else warm_up)


def check_pair(pair: GuidedPair, method: Method) -> None:
    """ValueError for a pair that a method cannot train."""
    if method.needs_guide and pair.guide is None:
        raise ValueError(f"{method.title} trains a guide beside the target, but the pair has none")
    if method.guide == "average":
        networks = pair.target, required_guide(pair)
        shapes = [{name: value.shape for name, value in network.state_dict().items()} for network in networks]
        if shapes[0] != shapes[1]:
            words = f"the guide of {method.title} is an average of the target"
            raise ValueError(f"{words}, so both must be the same network, with the same parameters")


def warm_up_images(
    method: Method, recipe: Recipe, pair: GuidedPair, generator: torch.Generator, x: Tensor, y: Tensor
) -> Tensor:
    """What a guide sees that trains alone: images x, or, if it is to be frozen, x attacked by PGD on it. The methods
    that freeze a guide suppose a robust one."""
    if method.guide != "frozen":
        return x
    start = attacks.uniform_start(x, recipe.eps, generator)
    guide = required_guide(pair)
    return attacks.pgd_ce(guide, x, y, start=start, eps=recipe.eps, step_size=recipe.step_size, steps=recipe.steps)


def decay_at(step: int) -> float:
    """Of the guide's average at a step counted from 0: a short training must not end with what it began with."""
    return min(DECAY, (1 + step) / (10 + step))


class Beside:
    """What a method keeps beside the networks and their optimiser, from step to step: the guide's average (it lies in
    the pair itself), and by class what was predicted. Part of the state that is saved."""

    def __init__(self, method: Method, pair: GuidedPair, classes: int, device: torch.device):
        self.method, self.pair = method, pair
        self.averages = method.guide == "average"
        if self.averages:  # the guide begins as the target; a state that is gone on with replaces both
            required_guide(pair).load_state_dict(pair.target.state_dict())
        self.counts_classes = "class_means" in method.handed
        if self.counts_classes:
            self.means = torch.full((classes, classes), 1 / classes, device=device)
            self.sums = torch.zeros(classes, classes, device=device)

    def handed(self, progress: float) -> dict[str, Any]:
        """For the objective. progress: the share of training that is over."""
        return {"progress": progress} | ({"class_means": self.means} if self.counts_classes else {})

    @torch.no_grad()
    def see(self, logits: Logits, y: Tensor) -> None:
        """Count what was predicted on clean images in a step."""
        if self.counts_classes:
            (clean,) = needed(logits, y, "guide_clean" if self.method.needs_guide else "target_clean")
            of_class = (torch.arange(len(self.sums), device=y.device)[:, None] == y).to(self.sums.dtype)
            self.sums += of_class @ clean.detach().to(self.sums.dtype).softmax(1)

    def follow(self, step: int) -> None:
        """After a step of the optimiser, counted from 0."""
        if self.averages:
            devices.sync_batchnorm_stats(self.pair.target)
            blend(required_guide(self.pair), self.pair.target, decay_at(step))

    def finish_epoch(self) -> None:
        """Take what was counted for the next epoch's class means; a class without an image keeps the ones it had."""
        if self.counts_classes:
            sums = devices.all_reduce(self.sums, "sum")
            seen = sums.sum(1, keepdim=True)
            self.means = torch.where(seen > 0, sums / seen.clamp_min(1e-12), self.means)
            self.sums = torch.zeros_like(self.sums)

    def state(self) -> dict[str, Tensor]:
        """What resume.pt holds of it, put together over all devices."""
        return {"means": self.means, "sums": devices.all_reduce(self.sums, "sum")} if self.counts_classes else {}

    def load(self, state: dict[str, Tensor]) -> None:
        if self.counts_classes:
            if {"means", "sums"} - state.keys():
                raise ValueError(f"the saved state lacks the class means that {self.method.title} needs")
            self.means = state["means"].to(self.means)
            self.sums = state["sums"].to(self.sums) * (devices.rank() == 0)  # the others begin to count anew
