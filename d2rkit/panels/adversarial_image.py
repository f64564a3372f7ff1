"""Panel of notebook 02: one image, one attack, and what the two networks make of it.

All radii are in pixel scale [0, 1]; the sliders count in 1/255, as the literature does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from d2rkit.core.validation import nearest
from d2rkit.evaluation.autoattack import correct
from d2rkit.methods import attacks
from d2rkit.methods.pair import eval_mode
from d2rkit.panels import base
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.panel import Panel
from d2rkit.panels.sample_pairs import SamplePair
from d2rkit.panels.shares import Share

Points = tuple[tuple[float, float], ...]  # (eps in pixel scale, share still right), as `survival` gives them
IMAGE_ATTACKS = {
    "pgd": "PGD on cross-entropy",
    "fgsm": "FGSM: one big step",
    "cw": "PGD on the margin (C&W)",
    "noise": "random signs, no gradient",
}
STEPS, STEP_SHARE = 10, 0.25  # where the sliders begin


@dataclass(frozen=True)
class Attacked:
    """One image before and after. Images (C, H, W) in [0, 1]; probabilities (classes,)."""

    clean: np.ndarray
    adversarial: np.ndarray
    label: int
    class_names: tuple[str, ...]
    target_clean: np.ndarray
    target_adv: np.ndarray
    guide_clean: np.ndarray | None
    guide_adv: np.ndarray | None
    eps: float
    attack: str
    curve: Points  # accuracy of the target on `curve_images` images
    curve_images: int
    accuracy_here: float  # at this eps
    title: str

    @property
    def delta(self) -> np.ndarray:
        return self.adversarial - self.clean

    @property
    def share(self) -> Share:
        """The accuracy at this eps, between two measured radii to the nearest image."""
        return Share(round(self.accuracy_here * self.curve_images), self.curve_images)


def attack_batch(
    target: nn.Module, x: Tensor, y: Tensor, *, attack: str, eps: float, steps: int, step_size: float, seed: int = 0
) -> Tensor:
    """x' for x: (B, C, H, W) in [0, 1], y: (B,); eps and step_size in pixel scale. ValueError: unknown attack."""
    if attack not in IMAGE_ATTACKS:
        raise nearest(attack, IMAGE_ATTACKS, "attack")
    generator = torch.Generator(x.device).manual_seed(seed)
    if attack == "fgsm":
        return attacks.fgsm(target, x, y, eps=eps)
    if attack == "noise":
        return attacks.project(x + eps * attacks.uniform_start(x, 1.0, generator).sign(), x, eps)
    run = attacks.pgd_ce if attack == "pgd" else attacks.cw
    start = attacks.uniform_start(x, eps, generator)
    return run(target, x, y, eps=eps, step_size=step_size, steps=steps, start=start)


def survival(
    target: nn.Module, x: Tensor, y: Tensor, radii: list[float], *, attack: str, steps: int, step_share: float
) -> Points:
    """(eps, share of images still right) for growing radii. The ball of a smaller eps lies inside that of a
    larger one, so an image that fell once has fallen: only survivors are attacked again."""
    curve = []
    with eval_mode(target):
        alive = correct(target, x, y, 100)
        for eps in sorted(radii):
            index = alive.nonzero().flatten().to(x.device)
            if eps and len(index):
                moved = attack_batch(
                    target, x[index], y[index], attack=attack, eps=eps, steps=steps, step_size=step_share * eps
                )
                alive[index.cpu()] = correct(target, moved, y[index], 100)
            curve.append((eps, alive.float().mean().item()))
    return tuple(curve)


def compute(
    sample: SamplePair, image: int, attack: str, eps: float, steps: int, step_share: float,
    curve: Points | None = None, curve_images: int = 0,
) -> Attacked:  # fmt: skip
    """Attack image number `image` of the sample. eps: pixel scale; step_share: step size as a share of eps;
    curve: accuracy against eps from `survival`, if at hand. ValueError if eps or the image is impossible."""
    if not 0 <= eps <= 1:
        raise ValueError(f"eps is in pixel scale and must lie in [0, 1], e.g. 8/255 = 0.0314, not {eps}")
    if not 0 <= image < len(sample.labels):
        raise ValueError(f"image {image} does not exist; allowed: 0..{len(sample.labels) - 1}")
    device = next(sample.pair.parameters()).device
    x, y = sample.images[image : image + 1].to(device), sample.labels[image : image + 1].to(device)
    target, guide = sample.pair.target, sample.pair.guide
    x_adv = attack_batch(target, x, y, attack=attack, eps=eps, steps=steps, step_size=step_share * eps)
    both = torch.cat([x, x_adv])

    def predict(network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        with eval_mode(network), torch.no_grad():
            clean, adversarial = network(both).softmax(1).cpu().numpy()
        return clean, adversarial

    guided = (None, None) if guide is None else predict(guide)
    here = np.interp(eps, [at for at, _ in curve], [share for _, share in curve]) if curve else float("nan")
    return Attacked(
        x[0].cpu().numpy(), x_adv[0].cpu().numpy(), int(y), sample.class_names, *predict(target), *guided,
        eps, attack, curve or (), curve_images, float(here), sample.title,
    )  # fmt: skip


def first_fooled(sample: SamplePair, eps: float, count: int = 20) -> int:
    """Number of the first of `count` images that the target gets right, and wrong under the attack that the panel opens
    with at eps (pixel scale); without one, of the first that it gets right."""
    for image in range(min(count, len(sample.labels))):
        shown = compute(sample, image, "pgd", eps, STEPS, STEP_SHARE)
        if shown.target_clean.argmax() == shown.label != shown.target_adv.argmax():
            return image
    return sample.first_right(count)


# -- picture ----------------------------------------------------------------------------------------------
def draw(data: Attacked, ghost: Attacked | None = None) -> Figure:
    made = base.figure(9.4, 5.4)
    for place, (image, title) in enumerate(
        ((data.clean, f"clean: {data.class_names[data.label]}"), (None, ""), (data.adversarial, "adversarial"))
    ):
        ax = made.add_axes((0.02 + 0.335 * place, 0.52, 0.28, 0.42))
        if image is None:
            draw_perturbation(made, ax, data)
        else:
            base.show_image(ax, image, title)
    same = ghost is not None and np.array_equal(ghost.clean, data.clean)
    draw_probabilities(made.add_axes((0.13, 0.09, 0.36, 0.32)), data, ghost if same else None)
    draw_curve(made.add_axes((0.63, 0.09, 0.35, 0.32)), data, ghost)
    return made


def draw_perturbation(made: Figure, ax, data: Attacked) -> None:
    """x' − x, mean over the channels, on a signed scale of ± eps."""
    top = max(255 * data.eps, 0.5)
    shown = ax.imshow(255 * data.delta.mean(0), cmap=base.SIGNED, vmin=-top, vmax=top, interpolation="nearest")
    base.bare(ax, f"change, scale ± {255 * data.eps:g}/255")
    box = ax.get_position()
    bar = made.colorbar(shown, cax=made.add_axes((box.x0 + 0.265, box.y0, 0.012, box.height)), ticks=[-top, 0, top])
    bar.ax.set_yticklabels([f"−{top:g}", "0", f"+{top:g}"], fontsize=8)
    bar.outline.set_visible(False)


def draw_probabilities(ax, data: Attacked, ghost: Attacked | None = None) -> None:
    """The true class and the strongest others: from the clean image's probability to the adversarial one's; open and
    grey, the adversarial image of the previous setting."""
    grey = {"color": base.GHOST["color"], "mfc": "white", "ms": 7, "mew": 1.6, "ls": "none", "clip_on": False}
    before = [] if ghost is None else [p for p in (ghost.target_adv, ghost.guide_adv) if p is not None]
    sides = [("target", data.target_clean, data.target_adv, base.TARGET)]
    if data.guide_clean is not None and data.guide_adv is not None:
        sides.append(("guide", data.guide_clean, data.guide_adv, base.GUIDE))
    strongest = np.max([p for _, clean, adv, _ in sides for p in (clean, adv)], axis=0)
    strongest[data.label] = 2
    chosen = np.argsort(-strongest)[:4]
    base.tidy(ax, "probabilities: ○ clean → ■ adversarial", "", "")
    for place, (who, clean, adv, colour) in enumerate(sides):
        rows = np.arange(len(chosen)) + ((-0.17, 0.17)[place] if len(sides) > 1 else 0)
        if place < len(before):
            ax.plot(before[place][chosen], rows, "s", **grey)
        ax.hlines(rows, clean[chosen], adv[chosen], color=colour, lw=2, ls="-" if who == "target" else (0, (2, 1)))
        ax.plot(clean[chosen], rows, "o", mfc="white", mec=colour, mew=1.8, ms=7, clip_on=False)
        ax.plot(adv[chosen], rows, "s", color=colour, ms=7, clip_on=False)
        if len(sides) > 1:
            right = max(clean[data.label], adv[data.label])
            ax.annotate(who, (right, rows[0]), (8, 0), textcoords="offset points", fontsize=8, va="center")
    names = [data.class_names[c] + (" (true)" if c == data.label else "") for c in chosen]
    ax.set_yticks(range(len(chosen)), names)
    ax.set(xlim=(0, 1), ylim=(len(chosen) - 0.5, -0.5))
    ax.set_xticks([0, 0.5, 1])


def draw_curve(ax, data: Attacked, ghost: Attacked | None = None) -> None:
    """Only as far as the slider has come: what lies beyond is for the student to find out."""
    base.tidy(ax, f"target's accuracy on {data.curve_images} images", "ε in 1/255", "")
    if ghost is not None and ghost.curve:
        radii, shares = np.array(ghost.curve).T
        far = radii <= ghost.eps
        ax.plot(255 * np.append(radii[far], ghost.eps), np.append(shares[far], ghost.accuracy_here), **base.GHOST)
        ax.plot(255 * ghost.eps, ghost.accuracy_here, "D", color=base.GHOST["color"], mfc="white", ms=8, clip_on=False)
    if data.curve:
        radii, shares = np.array(data.curve).T
        far = radii <= data.eps
        ax.plot(255 * np.append(radii[far], data.eps), np.append(shares[far], data.accuracy_here), "o-",
                color=base.TARGET, ms=4, lw=2, clip_on=False)  # fmt: skip
        share = data.share
        ax.errorbar(255 * data.eps, share.value, yerr=share.error, fmt="D", color=base.RED, ms=8, capsize=4, lw=1.5,
                    clip_on=False)  # fmt: skip
        left = data.eps > 0.7 * radii[-1]
        ax.annotate(share.percent, (255 * data.eps, share.value), (-10 if left else 10, 4), fontsize=9,
                    textcoords="offset points", ha="right" if left else "left")  # fmt: skip
        ax.set_xlim(0, 255 * radii[-1])
    ax.set_ylim(0, 1.05)
    ax.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])


LOOKS = ((base.TARGET, "-", "o"), (base.RED, "--", "s"), (base.GREEN, "-.", "^"), (base.PURPLE, ":", "D"))


def draw_comparison(curves: Mapping[str, Points], images: int) -> Figure:
    """Accuracy on `images` images against eps, with 95 % intervals, of several networks or attacks: name -> curve from
    `survival`. The names stand below, where there is room for them."""
    height = 3.3 + 0.24 * len(curves)
    made = base.figure(7.4, height)
    foot = (0.6 + 0.24 * len(curves)) / height
    ax = made.add_axes((0.09, foot, 0.88, 1 - foot - 0.3 / height))
    base.tidy(ax, f"accuracy on {images} images against ε, 95 % intervals", "ε in 1/255", "")
    for shift, ((name, curve), (colour, dash, mark)) in enumerate(zip(curves.items(), LOOKS, strict=False)):
        radii, shares = np.array(curve).T
        ends = np.array([[e[0] for e in Share(round(share * images), images).error] for share in shares]).T
        places = 255 * radii + 0.004 * 255 * radii[-1] * shift  # so that bars do not hide each other
        ax.errorbar(places, shares, yerr=ends, color=colour, ls=dash, marker=mark, ms=5, lw=2, elinewidth=1, capsize=2,
                    label=name, clip_on=False)  # fmt: skip
    ax.set(xlim=(0, None), ylim=(0, 1.05))
    ax.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    ax.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.42 / (height * (1 - foot) - 0.3)),
              borderaxespad=0, handlelength=2.6)  # fmt: skip
    return made


# -- words ------------------------------------------------------------------------------------------------
def words(data: Attacked) -> str:
    names, fooled = data.class_names, int(data.target_adv.argmax()) != data.label
    largest = 255 * np.abs(data.delta).max()
    summary = (
        f"{IMAGE_ATTACKS[data.attack]} at ε = {255 * data.eps:g}/255 = {data.eps:.4f}; the largest change of a pixel "
        f"is {largest:.1f}/255. The target {'is fooled' if fooled else 'is not fooled'}: it says "
        f"“{names[data.target_adv.argmax()]}” for a “{names[data.label]}”."
    )
    if data.curve:
        summary += f" On {data.curve_images} images its accuracy at this ε is about {data.share}."
    rows = []
    for who, clean, adv in (
        ("target", data.target_clean, data.target_adv),
        ("guide", data.guide_clean, data.guide_adv),
    ):
        for what, p in (("clean", clean), ("adversarial", adv)):
            if p is not None:
                top = int(p.argmax())
                rows.append((f"{who}, {what} image", names[top], f"{p[top]:.3f}", f"{p[data.label]:.3f}"))
    header = ("", "says", "with probability", f"P({names[data.label]}), the true class")
    return base.sentence(summary) + base.table(header, rows, f"{data.title}: predictions")


def comparison_words(curves: Mapping[str, Points], images: int, caption: str) -> str:
    """The numbers of `draw_comparison` as a table, HTML, and at which ε each has lost half of its clean accuracy."""
    radii = [eps for eps, _ in next(iter(curves.values()))]
    rows = [(name, *(Share(round(share * images), images).percent for _, share in points), half_words(points))
            for name, points in curves.items()]  # fmt: skip
    return base.table(("ε in 1/255", *(f"{255 * eps:g}" for eps in radii), "half is lost at"), rows, caption)


def half_words(points: Points) -> str:
    """Between which two measured radii half of the clean accuracy is lost."""
    below = next((i for i, (_, share) in enumerate(points) if share <= points[0][1] / 2), None)
    if not below:
        return f"beyond {255 * points[-1][0]:g}"
    return f"{255 * points[below - 1][0]:g} to {255 * points[below][0]:g}"


def takes_steps(at: Mapping[str, Any]) -> bool:
    """Whether the attack of these settings goes in steps: FGSM and random signs are one move of size ε."""
    return at["attack"] in ("pgd", "cw")


class AdversarialImage(Panel):
    """Move ε, steps and step size and see one image change, and the accuracy on many."""

    def __init__(
        self, sample: SamplePair, max_eps: float = 32 / 255, curve_images: int = 100, curve_steps: int | None = None
    ):
        """max_eps: end of the ε slider, which starts at 0; pixel scale. curve_images: how many the curve takes.
        curve_steps: None lets the curve follow the sliders for steps and step size; a number fixes its steps (of
        ε/2), for networks too large to attack anew at every move. Curves are kept, so each costs only once."""
        self.sample, self.max_eps, self.curve_steps = sample, max_eps, curve_steps
        self.curve_images = min(curve_images, len(sample.labels))
        self._curves: dict[tuple, Points] = {}
        top = round(255 * max_eps)
        controls = {
            "image": Choice("Image", first_fooled(sample, min(sample.eps, max_eps)), sample.choices()),
            "attack": Choice("Attack", "pgd", {words: name for name, words in IMAGE_ATTACKS.items()}),
            "eps255": Slider("ε in 1/255", 0, 0, top, 1, "Largest change of a pixel, in 1/255"),
            "steps": Slider("Steps", STEPS, 1, 20, 1, "Gradient steps of PGD and C&W", when=takes_steps),
            "step_share": Slider(
                "Step size / ε", STEP_SHARE, 0.05, 1.0, 0.05, "Step size as a share of ε", when=takes_steps
            ),
        }
        super().__init__(f"Adversarial image · {sample.title}", controls, self._compute, draw, words)

    def _compute(self, image: int, attack: str, eps255: float, steps: int, step_share: float) -> Attacked:
        curve = self.curve(attack, steps, step_share)
        return compute(self.sample, image, attack, eps255 / 255, steps, step_share, curve, self.curve_images)

    def curve(self, attack: str, steps: int, step_share: float) -> Points:
        if self.curve_steps is not None:
            steps, step_share = self.curve_steps, 0.5
        key = (attack, *((steps, step_share) if attack in ("pgd", "cw") else ()))
        if key not in self._curves:
            n, device = self.curve_images, next(self.sample.pair.parameters()).device
            radii = [self.max_eps * share for share in (0, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)]
            self._curves[key] = survival(
                self.sample.pair.target, self.sample.images[:n].to(device), self.sample.labels[:n].to(device), radii,
                attack=attack, steps=steps, step_share=step_share,
            )  # fmt: skip
        return self._curves[key]
