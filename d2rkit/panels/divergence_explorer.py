"""Panel of notebook 01: what a divergence asks of the target, on the simplex of three classes.

One point of the triangle is one prediction (p_A, p_B, p_C). The guide stands still; the target starts
somewhere and follows the negative gradient with respect to its logits, as it would in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.tri import Triangulation
from torch import Tensor

from d2rkit.core.validation import nearest
from d2rkit.methods import divergences as D
from d2rkit.panels import base
from d2rkit.panels.axes import Frame
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.panel import Panel
from d2rkit.panels.stage import STILL, Place, Stage
from d2rkit.panels.touch import from_picture, to_picture

CLASSES = ("A", "B", "C")
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
EDGE = 0.004  # the smallest probability drawn: several divergences are infinite on the edge itself
STEPS, RATE = 120, 0.3  # gradient descent on the target's logits


def centred_mse(target: Tensor, guide: Tensor) -> Tensor:
    """MSE of logits that sum to zero: a point of the simplex fixes logits up to a shift."""
    return D.logit_mse(target - target.mean(1, keepdim=True), guide - guide.mean(1, keepdim=True))


# name -> (label, divergence of (target, guide)); all from d2rkit.methods.divergences, argument order made explicit
CHOICES: dict[str, tuple[str, D.Divergence]] = {
    "kl": ("KL(target ‖ guide)", D.kl),
    "reverse-kl": ("KL(guide ‖ target)", D.reverse_kl),
    "symmetric-kl": ("symmetric KL: both summed", D.symmetric_kl),
    "absolute-gap": ("released gap: |KL − reverse KL|", D.absolute_gap),
    "jensen-shannon": ("Jensen–Shannon", D.jensen_shannon),
    "logit-mse": ("MSE of logits", centred_mse),
    "probability-mse": ("MSE of probabilities", D.probability_mse),
    "cross-entropy": ("cross-entropy H(guide, target)", lambda target, guide: D.cross_entropy(guide, target)),
    "total-variation": ("total variation", D.total_variation),
    "cosine": ("cosine distance", D.cosine),
}


@dataclass(frozen=True)
class Landscape:
    """A divergence from every point of the simplex to the guide. Points are rows (p_A, p_B, p_C)."""

    name: str
    label: str
    guide: np.ndarray  # (3,)
    values: np.ndarray  # (N,) on `grid()`
    gap: np.ndarray  # (N,) KL(target ‖ guide) − KL(guide ‖ target) there
    field: np.ndarray  # (M, 3) change of the probabilities downhill, at `arrow_places()`
    path: np.ndarray  # (STEPS + 1, 3), the target's way
    along: np.ndarray  # (STEPS + 1,) the divergence on the way
    distance: np.ndarray  # (STEPS + 1,) total variation between target and guide on the way
    at_start: dict[str, float]  # every divergence at the start

    @property
    def arrived(self) -> bool:
        """Whether the target ended within 0.02 (total variation) of the guide."""
        return bool(self.distance[-1] < 0.02)


@lru_cache(maxsize=4)
def grid(cells: int = 48) -> np.ndarray:
    """Points of a regular triangular grid inside the simplex, (N, 3), none nearer than EDGE to an edge."""
    points = [(i, j, cells - i - j) for i in range(cells + 1) for j in range(cells + 1 - i)]
    return EDGE + (1 - 3 * EDGE) * np.array(points, dtype=float) / cells


@lru_cache(maxsize=1)
def arrow_places() -> np.ndarray:
    coarse = grid(12)
    return coarse[coarse.min(1) > 2 * EDGE]  # none on the edges


@lru_cache(maxsize=1)
def triangulation() -> Triangulation:
    xy = grid() @ CORNERS
    return Triangulation(xy[:, 0], xy[:, 1])


def point(first: float, share: float) -> np.ndarray:
    """The prediction that gives `first` to class A and `share` of the rest to class B, kept off the edges."""
    p = np.array([first, (1 - first) * share, (1 - first) * (1 - share)])
    return EDGE + (1 - 3 * EDGE) * p


def compute(
    divergence: str = "kl", guide_a: float = 0.6, guide_b: float = 0.75, start_a: float = 0.1, start_b: float = 0.15
) -> Landscape:
    """guide_a: the guide's probability of A; guide_b: the share of the rest that goes to B, both in [0, 1];
    start_a, start_b: the same for the target's start. ValueError for an unknown divergence or impossible point."""
    if divergence not in CHOICES:
        raise nearest(divergence, CHOICES, "divergence")
    for name, value in {"guide_a": guide_a, "guide_b": guide_b, "start_a": start_a, "start_b": start_b}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is a probability and must lie in [0, 1], not {value}")
    label, measure = CHOICES[divergence]
    guide, start = point(guide_a, guide_b), point(start_a, start_b)
    q = torch.from_numpy(guide).log()[None]
    everywhere = torch.from_numpy(grid()).log()
    here = torch.from_numpy(start).log()[None]
    path, along = (values[:, 0].numpy() for values in descend(measure, here, q))
    coarse = torch.from_numpy(arrow_places()).log()
    return Landscape(
        divergence, label, guide,
        measure(everywhere, q.expand_as(everywhere)).numpy(),
        D.kl_gap(everywhere, q.expand_as(everywhere)).numpy(),
        flow(coarse, downhill(measure, coarse, q.expand_as(coarse))[0]),
        path, along,
        0.5 * np.abs(path - guide).sum(1),
        {key: other(here, q).item() for key, (_, other) in CHOICES.items()},
    )  # fmt: skip


def downhill(measure: Callable, logits: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the gradient of each divergence with respect to the target's logits, (N, 3), and its value, (N,)."""
    logits = logits.detach().requires_grad_()
    value = measure(logits, guide)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return -gradient, value.detach()


def flow(logits: Tensor, step: Tensor) -> np.ndarray:
    """How the probabilities change when the logits move by a small `step`: dp = p (dz − <p, dz>)."""
    p = logits.softmax(1)
    return (p * (step - (p * step).sum(1, keepdim=True))).numpy()


def descend(measure: Callable, start: Tensor, guide: Tensor, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Gradient descent on the target's logits; start, guide: logits (B, 3). Probabilities on the way,
    (steps + 1, B, 3), and the divergence, (steps + 1, B)."""
    logits, path, along = start, [], []
    for _ in range(steps):
        step, value = downhill(measure, logits, guide)
        path.append(logits.softmax(1))
        along.append(value)
        logits = logits + RATE * step
    path.append(logits.softmax(1))
    along.append(measure(logits, guide))
    return torch.stack(path), torch.stack(along)


# -- picture ----------------------------------------------------------------------------------------------
OUTLINE = {"markeredgecolor": "white", "markeredgewidth": 1.3, "linestyle": "none"}
SIZE, TRIANGLE = (9.4, 4.5), (0.0, 0.02, 0.56, 0.9)  # inches; the triangle's place in the figure
LIMITS = {"xlim": (-0.13, 1.13), "ylim": (-0.09, 0.97), "aspect": "equal"}
MARKS = {
    "target, start": {"marker": "o", "ms": 9, "color": base.INK} | OUTLINE,
    "target, end": {"marker": "s", "ms": 9, "color": base.TARGET} | OUTLINE,
    "guide": {"marker": "*", "ms": 16, "color": base.GUIDE} | OUTLINE,
}
BLIND = {"color": base.RED, "ls": "--", "lw": 2}
DESCENT = {
    "the divergence": {"color": base.BLUE, "lw": 2},
    "distance to the guide (total variation)": {"color": base.RED, "lw": 2, "ls": "--"},
}


def draw(
    data: Landscape, ghost: Landscape | None = None, frame: Frame | None = None, made: Stage | None = None
) -> Stage:
    made = made or base.figure(*SIZE)
    draw_simplex(made, TRIANGLE, data, ghost)
    draw_descent(made, data, ghost, frame)
    draw_predictions(made, data)
    return made


def draw_comparison(landscapes: list[Landscape]) -> Figure:
    """The same guide and start under several divergences, side by side."""
    made = base.figure(9.4, 9.4 / len(landscapes) * 0.95)
    width = 1 / len(landscapes)
    for place, data in enumerate(landscapes):
        draw_simplex(made, (place * width, 0, width, 1), data)
    return made


def legend_of(looks: Mapping[str, dict[str, Any]]) -> list[Line2D]:
    return [Line2D([], [], label=label, **style) for label, style in looks.items()]


def furnish_simplex(ax: Axes, title: str, blind: bool, haunted: bool) -> None:
    """The triangle, its corners' names, and the legend; blind: with the gap's curve; haunted: with a ghost."""
    ax.set(**LIMITS, xticks=[], yticks=[])
    ax.axis("off")
    ax.plot(*np.vstack([CORNERS, CORNERS[:1]]).T, color=base.INK, lw=1)
    for name, (x, y) in zip(CLASSES, CORNERS, strict=True):
        place = x + (x - 0.5) * 0.09, y + (0.035 if y else -0.055)
        ax.text(*place, f"class {name}", ha="center", fontsize=10, zorder=STILL)
    ax.text(-0.1, 0.955, title, fontsize=11, color=base.INK, zorder=STILL)
    looks = {"before": base.GHOST} if haunted else {}
    handles = legend_of(looks | MARKS | ({"blind: the gap is 0": BLIND} if blind else {}))
    place = {"loc": "upper right", "bbox_to_anchor": (1.0, 0.96)}
    ax.legend(handles=handles, **place, fontsize=8, frameon=False, handletextpad=0.4).set_zorder(STILL)


def draw_simplex(made: Stage, place: Place, data: Landscape, ghost: Landscape | None = None) -> None:
    """Heat map (darker is farther), arrows downhill, the target's path, and the gap's blind curve; in grey, where
    the target went before."""
    blind = data.name == "absolute-gap"
    ax = made.axes_at(place, furnish_simplex, data.label, blind, ghost is not None)
    values = data.values - data.values.min()  # cross-entropy does not start at 0
    top = np.quantile(values, 0.97)
    levels = data.values.min() + max(top, 1e-6) * np.linspace(0, 1, 13) ** 2  # finer near the minimum
    ax.tricontourf(triangulation(), data.values, levels=levels, cmap="Blues", extend="max", alpha=0.85)
    if blind:
        curve = {"colors": BLIND["color"], "linestyles": BLIND["ls"], "linewidths": BLIND["lw"]}
        ax.tricontour(triangulation(), data.gap, levels=[0], **curve, zorder=1.9)  # below the triangle's sides
    xy, arrows = arrow_places() @ CORNERS, data.field @ CORNERS
    length = np.linalg.norm(arrows, axis=1)
    seen = length > 1e-3
    scale = 0.055 * np.sqrt(np.minimum(length / 0.15, 1))[seen] / length[seen]
    ax.quiver(
        xy[seen, 0], xy[seen, 1], arrows[seen, 0] * scale, arrows[seen, 1] * scale,
        angles="xy", scale_units="xy", scale=1, width=0.004, color=base.GREY,
    )  # fmt: skip
    if ghost is not None:
        ax.plot(*(ghost.path @ CORNERS).T, **base.GHOST)
        for style, p in zip(MARKS.values(), (ghost.path[0], ghost.path[-1], ghost.guide), strict=True):
            ax.plot(*(p @ CORNERS), **{**style, "color": base.GHOST["color"], "zorder": 1.6})
    way = data.path @ CORNERS
    ax.plot(way[:, 0], way[:, 1], color=base.INK, lw=2.2)
    for style, p in zip(MARKS.values(), (data.path[0], data.path[-1], data.guide), strict=True):
        ax.plot(*(p @ CORNERS), **style)


def furnish_descent(ax: Axes, low: float, high: float) -> None:
    base.tidy(ax, "On the way", "gradient step", "")
    ax.set(xlim=(-0.05 * STEPS, 1.05 * STEPS), ylim=(low, high))
    ax.set_xticks([0, STEPS // 2, STEPS])
    legend = ax.legend(handles=legend_of(DESCENT), fontsize=8, frameon=False, loc="upper right", borderaxespad=0)
    legend.set_zorder(STILL)


def draw_descent(made: Stage, data: Landscape, ghost: Landscape | None, frame: Frame | None) -> None:
    highest = max(run.max() for each in filter(None, (data, ghost)) for run in (each.along, each.distance))
    limits = (frame or Frame()).hold("descent", 0, 1.5 * max(highest, 0.05))  # legend above; no rounding
    ax = made.axes_at((0.66, 0.62, 0.32, 0.28), furnish_descent, *limits)
    if ghost is not None:
        ax.plot(ghost.along, **base.GHOST)
        ax.plot(ghost.distance, **base.GHOST)
    for run, style in zip((data.along, data.distance), DESCENT.values(), strict=True):
        ax.plot(run, **style)


def furnish_predictions(ax: Axes) -> None:
    base.tidy(ax, "Predictions (marks as in the triangle)", "", "probability")
    ax.set_xticks(range(3), [f"class {c}" for c in CLASSES])
    ax.set_yticks([0, 0.5, 1])
    ax.set(xlim=(-0.5, 2.5), ylim=(0, 1))


def draw_predictions(made: Stage, data: Landscape) -> None:
    """The three points of the triangle again, as probabilities, with the same marks."""
    ax = made.axes_at((0.66, 0.13, 0.32, 0.28), furnish_predictions)
    for shift, style, p in zip(
        (-0.15, 0, 0.15), MARKS.values(), (data.path[0], data.path[-1], data.guide), strict=True
    ):
        ax.vlines(np.arange(3) + shift, 0, p, color=style["color"], lw=2.5)
        ax.plot(np.arange(3) + shift, p, **style, clip_on=False)


# -- words ------------------------------------------------------------------------------------------------
def words(data: Landscape) -> str:
    end = "arrived at the guide" if data.arrived else "did NOT arrive at the guide"
    summary = (
        f"{data.label}: from {data.along[0]:.4f} at the start to {data.along[-1]:.4f} after {STEPS} steps. "
        f"The target {end}: total variation between them {data.distance[0]:.3f} → {data.distance[-1]:.3f}."
    )
    rows = [
        (name, *(f"{v:.3f}" for v in p))
        for name, p in (("guide", data.guide), ("target, start", data.path[0]), ("target, end", data.path[-1]))
    ]
    places = base.table(("", *(f"class {c}" for c in CLASSES)), rows, "Probabilities")
    start = base.table(
        ("measure", "value"),
        [(CHOICES[key][0], f"{value:.4f}") for key, value in data.at_start.items()],
        "Every measure at the target's start",
    )
    return base.sentence(summary) + base.side_by_side(places, start)


# -- touch ------------------------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def triangle_axes() -> Axes:
    """Empty axes that lie like those of draw()."""
    return base.figure(*SIZE).add_axes(TRIANGLE, **LIMITS)


def settings_at(across: float, down: float) -> tuple[float, float]:
    """P(A), and the share of the rest that goes to B, of a place in the picture; outside the triangle, of its edge."""
    x, y = from_picture(triangle_axes(), across, down)
    p = np.linalg.solve(np.vstack([CORNERS.T, np.ones(3)]), (x, y, 1))
    p = np.maximum((p - EDGE) / (1 - 3 * EDGE), 0)
    p /= p.sum()
    return round(float(p[0]), 2), round(float(p[1] / max(1 - p[0], 1e-9)), 2)


class DivergenceExplorer(Panel):
    """Choose a divergence, move the guide and the target's start, see where the target ends."""

    def __init__(self, **start: float | str):
        """start: initial settings, as in compute()."""
        at: dict[str, Any] = {"guide_a": 0.6, "guide_b": 0.75, "start_a": 0.1, "start_b": 0.15}
        at = {"divergence": "kl"} | at | start
        controls = {
            "divergence": Choice("Divergence", at["divergence"], {label: key for key, (label, _) in CHOICES.items()}),
            "guide_a": Slider("Guide: P(A)", at["guide_a"], 0.0, 1.0, 0.01, "The guide's probability of class A"),
            "guide_b": Slider(
                "Guide: rest to B", at["guide_b"], 0.0, 1.0, 0.01, "Share of the rest that the guide gives to B"
            ),
            "start_a": Slider(
                "Target start: P(A)", at["start_a"], 0.0, 1.0, 0.01, "The target's first probability of class A"
            ),
            "start_b": Slider(
                "Start: rest to B", at["start_b"], 0.0, 1.0, 0.01, "Share of the rest that the target gives to B"
            ),
        }
        super().__init__("Divergence explorer", controls, compute, draw, words)

    def on_touch(self, message: Mapping[str, Any]) -> None:
        """The guide or the target's start was dragged."""
        if message["kind"] == "move" and message["name"] in ("guide", "start"):
            first, share = settings_at(message["x"], message["y"])
            self.drag(message["done"], **{f"{message['name']}_a": first, f"{message['name']}_b": share})

    def _show(self, settings: Mapping[str, Any], data: Landscape) -> None:
        super()._show(settings, data)
        if self.touch is not None:
            places = {"guide": data.guide, "start": data.path[0]}
            spots = {name: to_picture(triangle_axes(), *(p @ CORNERS)) for name, p in places.items()}
            self.touch.things = [{"name": name, "x": x, "y": y, "ring": True} for name, (x, y) in spots.items()]
