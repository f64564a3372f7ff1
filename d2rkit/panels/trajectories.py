"""Panel of notebook 10: f(x), f(x') and g(x) of a training run as paths in a plane, terms of the loss switched off.

Each point is everything that a network says about a set of images at one moment; see inpca.py for the distance and the
plane. One plane holds all runs, so that nothing jumps when another is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import ipywidgets as widgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d2rkit.core.validation import nearest
from d2rkit.panels import base
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.inpca import Embedding, bhattacharyya, embed
from d2rkit.panels.panel import Panel
from d2rkit.panels.training_paths import ROLES, Path

NAMES = {"target": "f(x)", "attacked": "f(x′)", "guide": "g(x)"}
LOOKS = {  # colour, dash, mark, as everywhere in the kit
    "target": (base.TARGET, "-", "o"),
    "attacked": (base.RED, "--", "s"),
    "guide": (base.GUIDE, "-.", "^"),
}
LANDMARKS = ("the truth", "no idea")  # the labels with certainty; all classes alike
ALL = "all"


@dataclass(frozen=True)
class Plane:
    """Runs of one seed in one plane, for some of their images. curves: setting -> (T, 3, 2); landmarks: (2, 2);
    gaps: setting -> (T, 3 roles, 2), distance from g(x) of the same moment, and from the truth."""

    curves: Mapping[str, np.ndarray]
    landmarks: np.ndarray
    gaps: Mapping[str, np.ndarray]
    embedding: Embedding
    images: int


@dataclass(frozen=True)
class View:
    """A plane, and what is looked at in it: a run, one of its moments. ghost: the run beside it, or ""."""

    plane: Plane
    path: Path
    moment: int
    words: str
    ghost: str
    accuracy: np.ndarray  # (3,), at this moment, on these images


def plane(paths: Sequence[Path], images: np.ndarray | slice = slice(None)) -> Plane:
    """The plane of all these runs for some images (positions). ValueError unless they are of the same images."""
    first = paths[0]
    if any(p.log_p.shape[1:] != first.log_p.shape[1:] or (p.labels != first.labels).any() for p in paths):
        raise ValueError("paths in one plane must be of the same images")
    labels = first.labels[images]
    classes = first.log_p.shape[-1]
    with np.errstate(divide="ignore"):
        truth = np.log(np.eye(classes)[labels])
    uniform = np.full(truth.shape, -np.log(classes))
    chosen = [path.log_p[:, :, images] for path in paths]
    points = np.concatenate([np.stack([truth, uniform]), *(c.reshape(-1, *truth.shape) for c in chosen)])
    squared = bhattacharyya(points)
    embedding = embed(squared)
    xy = embedding.coordinates.copy()
    xy[:, 0] *= 1 if xy[0, 0] >= xy[1, 0] else -1  # the truth to the right of no idea
    curves, gaps, at = {}, {}, 2
    for path in paths:
        shape = path.log_p.shape[:2]
        rows = np.arange(at, at + shape[0] * shape[1]).reshape(shape)
        curves[path.setting] = xy[rows]
        guide = rows[:, [ROLES.index("guide")]]
        gaps[path.setting] = np.stack([squared[rows, guide], squared[rows, 0]], -1)
        at += rows.size
    middle = np.mean([curve[-1, ROLES.index("guide"), 1] for curve in curves.values()])
    if middle < xy[1, 1]:  # the guide's ends above no idea: the same way up in every plane
        curves = {name: curve * (1, -1) for name, curve in curves.items()}
        xy = xy * (1, -1)
    return Plane(curves, xy[:2], gaps, embedding, len(labels))


def choices(paths: Sequence[Path]) -> dict[str, str]:
    """Which images can be looked at: words -> name."""
    labels = paths[0].labels
    digits = {f"the {(labels == c).sum()} of class {c}": f"class {c}" for c in np.unique(labels)}
    return {f"all {len(labels)}": "all", **digits, "the hardest one": "hardest"}


def pick(paths: Sequence[Path], images: str) -> np.ndarray:
    """Positions of the images by a name of choices(). Hardest: where f(x') ends farthest from the truth, first run."""
    labels = paths[0].labels
    if images == "hardest":
        end = paths[0].log_p[-1, ROLES.index("attacked")]
        return np.array([end[np.arange(len(labels)), labels].argmin()])
    if images not in (names := list(choices(paths).values())):
        raise nearest(images, names, "choice of images")
    return np.arange(len(labels)) if images == "all" else np.flatnonzero(labels == int(images.split()[1]))


def view(paths: Mapping[str, Path], shown: Plane, chosen: np.ndarray, setting: str, moment: int) -> View:
    """ValueError for a run that is not there, or a moment that it does not have."""
    if setting not in paths:
        raise nearest(setting, paths, "run")
    path = paths[setting]
    if not 0 <= moment < len(path.moments):
        raise ValueError(f"moment must be one of 0 to {len(path.moments) - 1}, not {moment}")
    right = path.log_p[moment][:, chosen].argmax(-1) == path.labels[chosen]
    ghost = ALL if ALL in paths and setting != ALL else ""
    return View(shown, path, moment, f"{path.words}, seed {path.seed}", ghost, right.mean(-1))


def first_near_the_truth(path: Path) -> dict[str, Any]:
    """Which of f(x), f(x') and g(x) is the first to halve its distance to the truth (nobody need do it: then who comes
    nearest), for a Prediction's reveal."""
    right = -path.log_p[..., np.arange(len(path.labels)), path.labels].mean(-1) / 2  # (T, 3), D to certainty
    half = right <= right[0] / 2
    when = [int(half[:, n].argmax()) if half[:, n].any() else len(half) for n in range(len(ROLES))]
    first = min(range(len(ROLES)), key=lambda n: (when[n], right[:, n].min()))
    each = [
        f"{NAMES[role]} {f'after {path.moments[when[n]]:.1f} epochs' if half[:, n].any() else 'never'}"
        for n, role in enumerate(ROLES)
    ]
    text = f"The initial distance to the truth is halved: {', '.join(each)} ({path.words}, seed {path.seed})."
    return {"actual": ROLES[first], "words": text}


# -- picture ----------------------------------------------------------------------------------------------
def draw(data: View) -> Figure:
    """What comes after the moment is not drawn: it is to be predicted."""
    made = base.figure(9.4, 6.2)
    draw_plane(made.add_axes((0.08, 0.47, 0.91, 0.475)), data)
    left = made.add_axes((0.08, 0.13, 0.395, 0.215))
    draw_gaps(left, data, 0, "distance from the guide, g(x)", ("target", "attacked"))
    draw_gaps(made.add_axes((0.575, 0.13, 0.415, 0.215)), data, 1, "distance from the truth", ROLES)
    for role in ROLES:
        colour, dash, mark = LOOKS[role]
        left.plot([], [], color=colour, ls=dash, marker=mark, mec=base.INK, mew=0.8, ms=7, lw=2, label=NAMES[role])
    if data.ghost:
        left.plot([], [], color=base.GREY, lw=1, marker="o", mfc="white", ms=6, label="with all terms")
    left.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(-0.03, -0.3), ncols=4, handlelength=3)
    return made


def draw_plane(ax: Axes, data: View) -> None:
    plane, past = data.plane, slice(0, data.moment + 1)
    signs = ["" if sign > 0 else ", negative eigenvalue" for sign in plane.embedding.signs]
    base.tidy(ax, f"{data.words}: epoch {data.path.moments[data.moment]:.1f}", f"first axis{signs[0]}",
              f"second axis{signs[1]}")  # fmt: skip
    if data.ghost:
        for number, role in enumerate(ROLES):
            line = plane.curves[data.ghost][past, number]
            ax.plot(*line.T, color=base.GREY, lw=1, ls=LOOKS[role][1], zorder=1)
            ax.plot(*line[-1], LOOKS[role][2], mec=base.GREY, mfc="white", ms=7, zorder=2)
    curve = plane.curves[data.path.setting][past]
    ax.plot(*curve[-1, [ROLES.index("attacked"), ROLES.index("guide")]].T, color=base.INK, lw=1, zorder=3)
    for number, role in enumerate(ROLES):
        colour, dash, mark = LOOKS[role]
        ax.plot(*curve[:, number].T, color=colour, ls=dash, lw=2.2, zorder=3)
        ax.plot(*curve[-1, number], mark, color=colour, mec=base.INK, mew=0.8, ms=10, zorder=5)
    for name, place, mark in zip(LANDMARKS, plane.landmarks, ("*", "X"), strict=True):
        ax.plot(*place, mark, color=base.INK, ms=12 if mark == "*" else 8, zorder=4)
        ax.annotate(name, place, (0, 9), textcoords="offset points", fontsize=9, ha="center", color=base.INK)
    hold_still(ax, np.concatenate([plane.landmarks, *(c.reshape(-1, 2) for c in plane.curves.values())]))


def hold_still(ax: Axes, points: np.ndarray) -> None:
    """Limits around all points, whichever of them are shown; a unit is as long on both axes."""
    low, high = points.min(0), points.max(0)
    size = (high - low) * 1.12
    box = ax.get_position().size * cast(Figure, ax.figure).get_size_inches()
    unit = (size / box).max()
    middle, half = (low + high) / 2, unit * box / 2
    ax.set(xlim=(middle[0] - half[0], middle[0] + half[0]), ylim=(middle[1] - half[1], middle[1] + half[1]))


def draw_gaps(ax: Axes, data: View, which: int, title: str, roles: Sequence[str]) -> None:
    base.tidy(ax, title, "epoch")
    past = slice(0, data.moment + 1)
    epochs = data.path.moments
    for role in roles:
        colour, dash, mark = LOOKS[role]
        number = ROLES.index(role)
        if data.ghost:
            ax.plot(epochs[past], data.plane.gaps[data.ghost][past, number, which], color=base.GREY, lw=1, ls=dash)
        values = data.plane.gaps[data.path.setting][past, number, which]
        ax.plot(epochs[past], values, color=colour, lw=2, ls=dash)
        ax.plot(epochs[data.moment], values[-1], mark, color=colour, mec=base.INK, mew=0.8, ms=8, clip_on=False)
    numbers = [ROLES.index(role) for role in roles]
    top = max(gaps[:, numbers, which].max() for gaps in data.plane.gaps.values())
    ax.set(xlim=(0, epochs[-1] * 1.02), ylim=(0, 1.08 * top))  # the same for every run


# -- words ------------------------------------------------------------------------------------------------
def words(data: View) -> str:
    plane, attacked = data.plane, ROLES.index("attacked")
    gaps = plane.gaps[data.path.setting][data.moment]
    images = "1 image" if plane.images == 1 else f"{plane.images} images"
    summary = (
        f"{data.words}: after {data.path.moments[data.moment]:.1f} of {data.path.moments[-1]:g} epochs, on {images}, "
        f"f(x′) lies {gaps[attacked, 0]:.3f} from g(x)"
    )
    if data.ghost:
        summary += f"; with all terms it is {plane.gaps[data.ghost][data.moment, attacked, 0]:.3f}"
    rows = [
        (NAMES[role], f"{data.accuracy[n]:.0%}", f"{gaps[n, 0]:.3f}", f"{gaps[n, 1]:.3f}")
        for n, role in enumerate(ROLES)
    ]
    table = base.table(
        ("", "accuracy", "from g(x)", "from the truth"), rows, "Bhattacharyya distances, mean over the images"
    )
    return base.sentence(summary + ".") + table + base.sentence(faithful(plane.embedding))


def faithful(embedding: Embedding) -> str:
    """How far the plane can be believed."""
    values = embedding.eigenvalues
    negative = -values.min() / abs(values).max()
    text = f"The plane holds {embedding.kept():.1%} of the sum of squared eigenvalues. "
    if negative < 1e-9:
        return text + "No axis has a negative eigenvalue."
    return text + (
        "Some axes have negative eigenvalues and shorten distances; the largest of these has "
        f"{negative:.0%} of the largest eigenvalue's magnitude."
    )


class Trajectories(Panel):
    """Scrub through training; switch terms of the loss off; look at all images, a class, or one."""

    def __init__(self, paths: Sequence[Path], **start: int | str):
        """paths: runs of one seed, the first of them shown first. start: initial settings of controls."""
        by_name = {path.setting: path for path in paths}
        planes: dict[str, tuple[Plane, np.ndarray]] = {}

        def compute(setting: str, images: str, moment: int) -> View:
            if images not in planes:
                chosen = pick(paths, images)
                planes[images] = plane(paths, chosen), chosen
            return view(by_name, *planes[images], setting, moment)

        last = len(paths[0].moments) - 1
        at: dict[str, Any] = {"setting": paths[0].setting, "images": "all", "moment": 0} | start
        controls = {
            "setting": Choice("Loss", at["setting"], {path.words: path.setting for path in paths}),
            "images": Choice("Images", at["images"], choices(paths)),
            "moment": Slider("Moment", at["moment"], 0, last, 1, "Moments of training, dense early on: 0 is before it"),
        }
        super().__init__("Trajectories in prediction space", controls, compute, draw, words)
        self.play = widgets.Play(value=at["moment"], min=0, max=last, interval=700)
        self.play.tooltip = "Play the training from here"
        widgets.link((self.play, "value"), (self.controls["moment"].main, "value"))
        self.more.children = [self.play]
