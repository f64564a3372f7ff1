"""Exercise 9: an ablation to design and to defend."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import lru_cache
from statistics import mean, pstdev, stdev
from typing import Any

import torch

from d2rkit.data.datasets import load_data
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.exercises.checking import Exercise, Step, functions, one_thread, short
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from d2rkit.training.guides import by_method
from d2rkit.training.loop import Recipe, fit

EPS = 0.15  # pixel scale; large, because 8x8 digits are coarse
BASE: dict[str, Any] = {
    "method": "d2r-cag", "epochs": 12, "batch_size": 100, "lr": 0.3, "warmup": 1.0, "eps": EPS, "step_size": 0.05,
    "steps": 4, "padding": 0, "flip": False, "val_steps": 1,
}  # fmt: skip
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""n -> 97.5 % quantile of Student's t with n - 1 degrees of freedom."""
CLAIMS = ("higher", "lower", "not shown")
KEYS = ("control", "treatment", "seeds", "control_scores", "treatment_scores", "difference", "half_width", "claim")


def trial(setting: Mapping[str, object], seed: int) -> float:
    """Train a small guide-target pair of MLPs on digits (about a second) and return its robust accuracy on the
    397 test images at eps = 0.15, a share in [0, 1]: images that withstand both PGD-20 and C&W-20.

    setting: what differs from BASE; keys are fields of `Recipe`, anything else is an option of the method's loss
    (w_clean, w_adv, beta, …). ValueError for a key or value that does not exist."""
    return _trial(json.dumps(dict(setting), sort_keys=True), seed)


@lru_cache(maxsize=256)
def _trial(setting: str, seed: int) -> float:
    recipe = _recipe(json.loads(setting), seed)
    data = load_data("digits")
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        target, guide = (build_model("mlp-64", 10, image_size=64, channels=1) for _ in range(2))
        needs_guide = recipe.check().needs_guide
        pair = GuidedPair(target, guide if needs_guide else None)
        fit(pair, data, recipe, device="cpu")
        flags = evaluate(pair, data.test, ("pgd20", "cw20"), EPS).flags
        return (flags["pgd20"] & flags["cw20"]).float().mean().item()


def _recipe(setting: Mapping[str, Any], seed: int) -> Recipe:
    known = {f.name for f in fields(Recipe)} - {"loss", "seed"}
    loss = {key: value for key, value in setting.items() if key not in known}
    recipe = Recipe(seed=seed, loss=loss, **{**BASE, **{k: v for k, v in setting.items() if k in known}})
    recipe.check()
    recipe = by_method(recipe, recipe.method)  # a guide to be frozen is trained first
    return recipe


def reference(trial: Callable[[Mapping[str, object], int], float]) -> dict:
    """Does an attack that listens to the guide (CAG) help D2R? Control: the same with the TRADES attack."""
    control, treatment, seeds = {"method": "d2r"}, {"method": "d2r-cag"}, [0, 1, 2, 3]
    before, after = [trial(control, seed) for seed in seeds], [trial(treatment, seed) for seed in seeds]
    differences = [b - a for a, b in zip(before, after, strict=True)]
    difference, half_width = mean(differences), T95[len(seeds)] * stdev(differences) / math.sqrt(len(seeds))
    claim = "not shown" if abs(difference) <= half_width else "higher" if difference > 0 else "lower"
    answers = (control, treatment, seeds, before, after, difference, half_width, claim)
    return dict(zip(KEYS, answers, strict=True))


def probe(solution: Callable) -> Iterator[Step]:
    """The design is read off the calls of a simulated `trial`; the claim is tried in four simulated worlds."""
    yield from functions(solution)
    world = World()
    plan = solution(world)
    yield from _design(plan, world)
    control, treatment = dict(plan["control"]), dict(plan["treatment"])
    for words, effect, noise in (
        ("a clear gain", 0.15, 0.004),
        ("a clear loss", -0.15, 0.004),
        ("no effect", 0.0, 0.03),
        ("noise above the effect", 0.01, 0.2),
    ):  # fmt: skip
        world = World(control, treatment, effect, noise)
        answer = solution(world)
        yield from _arithmetic(answer, world, words)


class World:
    """A trial that costs nothing and whose truth is known: seeds shift both settings, the treatment adds `effect`."""

    def __init__(self, control=None, treatment=None, effect: float = 0.0, noise: float = 0.01):
        self.control, self.treatment, self.effect, self.noise = control, treatment, effect, noise
        self.calls: list[tuple[dict, int, float]] = []

    def __call__(self, setting: Mapping[str, object], seed: int) -> float:
        setting = dict(setting)
        _recipe(setting, int(seed))  # a setting that does not exist fails here as in a real trial
        treated = self.treatment is not None and setting == self.treatment
        own = random.Random(f"{seed} {treated} {self.noise}").gauss(0, 1)
        if abs(self.effect) < self.noise:  # alternate, so that the interval surely covers 0
            own = (1 if len([c for c in self.calls if c[0] == setting]) % 2 else -1) * (1 if treated else 0.1)
        score = 0.5 + 0.05 * random.Random(seed).random() + self.effect * treated + self.noise * own
        self.calls.append((setting, int(seed), score))
        return score

    def scores(self, setting: Mapping[str, object], seeds: list[int]) -> list[float]:
        """NaN for a seed that was not tried."""
        table = {(json.dumps(s, sort_keys=True), seed): score for s, seed, score in self.calls}
        return [table.get((json.dumps(dict(setting), sort_keys=True), int(seed)), math.nan) for seed in seeds]


def _design(plan: Any, world: World) -> Iterator[Step]:
    complete = isinstance(plan, Mapping) and set(KEYS) <= set(plan)
    missing = sorted(set(KEYS) - set(plan)) if isinstance(plan, Mapping) else "everything"
    hint = f"missing: {missing}; is a `return` missing?"
    yield Step("a plan with its outcome", complete, type(plan).__name__, ", ".join(KEYS), hint)
    control, treatment = plan["control"], plan["treatment"]
    dicts = isinstance(control, Mapping) and isinstance(treatment, Mapping)
    yield Step(
        "control and treatment are settings", dicts, short(control), "{'method': 'd2r'}", "use dicts, as for trial"
    )
    everything = {**BASE, **control}, {**BASE, **treatment}
    changed = sorted(
        k for k in everything[0].keys() | everything[1].keys() if everything[0].get(k) != everything[1].get(k)
    )
    hint = (
        "control and treatment are the same: there is no factor to study"
        if not changed
        else f"{' and '.join(changed)} change together: which one made the difference? Change one factor, keep the rest"
    )
    yield Step("exactly one factor changes", len(changed) == 1, ", ".join(changed) or "nothing", "one name", hint)
    seeds = list(plan["seeds"])
    hint = "one run decides nothing: published runs differ by 0.2–0.7 points from seed to seed; use two seeds or more"
    several = len(seeds) >= 2
    yield Step("two seeds or more", several, str(len(seeds)), "at least 2", hint)
    hint = "the same seed twice is the same run twice: it shrinks error bars without adding evidence"
    yield Step("the seeds differ", len(set(seeds)) == len(seeds), short(seeds), "different seeds", hint)
    hint = "at most ten seeds here (T95 ends there, and a class has to finish)"
    yield Step("ten seeds or fewer", len(seeds) <= 10, str(len(seeds)), "at most 10", hint)
    for name, setting in (("control", control), ("treatment", treatment)):
        ran = world.scores(setting, seeds)
        missing = sum(map(math.isnan, ran))
        hint = f"{name} was not run with every seed in `seeds`: with other seeds the seed is a second factor"
        yield Step(f"{name} ran with every seed", not missing, f"{len(ran) - missing} runs", f"{len(seeds)}", hint)


def _arithmetic(answer: Mapping, world: World, words: str) -> Iterator[Step]:
    seeds = list(answer["seeds"])
    n = len(seeds)
    before, after = world.scores(answer["control"], seeds), world.scores(answer["treatment"], seeds)
    for name, right in (("control_scores", before), ("treatment_scores", after)):
        got = [float(v) for v in answer[name]]
        hint = f"{name} are not what trial returned for these seeds, in this order: do not type in or reuse results"
        yield Step(f"{name} are measurements", _near(got, right), short(got), short(right), hint)
    differences = [b - a for a, b in zip(before, after, strict=True)]
    right, got = mean(differences), float(answer["difference"])
    hint = (
        "the sign is reversed: difference is treatment minus control"
        if _near([got], [-right])
        else "difference is the mean over seeds of treatment minus control"
    )
    yield Step("mean difference", _near([got], [right]), short(got), short(right), hint)
    sd = stdev(differences)
    half, got = T95[n] * sd / math.sqrt(n), float(answer["half_width"])
    known = {
        "that is one standard error: multiply by T95[n], the t quantile for n seeds": sd / math.sqrt(n),
        "1.96 needs many runs: with few seeds use Student's t, T95[n]": 1.96 * sd / math.sqrt(n),
        "that is a standard deviation: the mean of n runs is more precise, by sqrt(n)": sd,
        "sqrt(n) is missing: the mean of n runs is more precise than one": T95[n] * sd,
        "the standard deviation of a sample divides by n - 1 (statistics.stdev)": T95[n]
        * pstdev(differences)
        / math.sqrt(n),
        "the runs are paired by seed: take the spread of the differences, not of the two groups": (
            T95[n] * math.sqrt((stdev(before) ** 2 + stdev(after) ** 2) / n)
        ),
    }
    hint = next((why for why, wrong in known.items() if _near([got], [wrong])), "T95[n] * stdev(differences) / sqrt(n)")
    yield Step("95 % interval", _near([got], [half]), short(got), short(half), hint)
    claim = "not shown" if abs(right) <= half else "higher" if right > 0 else "lower"
    told = answer["claim"]
    interval = f"[{right - half:.3f}, {right + half:.3f}]"
    if told not in CLAIMS:
        hint = f"claim is one of {', '.join(CLAIMS)}"
    elif claim == "not shown":
        hint = f"the interval {interval} contains 0, so these runs do not show a difference, whatever the mean says"
    else:
        hint = f"the interval {interval} lies on one side of 0: compute the claim from that side"
    yield Step(
        f"the claim follows from the interval ({words})", told == claim, repr(told), f"what {interval} allows", hint
    )


def _near(got: list[float], right: list[float]) -> bool:
    """Never near a NaN."""
    return len(got) == len(right) and all(abs(a - b) <= 1e-6 + 0.005 * abs(b) for a, b in zip(got, right, strict=True))


EXERCISE = Exercise("ablation", "An ablation to design and defend", 45, "my_ablation(trial)", probe, reference)
