"""Panel of notebook 11: how much of the trade-off between clean and robust accuracy is the data's.

Where classes overlap no classifier gets everything right, and the most robust one need not be the most accurate one. In
the plane the best trade that any classifier can make is computed exactly; trained networks are dots that cannot lie
above it. What a network gives up beyond that is its own doing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from d2rkit.evaluation.frontier import PARTS, STEPS, Frontier, Optimum
from d2rkit.panels import ambiguous_plane as plane
from d2rkit.panels import base
from d2rkit.panels.ambiguous_plane import NETWORKS, SEEDS, SIDE, Trained
from d2rkit.panels.axes import Frame
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.panel import Panel
from d2rkit.reporting.over_seeds import excludes_zero, interval_words, mean_interval
from d2rkit.reporting.significance import Difference

LOOKS = dict(
    zip(
        NETWORKS,
        [
            ("o", base.BLUE),
            ("^", base.GREEN),
            ("v", base.SKY),
            ("<", base.PURPLE),
            ("s", base.ORANGE),
            ("D", base.RED),
        ],
        strict=True,
    )
)
NONE = "none"
AMBIGUOUS = {"spread": 0.1, "rare": 0.15, "eps": 0.1}
SEPARATED = AMBIGUOUS | {"spread": 0.02}  # control: the same rare cases, and nothing overlaps
NO_RARE = AMBIGUOUS | {"rare": 0.0}  # control: the same overlap of two equal Gaussians


@dataclass(frozen=True)
class Dial:
    """One distribution, the best that classifiers can do on it, and networks trained on samples of it.

    known: (2, SIDE, SIDE) masses; tried: kinds of networks, the chosen one last; optimum: the classifier drawn."""

    known: np.ndarray
    limits: Frontier
    optimum: Optimum
    tried: tuple[Trained, ...]
    spread: float
    rare: float
    eps: float

    @property
    def above(self) -> int:
        """How many networks lie above the frontier: 0, or something is wrong."""
        return sum(int((kind.own < -1e-9).sum()) for kind in self.tried)

    @property
    def title(self) -> str:
        return f"overlap {self.spread:g}, {self.rare:.0%} rare cases, ε = {self.eps:g}"


def compute(
    spread: float = 0.1, rare: float = 0.15, eps: float = 0.1, network: str = NONE, weight: int = 1,
    others: Sequence[str] = (),
) -> Dial:  # fmt: skip
    """spread, rare, eps: see ambiguous_plane; network: of NETWORKS or NONE; weight: of robust accuracy in 64ths, one of
    STEPS, of the optimal classifier that is drawn; others: networks to show beside. ValueError for anything else."""
    limits = plane.best(spread, rare, plane.reach_of(eps))
    drawn = [best for best in limits.optima if best.weight == weight]
    if not drawn:
        raise ValueError(f"weight must be one of {', '.join(map(str, STEPS))} (64ths), not {weight}")
    names = [name for name in others if name != network] + ([] if network == NONE else [network])
    tried = tuple(plane.trained(name, spread, rare, eps) for name in names)
    return Dial(plane.masses(spread, rare), limits, drawn[0], tried, spread, rare, eps)


# -- picture ----------------------------------------------------------------------------------------------
def draw(data: Dial, ghost: Dial | None = None, frame: Frame | None = None) -> Figure:
    made = base.figure(9.4, 4.9)
    draw_plane(made.add_axes((0.015, 0.16, 0.41, 0.76)), data)
    draw_frontier(made.add_axes((0.515, 0.26, 0.46, 0.66)), data, ghost, frame or Frame())
    return made


def draw_plane(ax, data: Dial) -> None:
    """Both densities as colour, the optimal border as a line, the latest network's (seed 0) as dashes."""
    share = (data.known / data.known.max()) ** 0.4
    orange, blue = (np.array(_rgb(colour)) for colour in (base.ORANGE, base.BLUE))
    paper = 1 - share[0][..., None] * (1 - orange) - share[1][..., None] * (1 - blue)
    ax.imshow(paper.clip(0, 1), origin="lower", extent=(0, 1, 0, 1), interpolation="nearest")
    side = (np.arange(SIDE) + 0.5) / SIDE
    border = np.ma.masked_array(data.optimum.decision.astype(float), data.optimum.free)
    if 0 < border.mean() < 1:
        ax.contour(side, side, border, levels=[0.5], colors=base.INK, linewidths=2.2)
    ax.plot([], [], color=base.INK, lw=2.2, label=f"optimal, robust accuracy weighs {data.optimum.weight}/{PARTS}")
    if data.tried:
        kind = data.tried[-1]
        if 0 < kind.decisions[0].mean() < 1:
            ax.contour(side, side, kind.decisions[0], levels=[0.5], colors=base.RED, linewidths=1.6, linestyles="--")
        ax.plot([], [], color=base.RED, lw=1.6, ls="--", label=f"{kind.name}, seed 0")
    ax.add_patch(Rectangle((0.97 - 2 * data.eps, 0.03), 2 * data.eps, 2 * data.eps, fill=False, ec=base.INK, lw=1.2))
    ax.annotate(
        "within reach\nof the attack",
        (0.95 - 2 * data.eps, 0.03 + data.eps),
        ha="right",
        va="center",
        fontsize=8,
        bbox={"fc": "white", "ec": "none", "pad": 1},
    )
    for c, (x, name) in enumerate(((0.5 + plane.COMMON, "class 0"), (0.5 - plane.COMMON, "class 1"))):
        ax.text(x, 0.5, name, ha="center", va="center", fontsize=9, color="white" if c else base.INK)
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.01), handlelength=3)
    base.bare(ax, data.title)


def draw_frontier(ax, data: Dial, ghost: Dial | None, frame: Frame) -> None:
    """Clean accuracy across, robust accuracy up; nothing lies in the hatched part. One dot is one network."""
    base.tidy(ax, "clean and robust accuracy", "clean accuracy", "robust accuracy")
    spots = np.concatenate([data.limits.points, *(np.stack([k.clean, k.robust], 1) for k in data.tried)])
    low, high = spots.min(0), spots.max(0)
    frame.hold_x(ax, "clean", low[0] - 0.02, min(1.0, high[0] + 0.03))
    frame.hold_y(ax, "robust", max(0.0, low[1] - 0.03), min(1.0, high[1] + 0.06))
    left, right = ax.get_xlim()
    across = np.linspace(left, right, 200)
    bayes = data.limits.bayes / data.limits.total
    ceiling = np.array([data.limits.most_robust(clean) if clean <= bayes else 0.0 for clean in across])
    ax.fill_between(across, ceiling, 1.5, facecolor="#EEEEEE", edgecolor="#9A9A9A", hatch="//", lw=0, zorder=0)
    if ghost is not None:
        # With a mark: between equal classes the frontier is a single point.
        ax.plot(*ghost.limits.points.T, **base.GHOST, marker="o", ms=5, mfc="white", label="frontier before")
        for kind in ghost.tried[-1:]:
            ax.plot(kind.clean, kind.robust, LOOKS[kind.name][0], mfc="none", mec=base.GHOST["color"], ms=6, zorder=1.6)
    ax.plot(*data.limits.points.T, "-", color=base.INK, lw=2, marker=".", label="frontier: the best possible")
    ax.plot(data.optimum.clean / data.limits.total, data.optimum.robust / data.limits.total, "o", ms=11, mfc="none",
            mec=base.INK, mew=1.6, label="the boundary on the left")  # fmt: skip
    for kind in data.tried:
        mark, colour = LOOKS[kind.name]
        ax.plot(kind.clean, kind.robust, mark, color=colour, ms=7, mec="white", mew=0.6, zorder=3, clip_on=False,
                label=kind.name)  # fmt: skip
    ax.xaxis.set_major_formatter(_percent)
    ax.yaxis.set_major_formatter(_percent)
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(-0.12, -0.17), ncols=3, columnspacing=1.2)


def _percent(value: float, place: int) -> str:
    return f"{100 * value:.0f} %"


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def draw_prices(dials: Mapping[str, Dial]) -> Figure:
    """Clean accuracy given up, in points, mean over seeds: the data's part and the networks' own, each seed a dot."""
    rows = [(name, kind) for name, dial in dials.items() for kind in dial.tried]
    height = 0.9 + 0.27 * len(rows) + 0.3 * len(dials)
    made = base.figure(9.4, height)
    ax = base.tidy(made.add_axes((0.17, 0.55 / height, 0.52, 1 - 0.85 / height)), "", "clean accuracy given up, points")
    places, at, before = [], 0.0, None
    for name, kind in rows:
        if name != before:
            at += 1.1
            ax.text(0, at - 0.75, name, fontsize=9, weight="bold", va="center")
            before = name
        needed, own = 100 * kind.needed.mean(), 100 * kind.own.mean()
        first = not places
        ax.barh(at, needed, 0.62, color=base.INK, label="due to the data" if first else None)
        ax.barh(at, own, 0.62, left=needed, color="white", ec=base.RED, hatch="///", lw=1,
                label="the networks' own" if first else None)  # fmt: skip
        ax.plot(100 * kind.given, np.full(len(kind.given), at), "o", ms=4.5, mfc="white", mec=base.INK, clip_on=False,
                label="one seed, both parts" if first else None)  # fmt: skip
        places.append(at)
        at += 1
    ax.set_yticks(places, [kind.name for _, kind in rows], fontsize=9)
    ax.set_ylim(at - 0.3, 0)
    ax.set_xlim(0, None)
    ax.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return made


# -- words ------------------------------------------------------------------------------------------------
def words(data: Dial) -> str:
    trade, first = data.limits.trade, data.limits.points[0]
    most = data.limits.bayes / data.limits.total
    summary = (
        f"Classes with {data.title}. No classifier is right on more than {most:.1%} of the clean points, and the most "
        f"accurate one keeps {first[1]:.1%} under attack. "
    )
    if trade[0] < 5e-4:
        summary += "No other classifier is more robust: here the data force no trade-off."
    else:
        summary += (
            f"The most robust one gains {100 * trade[1]:.1f} points under attack and gives up {100 * trade[0]:.1f} "
            "clean: this much of a trade-off is due to the data."
        )
    if data.above:
        summary += f" WRONG: {data.above} networks lie above the frontier, which is impossible."
    if not data.tried:
        return base.sentence(summary)
    rows = [
        (
            kind.name,
            *(f"{100 * mean.difference:.1f} ± {100 * (mean.high - mean.difference):.1f}" for mean in means),
        )
        for kind in data.tried
        for means in [[mean_interval(list(v)) for v in (kind.clean, kind.robust, kind.given, kind.needed, kind.own)]]
    ]
    header = ("network", "clean %", "robust %", "clean given up", "due to the data", "its own")
    caption = f"{SEEDS} seeds each, mean ± half of the 95 % interval, in points"
    return base.sentence(summary) + base.table(header, rows, caption)


def gap(after: Trained, before: Trained) -> tuple[Difference, Difference]:
    """Clean and robust accuracy of `after` less that of `before`, seed by seed."""
    clean, robust = after.clean - before.clean, after.robust - before.robust
    return mean_interval(list(clean)), mean_interval(list(robust))


def compared(dials: Mapping[str, Dial], after: str, before: str) -> str:
    """HTML: the phenomenon and its controls, one row a distribution."""
    rows = []
    for name, dial in dials.items():
        kinds = {kind.name: kind for kind in dial.tried}
        clean, robust = gap(kinds[after], kinds[before])
        shown = "yes" if excludes_zero(clean) and excludes_zero(robust) and clean.high < 0 < robust.low else "no"
        trade = dial.limits.trade
        rows.append(
            (
                name,
                interval_words(clean),
                interval_words(robust),
                f"{-100 * trade[0]:+.1f}, {100 * trade[1]:+.1f}",
                shown,
            )
        )
    header = ("data", "clean", "robust", "optimal classifiers: clean, robust", "do the networks trade off?")
    caption = f"{after} minus {before}, in points, with the 95 % interval over {SEEDS} seeds"
    return base.table(header, rows, caption)


# -- what came out, for the notebook's predictions ------------------------------------------------------------
def same_border(dial: Dial) -> dict[str, Any]:
    """Is the most robust classifier the most accurate one, too? "same" or "apart"."""
    first, last = dial.limits.optima[0], dial.limits.optima[-1]
    matters = ~(first.free | last.free)
    moved = int((first.decision != last.decision)[matters].sum())
    clean, robust = (100 * value for value in dial.limits.trade)
    words = (
        f"The two differ on {moved} of {SIDE * SIDE:,} cells. From the most accurate to the most robust one, clean "
        f"accuracy falls by {clean:.1f} points and robust accuracy rises by {robust:.1f}."
    )
    return {"actual": "same" if clean < 0.05 else "apart", "words": words}


def wasteful(dial: Dial, more: str = "") -> dict[str, Any]:
    """Which kinds of network give up clean accuracy that the data do not ask for? "none", "some" or "all" of those that
    are trained against attacks: of a kind the interval over seeds of its own part lies above half a point. more: HTML
    to add."""
    owns = {kind.name: mean_interval(list(kind.own)) for kind in dial.tried if kind.name != "natural"}
    wasted = [name for name, own in owns.items() if own.low > 0.005]
    parts = "; ".join(f"{name} {interval_words(own)}" for name, own in owns.items())
    actual = "none" if not wasted else "all" if len(wasted) == len(owns) else "some"
    told = base.sentence(f"Their own part, in points with the 95 % interval over seeds: {parts}.")
    return {"actual": actual, "words": told + more}


def data_share(dial: Dial, name: str, more: str = "") -> dict[str, Any]:
    """How many percent of the clean accuracy that networks of this kind give up is the data's, mean over seeds. more:
    HTML to add."""
    kind = next(kind for kind in dial.tried if kind.name == name)
    given, needed = 100 * kind.given.mean(), 100 * kind.needed.mean()
    words = base.sentence(
        f"{name} gives up {given:.1f} points; any classifier that is as robust gives up at least {needed:.1f}."
    )
    return {"actual": float(100 * needed / given) if given else 0.0, "words": words + more}


class AmbiguityDial(Panel):
    """Dials for the data, the frontier that they allow, and networks that try; those tried on the same data stay."""

    def __init__(self, **start: float | str):
        """start: initial settings, as in compute()."""
        at: dict[str, Any] = {**AMBIGUOUS, "network": NONE, "weight": 1, **start}
        self._tried: dict[tuple[float, float, float], list[str]] = {}
        kinds = {"none": NONE} | {name: name for name in NETWORKS}
        controls = {
            "spread": Slider("Overlap", at["spread"], 0.02, 0.14, 0.01, "Width of the classes; 0.02 is well apart"),
            "rare": Slider("Rare cases", at["rare"], 0.0, 0.3, 0.05, "Share of each class that lies inside the other"),
            "eps": Slider("ε", at["eps"], 0.0, 0.16, 0.02, "Largest move of an attack, in sides of the square"),
            "network": Choice("Train", at["network"], kinds, f"{SEEDS} networks of this kind, seeds 0 to {SEEDS - 1}"),
            "weight": Choice(
                "Optimal boundary for", at["weight"],
                {f"{PARTS - w}/{PARTS} clean, {w}/{PARTS} robust": w for w in STEPS},
                "Which of the optimal classifiers is drawn",
            ),
        }  # fmt: skip
        super().__init__("The ambiguity dial", controls, self._compute, draw, words)

    def _compute(self, spread: float, rare: float, eps: float, network: str, weight: int) -> Dial:
        spread, rare, eps = (round(value, 4) for value in (spread, rare, eps))
        tried = self._tried.setdefault((spread, rare, eps), [])
        made = compute(spread, rare, eps, network, weight, tuple(tried))
        if network != NONE:
            tried[:] = [*(name for name in tried if name != network), network]
        return made
