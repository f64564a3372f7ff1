"""The picture of notebook 00: one training step of D2R, and which gradient goes where, stage by stage or as it moves.

Everything in it is real: the image, every step that CAG takes, and what the two networks say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from d2rkit.methods import attacks, divergences
from d2rkit.methods.pair import eval_mode
from d2rkit.panels import base
from d2rkit.panels.controls import Slider
from d2rkit.panels.panel import Panel
from d2rkit.panels.sample_pairs import SamplePair
from d2rkit.panels.scrubber import Scrubber

STAGES = (
    "Both networks look at the clean image x. The guide g says g(x), the target f says f(x).",
    "CAG makes x′: steps along the sign of the gradient that leads away from what the guide said. The gradient goes "
    "through the target alone; to the attack, g(x) is a constant.",
    "The target looks at x′. Its answer may have moved; the guide never sees x′.",
    "Four terms compare the answers. The label y meets the guide only: the target learns classes from the guide.",
    "The gradients of the loss: MSE and both KL terms pull target (blue) and guide (orange) towards each other, "
    "and only CE speaks for the label. Nothing is detached, so the guide pays, too.",
)
NAMES = ("x is seen", "CAG makes x′", "x′ is seen", "the terms", "the gradients")
STEPS = 10  # of CAG
# What is played: (stage, how much of it). In stage 2 the steps taken so far, in 1, 4 and 5 the parts that are drawn.
MOMENTS = (
    (1, 0), (1, 1), *((2, taken) for taken in (0, 1, 2, 3, 5, 7, STEPS)), (3, 1), *((4, n) for n in (1, 2, 3)),
    *((5, n) for n in (1, 2, 3)),
)  # fmt: skip
WHOLE = dict(MOMENTS)  # stage -> the last of its parts
WIDTH, HEIGHT = 9.4, 5.15
ROWS = {"f(x′)": 4.2, "f(x)": 2.7, "g(x)": 1.2}  # inches from below
X_IMAGE, X_NET, X_SAYS, X_TERM = 0.75, 3.2, 5.25, 7.55


@dataclass(frozen=True)
class Story:
    """Images (C, H, W) in [0, 1]; says: f(x′), f(x), g(x) -> probabilities (classes,); stage: 1..5, part: as in
    MOMENTS; kl: KL(g(x) ‖ f(x′)) in nats at the attack's start, at the x′ that is shown, and at the last."""

    clean: np.ndarray
    adversarial: np.ndarray
    label: str
    says: dict[str, np.ndarray]
    names: tuple[str, ...]
    eps: float
    stage: int
    part: int
    kl: tuple[float, float, float]
    title: str


def compute(sample: SamplePair, image: int = 0, stage: int = len(STAGES), part: int | None = None) -> Story:
    """One image of the sample and its CAG image at the pair's own eps. part: how much of the stage (see MOMENTS), None
    for all of it. ValueError without a guide, or if there is no such image or stage."""
    if sample.pair.guide is None:
        raise ValueError(f"{sample.title} has no guide, and this is the story of two networks")
    if not 0 <= image < len(sample.labels) or not 1 <= stage <= len(STAGES):
        raise ValueError(f"image {image} or stage {stage} does not exist; stages are 1 to {len(STAGES)}")
    device = next(sample.pair.parameters()).device
    x, y = sample.images[image : image + 1].to(device), int(sample.labels[image])
    target, guide = sample.pair.target, sample.pair.guide
    part = WHOLE[stage] if part is None else part
    start = attacks.gaussian_start(x, torch.Generator(device).manual_seed(0))
    begun = attacks.project(x + start, x, sample.eps)

    def attacked(steps: int) -> torch.Tensor:
        if not steps:
            return begun
        return attacks.cag(target, guide, x, eps=sample.eps, step_size=sample.eps / 4, steps=steps, start=start)

    x_last = attacked(STEPS)
    x_adv = attacked(part) if stage == 2 and part < STEPS else x_last
    with eval_mode(sample.pair), torch.no_grad():
        logits = {"f(x′)": target(x_adv), "f(x)": target(x), "g(x)": guide(x)}
        begin, now, end = (float(divergences.kl(guide(x), target(seen))[0]) for seen in (begun, x_adv, x_last))
    says = {name: each[0].softmax(0).cpu().numpy() for name, each in logits.items()}
    names = tuple(sample.class_names)
    return Story(
        x[0].cpu().numpy(), x_adv[0].cpu().numpy(), names[y], says, names, sample.eps, stage, part,
        (begin, now, end), sample.title,
    )  # fmt: skip


# -- picture ----------------------------------------------------------------------------------------------
def draw(data: Story) -> Figure:
    made = base.figure(WIDTH, HEIGHT)
    ax = made.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.axis("off")
    stage, part = data.stage, data.part
    network(ax, "g", "guide", base.GUIDE, ROWS["g(x)"], 1.1)
    network(ax, "f", "target", base.TARGET, (ROWS["f(x′)"] + ROWS["f(x)"]) / 2, 2.5)
    image(made, data.clean, f"x: {data.label}", 1.95)
    for row in ("f(x)", "g(x)"):
        arrow(ax, (X_IMAGE + 0.6, 1.95 + 0.3 * np.sign(ROWS[row] - 1.95)), (X_NET - 0.62, ROWS[row]))
        if (stage, part) != (1, 0):
            answer(made, ax, data, row)
    if stage >= 2:
        image(made, data.adversarial, "x′", ROWS["f(x′)"])
        attack(ax)
    if stage == 2:
        climbed(ax, data)
    if stage >= 3:
        arrow(ax, (X_IMAGE + 0.6, ROWS["f(x′)"]), (X_NET - 0.62, ROWS["f(x′)"]))
        answer(made, ax, data, "f(x′)")
    if stage >= 4:
        count = part if stage == 4 else len(TERMS)
        terms(ax, count, wires=count if stage == 4 else 0)
    if stage >= 5:
        gradients(ax, part)
    chapters(ax, stage)
    return made


def chapters(ax: Axes, stage: int) -> None:
    """The stages' names below the picture, the present one in bold and underlined."""
    for i, name in enumerate(NAMES):
        here, left = i + 1 == stage, 0.2 + i * (WIDTH - 0.4) / len(NAMES)
        ax.text(left, 0.2, f"{i + 1} {name}", fontsize=9, va="center", color=base.INK if here else "#595959",
                fontweight="bold" if here else "normal")  # fmt: skip
        if here:
            ax.plot((left, left + 1.6), (0.06, 0.06), color=base.INK, lw=2)


def network(ax: Axes, letter: str, name: str, colour: str, middle: float, high: float) -> None:
    box = FancyBboxPatch((X_NET - 0.55, middle - high / 2), 1.1, high, boxstyle="round,pad=0,rounding_size=0.12",
                         fc="white", ec=colour, lw=2.5)  # fmt: skip
    ax.add_patch(box)
    ax.text(X_NET, middle + 0.12, letter, ha="center", va="center", fontsize=20, style="italic", color=base.INK)
    ax.text(X_NET, middle - 0.24, name, ha="center", va="center", fontsize=10, color=base.INK)


def image(made: Figure, pixels: np.ndarray, title: str, middle: float) -> None:
    side = 1.05
    ax = made.add_axes(
        ((X_IMAGE - side / 2) / WIDTH, (middle - side / 2) / HEIGHT, side / WIDTH, side / HEIGHT)
    )  # fmt: skip
    base.show_image(ax, pixels, title)


def answer(made: Figure, ax: Axes, data: Story, row: str) -> None:
    """The three likeliest classes of one answer as bars."""
    arrow(ax, (X_NET + 0.6, ROWS[row]), (X_SAYS - 0.55, ROWS[row]))
    said = data.says[row]
    top = np.argsort(-said)[:3]
    bars = made.add_axes(((X_SAYS - 0.1) / WIDTH, (ROWS[row] - 0.36) / HEIGHT, 0.75 / WIDTH, 0.72 / HEIGHT))
    bars.barh(range(3), said[top], color=base.GUIDE if row == "g(x)" else base.TARGET, height=0.7)
    bars.set(xlim=(0, 1), ylim=(2.5, -0.5))
    bars.set_yticks(range(3), [data.names[c][:6] for c in top], fontsize=8)
    bars.set_xticks([])
    bars.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        bars.spines[side].set_visible(False)
    ax.text(X_SAYS + 0.28, ROWS[row] + 0.46, row, ha="center", fontsize=11, style="italic", color=base.INK)


def climbed(ax: Axes, data: Story) -> None:
    """What the attack has gained so far, beside the network that it runs through."""
    taken = f"step {data.part} of {STEPS}" if data.part else "start: x and a little noise"
    low, now, _ = data.kl
    ax.text(X_SAYS - 0.55, ROWS["f(x′)"] + 0.18, taken, fontsize=10, color=base.INK)
    ax.text(X_SAYS - 0.55, ROWS["f(x′)"] - 0.14, f"KL(g(x) ‖ f(x′)) = {now:.2f}", fontsize=10, color=base.INK)
    full = max(data.kl)
    for value, colour, place in ((now, base.RED, -0.38), (low, base.GREY, -0.5)):
        ends = (X_SAYS - 0.55, X_SAYS - 0.55 + 2.0 * value / full)
        ax.plot(ends, (ROWS["f(x′)"] + place,) * 2, color=colour, lw=5, solid_capstyle="butt")
    ax.text(X_SAYS - 0.55, ROWS["f(x′)"] - 0.66, "grey: at the start", fontsize=8, color=base.INK, va="top")


def attack(ax: Axes) -> None:
    arrow(ax, (X_IMAGE + 0.2, 2.55), (X_IMAGE + 0.2, ROWS["f(x′)"] - 0.6))
    arrow(ax, (X_NET - 0.62, ROWS["f(x′)"] + 0.42), (X_IMAGE + 0.6, ROWS["f(x′)"] + 0.42), base.RED, ":")
    ax.text(1.45, ROWS["f(x′)"] + 0.55, "gradient of CAG", fontsize=9, color=base.RED)
    ax.text(X_IMAGE + 0.32, 3.1, "away from g(x),\nat most ε a pixel", fontsize=8.5, color=base.INK, va="center")


# what a term is called -> the answers it compares, its place in inches from below, half the width of its box
TERMS = {
    "MSE, adversarial KL": (("f(x′)", "g(x)"), 3.6, 0.8),
    "clean KL term": (("f(x)", "g(x)"), 2.35, 0.58),
    "CE": (("g(x)",), 1.2, 0.25),
}
X_WIRE = X_SAYS + 0.75


def terms(ax: Axes, count: int, wires: int) -> None:
    """The first `count` terms, what each compares as long as it has a wire; the label meets the guide alone."""
    for i, (text, (rows, place, half)) in enumerate(list(TERMS.items())[:count]):
        for row in rows if i < wires else ():
            ax.plot((X_WIRE, X_TERM - half), (ROWS[row], place), color=base.GREY, lw=1.2)
        box = {"boxstyle": "round,pad=0.35", "fc": "#F2F2F2", "ec": base.GREY}
        ax.text(X_TERM, place, text, ha="center", va="center", fontsize=9, bbox=box, color=base.INK)
    if count == len(TERMS):
        arrow(ax, (X_TERM + 0.75, 1.2), (X_TERM + 0.28, 1.2))
        ax.text(X_TERM + 0.82, 1.2, "label y", fontsize=10, va="center", color=base.INK)


def gradients(ax: Axes, count: int) -> None:
    """Of the first `count` terms. Dashed, back along the wires: blue into the target, orange into the guide."""
    for rows, place, half in list(TERMS.values())[:count]:
        for row in rows:
            colour = base.GUIDE if row == "g(x)" else base.TARGET
            arrow(ax, (X_TERM - half, place), (X_WIRE, ROWS[row]), colour, "--")
    to_guide = ("MSE, adv. KL", "MSE, both KLs", "all four")[count - 1]
    into = [("f(x′)", base.TARGET, "MSE, adv. KL"), ("g(x)", base.GUIDE, to_guide)]
    into += [("f(x)", base.TARGET, "clean KL")] if count > 1 else []
    for row, colour, whence in into:
        arrow(ax, (X_SAYS - 0.5, ROWS[row] - 0.26), (X_NET + 0.62, ROWS[row] - 0.26), colour, "--")
        middle = (X_SAYS + X_NET) / 2 + 0.03
        ax.text(middle, ROWS[row] - 0.36, whence, ha="center", va="top", fontsize=8, color=base.INK)
    ax.text(X_TERM - 0.85, 4.75, "solid: forward    dashed: gradient", fontsize=9, color=base.INK)


def arrow(ax: Axes, start: tuple, end: tuple, colour: str = base.INK, dash: str = "-") -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, lw=1.8, ls=dash, color=colour,
                                 shrinkA=0, shrinkB=0, zorder=3))  # fmt: skip


# -- words ------------------------------------------------------------------------------------------------
def words(data: Story) -> str:
    told = [f"{name}: {data.names[int(p.argmax())]} ({p.max():.2f})" for name, p in data.says.items()]
    told = told[1:] if data.stage < 3 else told
    told = told if (data.stage, data.part) != (1, 0) else []
    if data.stage == 2:
        told.append(f"after {data.part} of {STEPS} steps KL(g(x) ‖ f(x′)) is {data.kl[1]:.2f}, "
                    f"at the start {data.kl[0]:.2f}")  # fmt: skip
    summary = f"{data.stage}. {STAGES[data.stage - 1]}"
    facts = f"Shown: a “{data.label}”, {data.title}, ε = {255 * data.eps:.0f}/255. "
    facts += f"What is said: {'; '.join(told) or 'nothing yet'}."
    return base.sentence(summary) + base.sentence(facts)


class StoryPanel(Panel):
    """One training step, told in five stages, or moment by moment with Play and a slider. Nothing moves by itself."""

    def __init__(self, sample: SamplePair, image: int | None = None):
        """image: which to show (None: the first that the target gets right)."""
        image = sample.first_right() if image is None else image
        self._part: int | None = None  # of the stage; None: all of it
        self.scrub = Scrubber("Moment", self._on_scrub, "Play the training step, pause it, or go through it")
        self.scrub.over(range(1, len(MOMENTS) + 1))

        def tell(stage: int) -> Story:
            return compute(sample, image, stage, self._part)

        controls = {"stage": Slider("Stage", 1, 1, len(STAGES), 1, "What happens next")}
        super().__init__("One training step", controls, tell, draw, words)
        self.more.children = (self.scrub.row,)

    def _show(self, settings: Mapping[str, Any], data: Story) -> None:
        super()._show(settings, data)
        self.scrub.point_at(MOMENTS.index((data.stage, data.part)) + 1)

    def _on_scrub(self, moment: int) -> None:
        stage, self._part = MOMENTS[moment - 1]
        try:
            self.set(stage=stage)
        finally:
            self._part = None


class Untold:
    """In the place of a StoryPanel, where there is only one network."""

    def __init__(self, title: str):
        self.widget = widgets.HTML(base.sentence(f"{title} has no guide, and this is the story of two networks."))

    def static(self, **stage: int) -> widgets.HTML:
        return self.widget


def story_of(sample: SamplePair) -> StoryPanel | Untold:
    """The story of a pair; of a target that was trained alone, a sentence."""
    return StoryPanel(sample) if sample.pair.guide is not None else Untold(sample.title)
