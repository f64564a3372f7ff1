"""Five seeds of what the guide pays, for notebook 13: trainings with stopped gradients, and gradients along the way.

data/results/gradients.json is what `python benchmarks/gradients.py` measured. Pictures and texts are made of it here,
verdicts included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from d2rkit.panels import base, measured
from d2rkit.panels.gradient_routes import Flow
from d2rkit.panels.stopped_runs import MEASURES, STOPS
from d2rkit.reporting.over_seeds import excludes_zero, interval_words, mean_interval
from d2rkit.reporting.significance import Difference

NAME = "gradients.json"
COMPARED = ("every", "adv", "mse", "clean")  # with nothing stopped
SAME = ("every", "every-no-adv")  # no gradient reaches the guide in either: the guides must be the same
TERMS = {"mse": "MSE of logits", "clean": "clean KL", "adv": "adversarial KL"}


@dataclass(frozen=True)
class StopSeeds:
    """runs: stop -> measure -> (S,). epochs: (E,). agreement: term -> (S, E), cosine of its gradient in the guide with
    that of CE(g(x), y). ratio: term -> (S, E), its gradient in the guide against that in the target, as norms."""

    runs: Mapping[str, Mapping[str, np.ndarray]]
    epochs: tuple[int, ...]
    agreement: Mapping[str, np.ndarray]
    ratio: Mapping[str, np.ndarray]
    source: str


def summary(flows: list[Flow]) -> dict[str, Any]:
    """What is kept of a training: by term, cosine and ratio at each epoch."""
    kept = {}
    for term in TERMS:
        at = flows[0].terms.index(term)
        kept[term] = {
            "agreement": [round(float(one.agreement[at]), 4) for one in flows],
            "ratio": [round(float(one.guide[at] / one.target[at]), 4) for one in flows],
        }
    return kept


def read(file: Path | None = None) -> StopSeeds:
    """The shipped measurement, or another one of benchmarks/gradients.py. ValueError if it is damaged."""
    return of_measurement(measured.read(NAME, file))


def of_measurement(measurement: Mapping[str, Any]) -> StopSeeds:
    runs = {
        stop: {name: np.array([run[name] for run in each]) for name in MEASURES}
        for stop, each in measurement["runs"].items()
    }
    flows = {
        key: {term: np.array([seed[term][key] for seed in measurement["flows"]]) for term in TERMS}
        for key in ("agreement", "ratio")
    }
    return StopSeeds(runs, tuple(measurement["epochs"]), **flows, source=measured.source(measurement))


# -- what came out ------------------------------------------------------------------------------------------
def gained(data: StopSeeds, measure: str = "guide_clean") -> dict[str, Difference]:
    """By how much a measure is higher with each stop than with nothing stopped; intervals that hold together."""
    plain = data.runs["nothing"][measure]
    return {stop: mean_interval(data.runs[stop][measure] - plain, questions=len(COMPARED)) for stop in COMPARED}


def same_guide(data: StopSeeds) -> bool:
    """Whether the guides of SAME have the same accuracy and cross-entropy to the last digit kept, for every seed."""
    return all((data.runs[SAME[0]][name] == data.runs[SAME[1]][name]).all() for name in ("guide_clean", "guide_ce"))


def pulls(data: StopSeeds, epoch: int) -> dict[str, Difference]:
    """The cosine of each term's pull on the guide with the labels', at an epoch; intervals that hold together."""
    at = data.epochs.index(epoch)
    return {term: mean_interval(values[:, at], questions=len(TERMS)) for term, values in data.agreement.items()}


def direction(data: StopSeeds, term: str) -> str:
    """How a term pulls at the guide at the end, beside the labels: "along", "across" or "against"."""
    pull = pulls(data, data.epochs[-1])[term]
    return "across" if not excludes_zero(pull) else "along" if pull.difference > 0 else "against"


def price(data: StopSeeds) -> dict[str, Any]:
    """By how many points the guide is more accurate with every term stopped, for a Prediction's reveal."""
    gain = gained(data)["every"]
    return {"actual": round(100 * gain.difference, 1), "interval": (100 * gain.low, 100 * gain.high)}


def target_pays(data: StopSeeds) -> dict[str, Any]:
    """What the target under PGD-20 does with every term stopped: "rises", "same" or "falls"."""
    gain = gained(data, "target_pgd")["every"]
    answer = "same" if not excludes_zero(gain) else "rises" if gain.difference > 0 else "falls"
    return {
        "actual": answer,
        "words": f"Target under PGD-20, every term stopped: {in_points(gain)}, {verdict(gain)}.",
    }


def in_points(difference: Difference) -> str:
    mean, interval = interval_words(difference).split(" ", 1)
    return f"{mean} points {interval}"


# -- pictures ---------------------------------------------------------------------------------------------
def draw_price(data: StopSeeds) -> Figure:
    """Differences from D2R as it is: a dot a seed, a bar for the interval."""
    made = base.figure(9.0, 3.3)
    for left, measure in ((0.2, "guide_clean"), (0.62, "target_pgd")):
        ax = made.add_axes((left, 0.23, 0.36, 0.64))
        base.tidy(ax, MEASURES[measure], "points more than with nothing stopped")
        reach = 0.0
        for row, (stop, gain) in enumerate(gained(data, measure).items()):
            each = 100 * (data.runs[stop][measure] - data.runs["nothing"][measure])
            sure = excludes_zero(gain)
            ax.plot([100 * gain.low, 100 * gain.high], [row, row], color=base.INK, lw=2.2 if sure else 1.2,
                    ls="-" if sure else "--")  # fmt: skip
            ax.plot(100 * gain.difference, row, "D", color=base.INK, ms=8, mfc=base.INK if sure else base.PAPER)
            ax.plot(each, np.full(len(each), row + 0.24), "o", color=base.GUIDE if left < 0.5 else base.TARGET, ms=5,
                    mec="white", mew=0.5)  # fmt: skip
            reach = max(reach, 100 * abs(gain.low), 100 * abs(gain.high), abs(each).max())
        ax.axvline(0, color=base.GREY, lw=1)
        ax.set(xlim=(-1.08 * reach, 1.08 * reach), ylim=(len(COMPARED) - 0.4, -0.6))
        names = [STOPS[stop].words for stop in COMPARED] if left < 0.5 else [""] * len(COMPARED)
        ax.set_yticks(range(len(COMPARED)), names, fontsize=9)
    made.text(0.01, 0.015, "diamond: mean, filled where the interval excludes 0; dots: seeds", fontsize=8.5,
              color=base.INK)  # fmt: skip
    return made


def draw_pulls(data: StopSeeds) -> Figure:
    """The cosine over training, a line a seed."""
    made = base.figure(9.0, 3.1)
    for place, (term, values) in enumerate(data.agreement.items()):
        ax = made.add_axes((0.075 + 0.315 * place, 0.25, 0.27, 0.62))
        base.tidy(ax, TERMS[term], "epoch", "cosine with CE's pull on g" if place == 0 else "")
        ax.plot(data.epochs, values.T, color=base.GUIDE, lw=1.2)
        ax.plot(data.epochs, values.mean(0), "^-", color=base.INK, lw=1.8, ms=6)
        ax.axhline(0, color=base.GREY, lw=1)
        ax.set(ylim=(-1.05, 1.05), xlim=(-0.2, max(data.epochs) + 0.2))
        ax.set_yticks([-1, 0, 1])
    made.text(0.01, 0.02, "triangles: mean over seeds; lines without marks: seeds", fontsize=8.5, color=base.INK)
    return made


# -- words ------------------------------------------------------------------------------------------------
def verdict(difference: Difference) -> str:
    return "beyond chance" if excludes_zero(difference) else "no difference beyond chance"


def words_price(data: StopSeeds) -> str:
    guide, robust = gained(data, "guide_clean"), gained(data, "target_pgd")
    confidence = gained(data, "guide_ce")
    sentences = [
        f"{STOPS[stop].words}: guide {in_points(guide[stop])}, {verdict(guide[stop])}; target under PGD-20 "
        f"{in_points(robust[stop])}, {verdict(robust[stop])}."
        for stop in COMPARED
    ]
    text = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    every = confidence["every"]
    ce = (
        f"With every term stopped the guide's cross-entropy changes by "
        f"{interval_words(every, 2, scale=1)}, from {data.runs['nothing']['guide_ce'].mean():.2f}: "
        f"{verdict(every)}."
    )
    same = (
        "Control: with every term stopped, the guide is the same whether or not the target has its adversarial KL, "
        "in every seed, to all digits kept."
        if same_guide(data)
        else "The control failed: guides differ that no gradient has reached."
    )
    rows = [
        (STOPS[stop].words, *(mean_words(name, values) for name, values in each.items()))
        for stop, each in data.runs.items()
    ]
    table = base.table(("", *MEASURES.values()), rows, "Mean ± standard deviation over seeds, last epoch")
    each = (
        f"Differences seed by seed; the four intervals of a measure hold together at 95 % (Student's t). {data.source}"
    )
    return base.sentence(text) + base.sentence(f"{ce} {same}") + table + base.sentence(each)


def mean_words(measure: str, values: np.ndarray) -> str:
    if measure == "guide_ce":
        return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"
    return f"{values.mean():.1%} ± {values.std(ddof=1):.1%}"


def words_pulls(data: StopSeeds) -> str:
    first, last = data.epochs[0], data.epochs[-1]
    sentences = []
    for epoch, when in ((first, "Before training"), (last, "At the end")):
        each = [f"{TERMS[term]} {interval_words(pull, 2, scale=1)}" for term, pull in pulls(data, epoch).items()]
        sentences.append(f"{when}: {', '.join(each)}.")
    ratios = data.ratio["adv"][:, -1]
    ratio = mean_interval(np.log(ratios))
    size = (
        f"At the end the adversarial KL's gradient in the guide is {np.exp(ratio.difference):.1f} times "
        f"({np.exp(ratio.low):.1f} to {np.exp(ratio.high):.1f}) as large as in the target."
    )
    return base.sentence(
        f"Cosine with the pull of CE(g(x), y) on the guide, on training images. {' '.join(sentences)} {size} "
        f"The trainings: {data.source}"
    )
