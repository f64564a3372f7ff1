"""Five seeds of the paths of notebook 10: where each run ends, and whether that could be chance.

data/results/trajectories.json is what `python benchmarks/trajectories.py` measured: distances of every run at every
moment. Pictures and texts are made of it here, verdicts included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path as File
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from d2rkit.panels import base, measured
from d2rkit.panels.inpca import distances
from d2rkit.panels.training_paths import ROLES, SETTINGS, Path
from d2rkit.reporting.over_seeds import excludes_zero, interval_words, mean_interval
from d2rkit.reporting.significance import Difference

NAME = "trajectories.json"
as_distance = partial(interval_words, places=3, scale=1)
TERMS = {"no-adv": "the adversarial KL", "no-mse": "the MSE", "no-clean": "the clean KL"}  # what each setting lacks


@dataclass(frozen=True)
class PathSeeds:
    """moments: (T,) in epochs. from_guide: setting -> (S, T), D(f(x'), g(x)); from_truth: setting -> (S, T, 3), of
    ROLES. accuracy: setting -> (S, 3), of ROLES at the end. source: hardware, seeds, n, in a sentence."""

    moments: np.ndarray
    seeds: tuple[int, ...]
    from_guide: Mapping[str, np.ndarray]
    from_truth: Mapping[str, np.ndarray]
    accuracy: Mapping[str, np.ndarray]
    source: str


def summary(path: Path) -> dict[str, list]:
    """What is kept of a run: distances at each moment, and accuracies at the end, to four decimals."""
    _, attacked, guide = path.log_p.transpose(1, 0, 2, 3)
    truth = -path.log_p[..., np.arange(len(path.labels)), path.labels].mean(-1) / 2  # D to certainty of the label
    return {
        "from_guide": distances(attacked, guide).round(4).tolist(),
        "from_truth": truth.round(4).tolist(),
        "accuracy": path.accuracy()[-1].round(4).tolist(),
    }


def read(file: File | None = None) -> PathSeeds:
    """The shipped measurement, or another one of benchmarks/trajectories.py. ValueError if it is damaged."""
    return of_measurement(measured.read(NAME, file))


def of_measurement(measurement: Mapping[str, Any]) -> PathSeeds:
    runs = measurement["runs"]
    stacked = {
        key: {setting: np.array([run[key] for run in each]) for setting, each in runs.items()}
        for key in ("from_guide", "from_truth", "accuracy")
    }
    moments, seeds = np.array(measurement["moments"]), tuple(measurement["seeds"])
    return PathSeeds(moments, seeds, **stacked, source=measured.source(measurement))


# -- what came out ------------------------------------------------------------------------------------------
def farther(data: PathSeeds) -> dict[str, Difference]:
    """By how much D(f(x'), g(x)) at the end is larger without each term than with all, seed by seed; intervals that
    hold together."""
    lacking = [setting for setting in TERMS if setting in data.from_guide]
    return {
        setting: mean_interval(data.from_guide[setting][:, -1] - data.from_guide["all"][:, -1], questions=len(lacking))
        for setting in lacking
    }


def turned_back(data: PathSeeds, settings: Sequence[str] = ("all", "detached")) -> dict[str, Difference]:
    """By how much the guide is farther from the truth at the end than half-way through training."""
    half = int(abs(data.moments - data.moments[-1] / 2).argmin())
    guide = ROLES.index("guide")
    return {
        setting: mean_interval(
            data.from_truth[setting][:, -1, guide] - data.from_truth[setting][:, half, guide], questions=len(settings)
        )
        for setting in settings
    }


def second_half(data: PathSeeds) -> str:
    """Where the guide goes in the second half of training with all terms: "on", "still" or "back"."""
    turn = turned_back(data)["all"]
    return "still" if not excludes_zero(turn) else "back" if turn.difference > 0 else "on"


def farthest(data: PathSeeds) -> str:
    """The setting without which f(x') ends farthest from g(x)."""
    differences = farther(data)
    return max(differences, key=lambda setting: differences[setting].difference)


# -- pictures ---------------------------------------------------------------------------------------------
def draw_farther(data: PathSeeds) -> Figure:
    """A line a seed from the run with all terms to the one that lacks a term."""
    made = base.figure(8.2, 3.2)
    ax = base.tidy(made.add_axes((0.09, 0.2, 0.9, 0.68)), "distance of f(x′) from g(x) at the end of training")
    differences = farther(data)
    for place, (setting, difference) in enumerate(differences.items()):
        for with_all, without in zip(data.from_guide["all"][:, -1], data.from_guide[setting][:, -1], strict=True):
            ax.plot([place - 0.22, place + 0.22], [with_all, without], color=base.GREY, lw=1, zorder=1)
            ax.plot(place - 0.22, with_all, "o", color=base.TARGET, mec="white", ms=7)
            ax.plot(place + 0.22, without, "D", color=base.RED, mec="white", ms=7)
        verdict = "differs" if excludes_zero(difference) else "could be chance"
        ax.annotate(f"{as_distance(difference)}\n{verdict}", (place, 1), xycoords=("data", "axes fraction"),
                    xytext=(0, -2), textcoords="offset points", ha="center", va="top", fontsize=9)  # fmt: skip
    ax.set_xticks(range(len(differences)), [f"without {TERMS[setting]}" for setting in differences], fontsize=9)
    ax.set_xlim(-0.6, len(differences) - 0.4)
    top = max(values[:, -1].max() for name, values in data.from_guide.items() if name in differences or name == "all")
    ax.set_ylim(0, 1.5 * top)
    ax.plot([], [], "o", color=base.TARGET, mec="white", ms=7, label="all terms")
    ax.plot([], [], "D", color=base.RED, mec="white", ms=7, label="without the term; a line is a seed")
    ax.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(-0.01, -0.12), ncols=2)
    return made


def draw_turn(data: PathSeeds, settings: Sequence[str] = ("all", "detached")) -> Figure:
    """The guide's distance from the truth over training, a line a seed."""
    made = base.figure(8.2, 3.2)
    ax = base.tidy(made.add_axes((0.09, 0.33, 0.89, 0.57)), "distance of the guide from the truth", "epoch")
    looks = ((base.GUIDE, "-", "^"), (base.INK, "--", "v"))
    turns = turned_back(data, settings)
    for setting, (colour, dash, mark) in zip(settings, looks, strict=True):
        lines = data.from_truth[setting][:, :, ROLES.index("guide")]
        ax.plot(data.moments, lines.T, color=colour, ls=dash, lw=1.2)
        label = f"{SETTINGS[setting].words}; second half: {as_distance(turns[setting])}"
        ax.plot(data.moments[-1], lines[:, -1].mean(), mark, color=colour, mec=base.INK, ms=9, clip_on=False)
        ax.plot([], [], color=colour, ls=dash, marker=mark, mec=base.INK, ms=8, label=label)
    ax.axvline(data.moments[-1] / 2, color=base.GREY, lw=1, ls=":")
    ax.set(xlim=(0, data.moments[-1]), ylim=(0, None))
    ax.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.24), labelspacing=0.5)
    return made


# -- words ------------------------------------------------------------------------------------------------
def words_farther(data: PathSeeds) -> str:
    differences = farther(data)
    sentences = []
    for setting, difference in differences.items():
        came = (
            f"f(x′) ends {'farther from' if difference.difference > 0 else 'nearer to'} g(x)"
            if excludes_zero(difference)
            else "no difference beyond chance"
        )
        sentences.append(f"Without {TERMS[setting]}: {came}, {as_distance(difference)}.")
    if not any(excludes_zero(d) for d in differences.values()):
        sentences.append("So on these seeds no term shows an effect of its own.")
    each = f"Differences seed by seed, with intervals that hold together at 95 % (Student's t). {data.source}"
    return base.sentence(" ".join(sentences)) + base.sentence(each)


def words_turn(data: PathSeeds, settings: Sequence[str] = ("all", "detached")) -> str:
    sentences = []
    for setting, difference in turned_back(data, settings).items():
        way = "away from the truth" if difference.difference > 0 else "towards the truth"
        verdict = f"the guide moves {way}" if excludes_zero(difference) else "the guide goes neither way beyond chance"
        sentences.append(
            f"{SETTINGS[setting].words}: in the second half of training {verdict}, {as_distance(difference)}."
        )
    text = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    return base.sentence(text) + base.sentence(data.source)
