"""What the guide pays: pairs trained by D2R+CAG with some of its terms stopped before they reach the guide."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from d2rkit.core.validation import check_choice
from d2rkit.data.datasets import ImageData, load_data
from d2rkit.experiments.experiment import Experiment, build_pair
from d2rkit.methods import attacks
from d2rkit.methods.catalogue import METHODS, Method, get_method
from d2rkit.methods.objectives import Logits, Loss, summed
from d2rkit.methods.pair import eval_mode, required_guide
from d2rkit.panels.training_paths import RECIPE, TRAINED
from d2rkit.training.loop import fit


class Stop(NamedTuple):
    """words: what is done; terms: those of the D2R loss that are stopped; loss: options of the D2R loss to change."""

    words: str
    terms: tuple[str, ...]
    loss: Mapping[str, float] = {}


EVERY = ("mse", "clean", "adv")
STOPS: dict[str, Stop] = {
    "nothing": Stop("nothing stopped: D2R as it is", ()),
    "clean": Stop("clean KL stopped", ("clean",)),
    "mse": Stop("MSE stopped", ("mse",)),
    "adv": Stop("adversarial KL stopped", ("adv",)),
    "every": Stop("every term stopped", EVERY),
    "every-no-adv": Stop("every term stopped, adversarial KL at 0", EVERY, {"w_adv": 0.0}),
}
MEASURES = {
    "guide_clean": "guide's clean accuracy",
    "guide_ce": "guide's cross-entropy on clean images",
    "target_clean": "target's clean accuracy",
    "target_pgd": "target's accuracy under PGD-20",
}


def stopped(terms: Collection[str], **changes: float) -> Method:
    """D2R+CAG, of which these terms send the guide no gradient. changes: options of the D2R loss."""
    row = get_method("d2r-cag")

    def objective(logits: Logits, y: Tensor, **options) -> Loss:
        free, fixed = (
            row.objective(logits, y, detach_guide=detach, **{**options, **changes}).parts for detach in (False, True)
        )
        return summed({name: (fixed if name in terms else free)[name] for name in free})

    return replace(row, objective=objective)


@contextmanager
def offered(method: Method, name: str = "stopped-for-now") -> Iterator[str]:
    """`method` is a row of METHODS inside, and no longer afterwards: these runs are no rows of tables."""
    METHODS[name] = method
    try:
        yield name
    finally:
        del METHODS[name]


def measure(stop: str, seed: int = 0, data: ImageData | None = None, *, recipe: Experiment = RECIPE,
            report=None) -> dict[str, float]:  # fmt: skip
    """Train one pair with STOPS[stop] and measure it on all test images: a number for each of MEASURES. The same seed
    gives every stop the same first weights, order of images and starts of the attack."""
    check_choice(stop, STOPS, "stop")
    data = data or load_data(recipe.data)
    with offered(stopped(STOPS[stop].terms, **STOPS[stop].loss)) as name:
        experiment = replace(recipe, method=name, seed=seed)
        pair = build_pair(experiment, data)
        outcome = fit(pair, data, experiment, device="cpu", report=report)
    if outcome.status not in TRAINED:
        raise ValueError(f"training with {STOPS[stop].words}, seed {seed}, ended with: {outcome.status}")
    x, y = data.test.pixels(), data.test.labels
    x_adv = attacks.pgd_ce(pair.target, x, y, eps=recipe.eps, step_size=recipe.eps / 8, steps=20)
    with eval_mode(pair), torch.no_grad():
        guide, target, target_adv = required_guide(pair)(x), pair.target(x), pair.target(x_adv)
    right = [(z.argmax(1) == y).double().mean().item() for z in (guide, target, target_adv)]
    return dict(zip(MEASURES, (right[0], F.cross_entropy(guide, y).item(), *right[1:]), strict=True))
