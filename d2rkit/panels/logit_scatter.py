"""Panel of notebook 03: the guide's logits against the target's, on images.

MSE on logits asks every dot to lie on the diagonal; the KL terms ask only for equal softmax, that is for a
line of slope 1 that may be shifted for each image. A dot is one image and one class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from d2rkit.methods import divergences
from d2rkit.methods.pair import eval_mode
from d2rkit.panels import base
from d2rkit.panels.adversarial_image import IMAGE_ATTACKS, attack_batch, takes_steps
from d2rkit.panels.axes import Frame
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.panel import Panel
from d2rkit.panels.sample_pairs import SamplePair


@dataclass(frozen=True)
class Scatter:
    """Logits (N, classes) of N images."""

    guide_clean: np.ndarray
    target_clean: np.ndarray
    target_adv: np.ndarray
    labels: np.ndarray  # (N,)
    eps: float
    attack: str
    kl_clean: float  # mean KL(target ‖ guide) on x, nats
    kl_adv: float  # mean KL(target on x' ‖ guide on x), nats
    title: str

    def facts(self, adversarial: bool) -> dict[str, float]:
        """How well the target's logits agree with the guide's clean ones."""
        target = self.target_adv if adversarial else self.target_clean
        spread = target.std() * self.guide_clean.std()
        return {
            "correlation": float(np.corrcoef(target.ravel(), self.guide_clean.ravel())[0, 1])
            if spread > 0
            else float("nan"),
            "MSE of logits": float(((target - self.guide_clean) ** 2).mean()),
            "mean KL(target ‖ guide)": self.kl_adv if adversarial else self.kl_clean,
            "same class as the guide": float((target.argmax(1) == self.guide_clean.argmax(1)).mean()),
            "target right": float((target.argmax(1) == self.labels).mean()),
        }


def compute(sample: SamplePair, eps: float, attack: str = "pgd", steps: int = 10, count: int = 60) -> Scatter:
    """Logits of the first `count` images and of their attacked copies; eps in pixel scale.
    ValueError if the pair has no guide or eps is impossible."""
    if sample.pair.guide is None:
        raise ValueError(f"{sample.title} has no guide; choose a pair trained with one, such as d2r-cag")
    if not 0 <= eps <= 1:
        raise ValueError(f"eps is in pixel scale and must lie in [0, 1], e.g. 8/255 = 0.0314, not {eps}")
    device = next(sample.pair.parameters()).device
    x, y = sample.images[:count].to(device), sample.labels[:count].to(device)
    target, guide = sample.pair.target, sample.pair.guide
    x_adv = attack_batch(target, x, y, attack=attack, eps=eps, steps=steps, step_size=eps / 4)
    with eval_mode(target, guide), torch.no_grad():
        g, f, f_adv = guide(x), target(x), target(x_adv)
    clean_gap, adv_gap = (divergences.kl(z, g).mean().item() for z in (f, f_adv))
    guide_clean, target_clean, target_adv, labels = (z.cpu().numpy() for z in (g, f, f_adv, y))
    return Scatter(
        guide_clean, target_clean, target_adv, labels, eps, attack, clean_gap, adv_gap, sample.title
    )  # fmt: skip


def draw(data: Scatter, ghost: Scatter | None = None, frame: Frame | None = None) -> Figure:
    made = base.figure(9.4, 4.3)
    shown = [z for each in filter(None, (data, ghost)) for z in (each.guide_clean, each.target_clean, each.target_adv)]
    low, high = min(z.min() for z in shown) - 0.5, max(z.max() for z in shown) + 0.5
    low, high = (frame or Frame()).hold("logits", float(low), float(high))
    for left, logits, adversarial in ((0.07, data.target_clean, False), (0.46, data.target_adv, True)):
        ax = made.add_axes((left, 0.14, 0.355, 0.75))
        facts = data.facts(adversarial)
        title = f"attacked, ε = {255 * data.eps:g}/255" if adversarial else "clean images"
        base.tidy(
            ax,
            f"{title}: r = {facts['correlation']:.2f}",
            "guide's logit on x",
            "" if adversarial else "target's logit",
        )
        ax.plot([low, high], [low, high], color=base.GREY, lw=1, zorder=0)
        if ghost is not None and adversarial:
            grey = {"color": base.GHOST["color"], "ms": 3, "mfc": "none", "mew": 0.7, "label": "before"}
            ax.plot(ghost.guide_clean.ravel(), ghost.target_adv.ravel(), "o", **grey)
        true = np.zeros(logits.shape, bool)
        true[np.arange(len(logits)), data.labels] = True
        for mask, colour, mark, size, label in (
            (~true, base.SKY, "o", 3, "another class"),
            (true, base.RED, "D", 5, "true class"),
        ):
            ax.plot(
                data.guide_clean[mask], logits[mask], mark, color=colour, ms=size, mec="white", mew=0.3, label=label
            )
        ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.plot([], [], color=base.GREY, lw=1, label="equal logits")
    ax.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0)
    return made


def words(data: Scatter) -> str:
    clean, attacked = data.facts(False), data.facts(True)
    summary = (
        f"{data.title}: on {len(data.labels)} images the target's logits correlate with the guide's at "
        f"{clean['correlation']:.2f} clean and {attacked['correlation']:.2f} under {IMAGE_ATTACKS[data.attack]} "
        f"at ε = {255 * data.eps:g}/255."
    )

    def shown(name: str, value: float) -> str:
        return f"{value:.0%}" if name.startswith(("same", "target")) else f"{value:.3f}"

    rows = [(name, shown(name, clean[name]), shown(name, attacked[name])) for name in clean]
    return base.sentence(summary) + base.table(
        ("", "clean", "attacked"), rows, "Target against the guide on clean images"
    )


class LogitScatter(Panel):
    """Turn ε up and see which logits leave the guide."""

    def __init__(self, sample: SamplePair, max_eps: float = 32 / 255, count: int = 60):
        top = round(255 * max_eps)

        def run(eps255: float, steps: int, attack: str) -> Scatter:
            return compute(sample, eps255 / 255, attack, steps, count)

        controls = {
            "eps255": Slider("ε in 1/255", 0, 0, top, 1, "Largest change of a pixel, in 1/255"),
            "steps": Slider("Steps", 10, 1, 20, 1, "Gradient steps of PGD and C&W", when=takes_steps),
            "attack": Choice("Attack", "pgd", {words: name for name, words in IMAGE_ATTACKS.items()}),
        }
        super().__init__(f"Guide against target · {sample.title}", controls, run, draw, words)
