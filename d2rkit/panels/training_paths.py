"""Training runs as paths through prediction space: what target and guide say about the same images, moment by moment.

record("no-adv", seed=0) -> Path        paths + landmarks -> inpca.bhattacharyya -> inpca.embed -> a plane
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2rkit.core.validation import check_choice
from d2rkit.data.datasets import ImageData, first_of_each_class, load_data
from d2rkit.experiments.experiment import Experiment, build_pair
from d2rkit.methods import attacks
from d2rkit.methods.pair import GuidedPair, eval_mode, required_guide
from d2rkit.training.loop import fit

ROLES = ("target", "attacked", "guide")  # f(x), f(x'), g(x)
# Three seconds of one core a run: the networks of the quick table at three quarters of their width, a shorter recipe.
RECIPE = Experiment(
    data="digits", target="cnn-12", guide="cnn-12", batch_size=100, epochs=6, lr=0.4, warmup=2.0, eps=0.2,
    step_size=0.1, steps=2, val_steps=1, padding=0, flip=False, speed="fast",
)  # fmt: skip
IMAGES = 100
TRAINED = ("done", "stuck at chance")  # how a training may end: what it is stuck in is a result, too
WATCH = {"step_size": 0.05, "steps": 10}  # of the PGD that makes x' of the paths, on whatever the target is by then


class Setting(NamedTuple):
    """words: what is switched off; loss: options of the D2R loss that do it."""

    words: str
    loss: Mapping[str, Any]


SETTINGS: dict[str, Setting] = {
    "all": Setting("all terms", {}),
    "no-adv": Setting("without the adversarial KL", {"w_adv": 0.0}),
    "no-mse": Setting("without the MSE", {"w_mse": 0.0}),
    "no-clean": Setting("without the clean KL", {"w_clean": 0.0}),
    "only-mse": Setting("MSE alone", {"w_adv": 0.0, "w_clean": 0.0}),
    "detached": Setting("all terms, guide detached", {"detach_guide": True}),
}


@dataclass(frozen=True)
class Path:
    """One run. moments: (T,) in epochs; log_p: (T, 3, N, C), log-probabilities of ROLES; labels: (N,)."""

    setting: str
    seed: int
    moments: np.ndarray
    log_p: np.ndarray
    labels: np.ndarray

    @property
    def words(self) -> str:
        return SETTINGS[self.setting].words

    def accuracy(self) -> np.ndarray:
        """(T, 3): share of the images that each of ROLES gets right."""
        return (self.log_p.argmax(-1) == self.labels).mean(-1)


def moments_of(steps: int) -> list[int]:
    """The steps after which a run is looked at: close together from a sixth to two thirds of it, when most happens."""
    shares = [*np.linspace(0, 1 / 6, 6), *np.linspace(1 / 6, 2 / 3, 13), *np.linspace(2 / 3, 1, 5)]
    return sorted({round(share * steps) for share in shares})


def watched(data: ImageData, count: int = IMAGES) -> tuple[Tensor, Tensor]:
    """x, y: the first `count` test images, of every class alike."""
    chosen = data.test.take(first_of_each_class(data.test.labels, count))
    return chosen.pixels(), chosen.labels


def record(
    setting: str, seed: int = 0, data: ImageData | None = None, *, images: int = IMAGES, recipe: Experiment = RECIPE,
    report: Callable[[float, str], None] | None = None,
) -> Path:  # fmt: skip
    """Train a pair and write down what it says on the way; four seconds of one core. The same seed gives every setting
    the same first weights, order of images and starts of the attack. ValueError for an unknown setting, or where
    training fails."""
    check_choice(setting, SETTINGS, "setting")
    data = data or load_data(recipe.data)
    x, y = watched(data, images)
    experiment = replace(recipe, seed=seed, loss={**recipe.loss, **SETTINGS[setting].loss})
    pair = build_pair(experiment, data)
    per_epoch = -(-len(data.train) // experiment.batch_size)
    moments = moments_of(per_epoch * experiment.epochs)
    said = [predictions(pair, x, y, experiment.eps)]

    def look(done: float, words: str) -> None:
        if round(done * per_epoch * experiment.epochs) in moments:
            said.append(predictions(pair, x, y, experiment.eps))
        if report:
            report(done, words)

    outcome = fit(pair, data, experiment, device="cpu", report=look)
    if outcome.status not in TRAINED:
        raise ValueError(f"training {SETTINGS[setting].words}, seed {seed}, ended with: {outcome.status}")
    return Path(setting, seed, np.array(moments) / per_epoch, np.stack(said), y.numpy())


def predictions(pair: GuidedPair, x: Tensor, y: Tensor, eps: float) -> np.ndarray:
    """(3, N, C) log-probabilities of f(x), f(x') and g(x), x' by PGD on the target as it is now. Leaves the pair as it
    was, and uses no random numbers, so that watching changes no training."""
    x_adv = attacks.pgd_ce(pair.target, x, y, eps=eps, **WATCH)
    with eval_mode(pair), torch.no_grad():
        logits = pair.target(x), pair.target(x_adv), required_guide(pair)(x)
    return torch.stack([z.double().log_softmax(1) for z in logits]).numpy()
