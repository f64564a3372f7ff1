"""Notebook 07's signature: do two methods differ more than two seeds of one method?

The control is a comparison in which there is no better method to be found. A paired test speaks of networks, so it
finds differences there, too; how often, and how large, is the yardstick for a difference between methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from d2rkit.core.paths import shipped
from d2rkit.experiments.experiment import Run, read_run
from d2rkit.methods.catalogue import METHODS
from d2rkit.panels import base
from d2rkit.panels.shares import Share
from d2rkit.reporting.frame import attack_title
from d2rkit.reporting.significance import flags_of, mcnemar

LEVEL = 0.05


@dataclass(frozen=True)
class SeedPairs:
    """Each pair of networks on the same images: how far apart, in points, and McNemar's p, (N, 2).

    within: two seeds of one method; between: the reference and another method, the same seed."""

    within: np.ndarray
    between: np.ndarray
    attack: str
    reference: str
    images: int
    seeds: int
    methods: int

    def called_different(self, which: str) -> Share:
        return Share.of(getattr(self, which)[:, 1] < LEVEL)


def family_runs() -> list[Run]:
    """The shipped runs of `d2rkit reproduce family`: every method with a guide, five seeds, on digits."""
    return [read_run(folder) for folder in sorted((shipped("results") / "family" / "runs").iterdir())]


def compute(runs: Sequence[Run], attack: str = "autoattack", reference: str = "d2r-cag") -> SeedPairs:
    """ValueError if `reference` has no runs here, or no method has two seeds."""
    flags: dict[str, dict[int, np.ndarray]] = {}
    for run in runs:
        flags.setdefault(run.experiment.method, {})[run.experiment.seed] = flags_of(run, attack)
    if reference not in flags:
        raise ValueError(f"there are no runs of {reference} here, only of {', '.join(flags)}")

    def pair(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        return 100 * abs(a.mean() - b.mean()), mcnemar(a, b).p

    within = [pair(own[i], own[j]) for own in flags.values() for i, j in combinations(sorted(own), 2)]
    ours = flags[reference]
    between = [pair(ours[s], own[s]) for name, own in flags.items() if name != reference for s in own if s in ours]
    if not within or not between:
        raise ValueError("this needs two methods, and two seeds of one of them")
    images, seeds = len(next(iter(ours.values()))), max(map(len, flags.values()))
    title = METHODS[reference].title
    return SeedPairs(np.array(within), np.array(between), attack, title, images, seeds, len(flags))


# -- picture ----------------------------------------------------------------------------------------------
def draw(data: SeedPairs) -> Figure:
    """Every pair of networks is a mark: as far to the right as the two are apart."""
    made = base.figure(9.4, 2.9)
    ax = base.tidy(made.add_axes((0.26, 0.3, 0.72, 0.58)), "", "difference of two networks, points", "")
    rows = (
        ("two seeds of one method\n(control)", data.within),
        (f"{data.reference} and\nanother method", data.between),
    )
    for row, (_, pairs) in enumerate(rows):
        spots = spread(pairs[:, 0])
        for chosen, mark, colour, size in (
            (pairs[:, 1] >= LEVEL, "o", base.GREY, 4),
            (pairs[:, 1] < LEVEL, "D", base.RED, 5),
        ):
            ax.plot(pairs[chosen, 0], row + spots[chosen], mark, color=colour, ms=size, alpha=0.8, mec="white", mew=0.4)
    for mark, colour, words in (
        ("o", base.GREY, "no difference to tell"),
        ("D", base.RED, "called different: p < 0.05"),
    ):
        ax.plot([], [], mark, color=colour, ms=6, label=words)
    ax.set(ylim=(1.5, -0.5), xlim=(-0.5, None))
    ax.set_yticks([0, 1], [name for name, _ in rows], fontsize=9)
    ax.legend(fontsize=8, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(-0.02, 1.2), handletextpad=0.1)
    return made


def spread(values: np.ndarray) -> np.ndarray:
    """Offsets that keep marks of equal value apart."""
    offsets = np.zeros(len(values))
    for value in np.unique(values.round(6)):
        same = np.isclose(values, value)
        offsets[same] = np.linspace(-0.38, 0.38, same.sum()) if same.sum() > 1 else 0
    return offsets


# -- words ------------------------------------------------------------------------------------------------
def words(data: SeedPairs) -> str:
    rows = []
    for name, which in (("two seeds of one method (control)", "within"), (f"{data.reference} and another", "between")):
        pairs, share = getattr(data, which), data.called_different(which)
        gaps = f"{np.median(pairs[:, 0]):.0f}", f"{pairs[:, 0].max():.0f}"
        rows.append((name, str(len(pairs)), *gaps, f"{share.counted}, {share}"))
    header = ("pairs of networks", "pairs", "median difference, points", "largest", "called different, p < 0.05")
    caption = (
        f"{attack_title(data.attack)}, {data.images} test images, {data.methods} methods, {data.seeds} seeds. Pairs "
        "share networks, so the intervals are somewhat too narrow"
    )
    return base.table(header, rows, caption)
