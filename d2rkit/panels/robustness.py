"""Panel of notebook 06: what an attack finds, image by image, and two models that hide their gradients.

An accuracy under attack is an upper bound: it says what *this* attack did not find. The panel keeps the flags of
every attack tried and shows the share of images that has withstood all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from d2rkit.core.validation import nearest
from d2rkit.evaluation.evaluator import Evaluator, check_radius
from d2rkit.methods.pair import GuidedPair
from d2rkit.panels import base
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.panel import Panel
from d2rkit.panels.sample_pairs import SamplePair
from d2rkit.panels.shares import Share

MODEL_ATTACKS = {
    "clean": "none (clean images)",
    "fgsm": "FGSM",
    "pgd": "PGD on cross-entropy",
    "cw": "PGD on the margin (C&W)",
    "transfer": "transfer from another network",
    "autoattack": "AutoAttack, standard (slow)",
}


# -- models that look robust ------------------------------------------------------------------------------
class Sharp(nn.Module):
    """The same decisions with logits so large that softmax saturates: in float32 the gradient of cross-entropy is
    exactly 0 wherever the prediction is right. The effect that undid defensive distillation (Carlini & Wagner 2017)."""

    def __init__(self, network: nn.Module, factor: float = 1e4):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.network(x)


class Rounded(nn.Module):
    """Pixels rounded to `levels` values before the network sees them: a staircase, whose gradient is 0 nearly
    everywhere ("shattered gradients", Athalye et al. 2018)."""

    def __init__(self, network: nn.Module, levels: int = 16):
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, x: Tensor) -> Tensor:
        return self.network(torch.round(x * (self.levels - 1)) / (self.levels - 1))


def masked(sample: SamplePair, kind: str) -> SamplePair:
    """`sample` with its target behind a mask; kind: "sharp" or "rounded". ValueError for another kind."""
    kinds = {"sharp": (Sharp, "logits × 10,000"), "rounded": (Rounded, "pixels rounded to 16 levels")}
    if kind not in kinds:
        raise nearest(kind, kinds, "mask")
    wrap, words = kinds[kind]
    return replace(
        sample, pair=GuidedPair(wrap(sample.pair.target)).eval(), title=f"{sample.title}, {words}",
        source=f"{sample.source} In front of it: {words}.",
    )  # fmt: skip


# -- measuring --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Measured:
    """One model under the attacks tried so far at one eps (pixel scale).

    images: (N, C, H, W) in [0, 1]; flags: attack -> (N,) bool, True where the prediction is still right;
    attack: the one just chosen, a key of flags."""

    images: np.ndarray
    flags: Mapping[str, np.ndarray]
    attack: str
    eps: float
    title: str

    @property
    def worst(self) -> np.ndarray:
        """(N,) bool: right on the clean image and under every attack tried."""
        return np.logical_and.reduce(list(self.flags.values()))

    def accuracy(self, attack: str) -> Share:
        """How many are right; "all" for the worst case over the attacks tried."""
        return Share.of(self.worst if attack == "all" else self.flags[attack])


def attack_name(attack: str, steps: int) -> str:
    """What `evaluate` calls it: pgd and 20 steps -> pgd20. ValueError for an unknown attack."""
    if attack not in MODEL_ATTACKS:
        raise nearest(attack, MODEL_ATTACKS, "attack")
    return f"{attack}{steps}" if attack in ("pgd", "cw") else attack


def measure(
    model: nn.Module, x: Tensor, y: Tensor, attack: str, eps: float, steps: int, *, other: nn.Module | None = None,
    seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """(N,) bool flags of one attack. x: (N, C, H, W) in [0, 1]; eps: pixel scale; other: the network that the
    images of "transfer" are made against. ValueError for impossible settings, or if `other` is needed and missing."""
    check_radius(eps)
    name, evaluator = attack_name(attack, steps), Evaluator(model, (x, y), seed=seed)
    if attack != "transfer":
        return evaluator.flags(name, eps).numpy()
    if other is None:
        raise ValueError("a transfer attack needs another network to make its images against; none was given")
    return evaluator.transferred(other, steps, eps).numpy()


# -- picture ----------------------------------------------------------------------------------------------
def draw(data: Measured) -> Figure:
    made = base.figure(9.4, 4.6)
    draw_grid(made.add_axes((0.01, 0.09, 0.55, 0.83)), data)
    draw_tried(made.add_axes((0.73, 0.09, 0.235, 0.83)), data)
    return made


def draw_grid(ax, data: Measured) -> None:
    """Every image in a frame: blue where the model is still right, red with a cross where it is not."""
    flags, count = data.flags[data.attack], len(data.images)
    columns = math.ceil(math.sqrt(1.6 * count))
    rows = math.ceil(count / columns)
    channels, side = data.images.shape[1], data.images.shape[-1]
    edge = max(1, side // 8)
    cell = side + 4 * edge
    canvas = np.ones((rows * cell, columns * cell, 3))
    places = [(i // columns * cell + edge, i % columns * cell + edge) for i in range(count)]
    for (top, left), image, right in zip(places, data.images, flags, strict=True):
        colour = base.SKY if right else base.RED
        canvas[top : top + side + 2 * edge, left : left + side + 2 * edge] = to_rgb(colour)
        pixels = image.transpose(1, 2, 0).repeat(3 // channels, 2)
        canvas[top + edge : top + edge + side, left + edge : left + edge + side] = pixels
    ax.imshow(canvas, interpolation="nearest")
    ax.set_anchor("NW")
    # The cross stands in the corner of the frame, so that the image can be seen.
    corner = side + edge - 0.5
    fallen = np.array(
        [(left + corner, top + edge - 0.5) for (top, left), f in zip(places, flags, strict=True) if not f]
    )
    if len(fallen):
        ax.plot(*fallen.T, "o", color=base.RED, ms=9, mew=0)
        ax.plot(*fallen.T, "x", color="white", ms=5, mew=1.6)
    what = "clean images" if data.attack == "clean" else f"images (shown clean) under {data.attack}"
    base.bare(ax, f"{count} {what}: blue right, red crossed wrong")
    for spine in ax.spines.values():
        spine.set_visible(False)


def draw_tried(ax, data: Measured) -> None:
    """Accuracy with its 95 % interval under each attack tried, and under all together."""
    names = [*data.flags, *(["all"] if len(data.flags) > 1 else [])]
    base.tidy(ax, f"right, at ε = {255 * data.eps:g}/255", "", "")
    for row, name in enumerate(names):
        share = data.accuracy(name)
        chosen, together = name == data.attack, name == "all"
        colour = base.INK if together else base.TARGET if chosen else base.GREY
        ax.errorbar(share.value, row, xerr=share.error, fmt="D" if together else "o", color=colour, ms=7, capsize=4,
                    lw=1.8, clip_on=False)  # fmt: skip
        ax.annotate(share.percent, (share.value, row), (0, 8), textcoords="offset points", fontsize=8, ha="center")
    ax.set(xlim=(0, 1), ylim=(max(len(names), 4) - 0.4, -0.6))
    ax.set_yticks(range(len(names)), [{"all": "all of these"}.get(n, n) for n in names])
    ax.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    ax.grid(axis="x", color="#DDDDDD", lw=0.8)
    ax.set_axisbelow(True)


def to_rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def draw_claims(claims: Mapping[str, tuple[np.ndarray, np.ndarray]], first: str, second: str) -> Figure:
    """name -> flags (N,) under two attacks: what the first claims, what the second leaves, with 95 % intervals."""
    made = base.figure(8.6, 0.9 + 0.55 * len(claims))
    height = 0.55 * len(claims) / (0.9 + 0.55 * len(claims))
    ax = base.tidy(made.add_axes((0.22, 0.5 / (0.9 + 0.55 * len(claims)), 0.57, height)))
    for row, flags in enumerate(claims.values()):
        p, q = map(Share.of, flags)
        ax.plot([p.value, q.value], [row - 0.11, row + 0.11], color=base.GHOST["color"], lw=3, zorder=1)
        for share, shift, mark, colour, label in ((p, -0.11, "o", base.SKY, first), (q, 0.11, "s", base.RED, second)):
            ax.errorbar(share.value, row + shift, xerr=share.error, fmt=mark, color=colour, ms=8, capsize=4, lw=1.8,
                        clip_on=False, label=label if row == 0 else None)  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(len(claims) - 0.5, -0.5))
    ax.set_yticks(range(len(claims)), list(claims), fontsize=9)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return made


def draw_flags(flags: Mapping[str, np.ndarray]) -> Figure:
    """One row an attack, one column an image: dark where the model is right. Images that fall first stand right."""
    table = np.array(list(flags.values()), bool)
    order = np.lexsort(table[::-1])[::-1]  # by the first row, then the second, ...
    made = base.figure(9.4, 0.75 + 0.34 * len(flags))
    height = 0.34 * len(flags) / (0.75 + 0.34 * len(flags))
    ax = made.add_axes((0.16, 0.42 / (0.75 + 0.34 * len(flags)), 0.76, height))
    shades = np.where(table[:, order, None], to_rgb(base.TARGET), (0.93, 0.93, 0.93))
    ax.imshow(shades, aspect="auto", interpolation="nearest")
    base.tidy(ax, f"{table.shape[1]} images: dark where the model is right", "images, sorted", "")
    ax.set_xticks([])
    ax.set_yticks(range(len(flags)), list(flags))
    for line in range(1, len(flags)):
        ax.axhline(line - 0.5, color="white", lw=3)
    for row, each in enumerate(table):
        ax.annotate(Share.of(each).percent, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    return made


# -- words ------------------------------------------------------------------------------------------------
def words(data: Measured) -> str:
    share = data.accuracy(data.attack)
    summary = (
        f"{data.title}: {share.counted} images are right under {data.attack} at ε = {255 * data.eps:g}/255, {share}. "
        f"Right under everything tried so far: {data.accuracy('all')}, which is an upper bound of the robust accuracy."
    )
    rows = [
        (name, str(Share.of(flags)), str(int((~flags & data.flags["clean"]).sum())))
        for name, flags in data.flags.items()
    ]
    header = ("attack", "right (95 % interval)", "images turned wrong")
    return base.sentence(summary) + base.table(header, rows, "Tried at this ε")


class Measuring(Panel):
    """Choose a model, an attack and ε; every attack that was tried at this ε stays in the picture."""

    def __init__(
        self, samples: Mapping[str, SamplePair], other: str | None = None, count: int = 60, max_eps: float = 0.4,
        attack: str = "pgd",
    ):  # fmt: skip
        """samples: name -> model with its images; other: the name of the one that transfer images are made
        against; count: images; max_eps: end of the slider, pixel scale."""
        if other is not None and other not in samples:
            raise nearest(other, samples, "model")
        self.samples, self.other, self.count = dict(samples), other, count
        self._flags: dict[tuple, dict[str, np.ndarray]] = {}
        first = next(iter(self.samples))
        controls = {
            "model": Choice("Model", first, {name: name for name in self.samples}),
            "attack": Choice("Attack", attack, {words: name for name, words in MODEL_ATTACKS.items()}),
            "eps255": Slider(
                "ε in 1/255", round(255 * self.samples[first].eps), 0, round(255 * max_eps), 1, "Radius, in 1/255"
            ),
            "steps": Slider(
                "Steps",
                20,
                1,
                100,
                1,
                "Gradient steps of PGD, C&W and transfer",
                when=lambda at: at["attack"] in ("pgd", "cw", "transfer"),
            ),
        }
        super().__init__("Measuring robustness", controls, self._compute, draw, words)

    def _compute(self, model: str, attack: str, eps255: float, steps: int) -> Measured:
        if model not in self.samples:
            raise nearest(model, self.samples, "model")
        sample, eps = self.samples[model], eps255 / 255
        x, y = sample.images[: self.count], sample.labels[: self.count]
        tried = self._flags.setdefault((model, eps255), {})
        for kind in ("clean", attack):
            name = attack_name(kind, steps)
            if name not in tried:
                other = self.samples[self.other].pair.target if self.other else None
                tried[name] = measure(sample.pair.target, x, y, kind, eps, steps, other=other)
        latest = dict(list(tried.items())[-7:]) | {"clean": tried["clean"], name: tried[name]}
        ordered = {"clean": latest.pop("clean"), **latest}
        return Measured(x.numpy(), ordered, name, eps, sample.title)
