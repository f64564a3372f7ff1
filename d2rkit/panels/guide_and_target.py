"""Panel of notebook 03: D2R's terms at work on points in the plane, trained anew at every move.

Three spiral arms are three classes; target and guide are MLPs. Points are images of 2 pixels, so the kit's
own attacks and objectives run on them unchanged: x: (N, 2, 1, 1) in [0, 1], eps in units of the square.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from torch import Tensor, nn

from d2rkit.core.validation import nearest
from d2rkit.methods.catalogue import Method
from d2rkit.methods.objectives import D2R_WEIGHTS, d2r
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from d2rkit.networks.normalisation import Normalize
from d2rkit.panels import base
from d2rkit.panels.axes import Frame
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.decision_regions import PIXELS, look
from d2rkit.panels.panel import Panel
from d2rkit.panels.point_editor import PointEditor, Points
from d2rkit.panels.scrubber import Scrubber

WIDTH, STEPS, ATTACK_STEPS, RATE = 32, 150, 2, 0.04
EVERY = 10  # steps between two moments of the training that one can look at
DEFAULT = D2R_WEIGHTS["symmetric"]  # where the sliders start
# Classes have colours of their own: blue is the target and orange the guide, in every picture of the kit.
CLASS_COLOURS, CLASS_MARKS = (base.GREEN, base.PURPLE, "#7A5C00"), ("o", "^", "s")
ATTACKS = {"CAG: away from the guide": "cag", "self-KL, as TRADES": "kl-self", "cross-entropy": "ce"}
SHORT = {"cag": "CAG", "kl-self": "self-KL", "ce": "CE"}
VARIANTS = {"symmetric KL: the paper's text": "symmetric", "gap: the authors' code": "released"}
TERMS = {"ce": "CE of the guide", "mse": "MSE of logits", "clean": "clean KL term", "adv": "adversarial KL term"}
TERM_LOOKS = {"ce": (base.GUIDE, "-"), "mse": (base.INK, "--"), "clean": (base.TARGET, "-."), "adv": (base.RED, ":")}


@dataclass(frozen=True)
class Trained:
    """A pair after training. Maps are (PIXELS, PIXELS) class numbers, row 0 at y = 0; margins are (N,):
    logit of the true class less the best other, positive where the prediction is right."""

    points: np.ndarray  # (N, 2)
    attacked: np.ndarray  # (N, 2), PGD on the target
    labels: np.ndarray
    eps: float
    target_map: np.ndarray
    guide_map: np.ndarray
    target_clean: np.ndarray
    target_adv: np.ndarray
    guide_clean: np.ndarray
    history: dict[str, np.ndarray]  # weighted terms of the loss, one value a step
    words: str  # the settings
    states: tuple[dict[str, Tensor], ...] = ()  # the pair before the first step and after every EVERY of them
    step: int = STEPS  # at which moment of the training all this is

    @property
    def accuracy(self) -> dict[str, float]:
        margins = {"guide": self.guide_clean, "target": self.target_clean, "target, attacked": self.target_adv}
        return {name: float((m > 0).mean()) for name, m in margins.items()}


def spirals(count: int = 60, noise: float = 0.012, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`count` points on each of three spiral arms: x (3 count, 2, 1, 1) in [0, 1], y (3 count,)."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.linspace(0.2, 1, count).repeat(3)
    y = torch.arange(3).repeat_interleave(count)
    angle = 2 * math.pi / 3 * y + 3.0 * t
    centre = 0.5 + 0.45 * t * torch.stack([angle.cos(), angle.sin()])
    x = centre.T + noise * torch.randn(3 * count, 2, generator=generator)
    return x.clamp(0, 1).view(-1, 2, 1, 1), y


def build_mlp_pair(seed: int = 0) -> GuidedPair:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scale = ((0.5, 0.5), (0.2, 0.2))
        return GuidedPair(*(nn.Sequential(Normalize(*scale), build_model(f"mlp-{WIDTH}", 3, 2, 1)) for _ in range(2)))


def train(
    pair: GuidedPair, x: Tensor, y: Tensor, *, eps: float, attack: str = "cag", seed: int = 0,
    states: list[dict[str, Tensor]] | None = None, **terms: float | str | bool,
) -> dict[str, np.ndarray]:  # fmt: skip
    """STEPS full-batch steps of the D2R loss, in place; `terms` go to objectives.d2r. Returns the weighted terms.
    states: gets a copy of the pair's state before the first step and after every EVERY steps.

    Adam with one cycle of the learning rate, where the recipe for images has SGD: it stands any weights the
    sliders can ask for. ValueError if the loss becomes infinite or NaN."""
    method = Method("D2R in the plane", d2r, attack, needs_guide=True, uniform_start=True)
    optimizer = torch.optim.Adam(pair.parameters(), RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    generator = torch.Generator().manual_seed(seed)
    history: dict[str, list[float]] = {}
    for step in range(STEPS):
        if states is not None and step % EVERY == 0:
            states.append(copy.deepcopy(pair.state_dict()))
        x_adv = method.perturb(pair, x, y, eps=eps, step_size=0.75 * eps, steps=ATTACK_STEPS, generator=generator)
        loss = method.loss(method.forward(pair, x, x_adv), y, terms)
        if not torch.isfinite(loss.total):
            raise ValueError("training diverged: the loss is no longer finite; make the weights smaller")
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        optimizer.step()
        schedule.step()
        for name, part in loss.parts.items():
            history.setdefault(name, []).append(part.item())
    if states is not None:
        states.append(copy.deepcopy(pair.state_dict()))
    return {name: np.array(values) for name, values in history.items()}


def at_step(data: Trained, step: int) -> Trained:
    """The same training after `step` steps, a multiple of EVERY."""
    pair = build_mlp_pair()
    pair.load_state_dict(data.states[step // EVERY])
    return replace(data, step=step, **look(pair, *Points(data.points, data.labels).tensors(), data.eps))


def compute(
    variant: str = "symmetric", w_ce: float = DEFAULT["w_ce"], w_mse: float = DEFAULT["w_mse"],
    w_clean: float = DEFAULT["w_clean"], w_adv: float = DEFAULT["w_adv"],
    eps: float = 0.03, attack: str = "cag", detach_guide: bool = False, seed: int = 0, points: Points | None = None,
) -> Trained:  # fmt: skip
    """Train a pair with these weights of the D2R loss and look at it; on `points`, or on the spirals. ValueError for
    weights below 0, an impossible eps, an unknown variant or attack, or a training that diverges."""
    if variant not in D2R_WEIGHTS:
        raise nearest(variant, D2R_WEIGHTS, "D2R variant")
    if attack not in SHORT:
        raise nearest(attack, SHORT, "attack")
    weights = {"w_ce": w_ce, "w_mse": w_mse, "w_clean": w_clean, "w_adv": w_adv}
    for name, value in weights.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative, not {value}")
    if not 0 <= eps <= 0.2:
        raise ValueError(f"eps must lie in [0, 0.2], in units of the square's side, not {eps}")
    x, y = (
        spirals()
        if points is None
        else (torch.from_numpy(points.xy).view(-1, 2, 1, 1), torch.from_numpy(points.labels))
    )
    pair, states = build_mlp_pair(seed), []
    history = train(
        pair, x, y, eps=eps, attack=attack, seed=seed, states=states, variant=variant, detach_guide=detach_guide,
        **weights,
    )  # fmt: skip
    settings = (
        f"weights CE {w_ce:g}, MSE {w_mse:g}, clean {w_clean:g} ({variant}), adversarial {w_adv:g}; attacked by "
        f"{SHORT[attack]} at ε {eps:g}"
    )
    if detach_guide:
        settings += ", guide detached"
    return Trained(
        points=x.flatten(1).numpy(), labels=y.numpy(), eps=eps, history=history, words=settings, states=tuple(states),
        **look(pair, x, y, eps),
    )  # fmt: skip


# -- picture ----------------------------------------------------------------------------------------------
PALE = ListedColormap([0.72 + 0.28 * np.array(to_rgb(c)) for c in CLASS_COLOURS])


SIZE, MAPS = (9.4, 5.6), ((0.02, 0.42, 0.32, 0.52), (0.36, 0.42, 0.32, 0.52))  # inches; of guide and target


def map_axes() -> list[Axes]:
    """Empty axes that lie like the maps of draw()."""
    made = base.figure(*SIZE)
    return [made.add_axes(place, xlim=(0, 1), ylim=(0, 1), aspect="equal") for place in MAPS]


def draw(data: Trained, ghost: Trained | None = None, frame: Frame | None = None) -> Figure:
    made = base.figure(*SIZE)
    accuracy = data.accuracy
    draw_map(made.add_axes(MAPS[0]), data, data.guide_map, f"guide: {accuracy['guide']:.0%} right",
             before=None if ghost is None else ghost.guide_map)  # fmt: skip
    draw_map(
        made.add_axes(MAPS[1]), data, data.target_map,
        f"target: {accuracy['target']:.0%} right, {accuracy['target, attacked']:.0%} attacked", attacked=True,
        before=None if ghost is None else ghost.target_map,
    )  # fmt: skip
    draw_margins(made.add_axes((0.75, 0.5, 0.24, 0.44)), data, ghost, frame)
    draw_history(made.add_axes((0.07, 0.09, 0.92, 0.22)), data, ghost, frame)
    return made


def draw_map(
    ax, data: Trained, regions: np.ndarray, title: str, attacked: bool = False, before: np.ndarray | None = None
) -> None:
    """Regions in pale colours with a line between them; points marked by class; ε-squares of fooled points; the
    borders that were there `before` as grey dashes."""
    ax.imshow(regions, origin="lower", extent=(0, 1, 0, 1), cmap=PALE, vmin=0, vmax=2, interpolation="nearest")
    side = (np.arange(PIXELS) + 0.5) / PIXELS
    for c in range(3):
        if before is not None and 0 < (before == c).mean() < 1:
            grey = {"colors": base.GREY, "linewidths": 1.1, "linestyles": [base.GHOST["ls"]]}
            ax.contour(side, side, before == c, levels=[0.5], **grey)
        if 0 < (regions == c).mean() < 1:
            ax.contour(side, side, regions == c, levels=[0.5], colors=base.INK, linewidths=0.8)
    for c, (colour, mark) in enumerate(zip(CLASS_COLOURS, CLASS_MARKS, strict=True)):
        mine = data.points[data.labels == c]
        ax.plot(*mine.T, mark, color=colour, ms=4.5, mec="white", mew=0.5)
    if attacked:
        fooled = data.target_adv <= 0
        # a broken line from each fooled point to where the attack put it
        ways = np.stack([data.points, data.attacked, np.full_like(data.points, np.nan)], 1)[fooled].reshape(-1, 2)
        ax.plot(*ways.T, color=base.INK, lw=1)
        ax.plot(*data.attacked[fooled].T, "x", color=base.INK, ms=4.5, mew=1.3)
    base.bare(ax, title)


def draw_margins(ax, data: Trained, ghost: Trained | None = None, frame: Frame | None = None) -> None:
    base.tidy(ax, "margins", "logit margin", "share of points below")
    share = (np.arange(len(data.labels)) + 1) / len(data.labels)
    seen = [data.target_clean, data.guide_clean, data.target_adv]
    if ghost is not None:
        seen += [ghost.target_clean, ghost.guide_clean, ghost.target_adv]
        for margin in seen[3:]:
            ax.plot(np.sort(margin), (np.arange(len(margin)) + 1) / len(margin), **base.GHOST)
    ax.set_xlim(*(frame or Frame()).hold("margins", min(m.min() for m in seen), max(m.max() for m in seen)))
    for name, margin, colour, dash in (
        ("target", data.target_clean, base.TARGET, "-"),
        ("guide", data.guide_clean, base.GUIDE, "-."),
        ("target, attacked", data.target_adv, base.RED, "--"),
    ):
        ax.plot(np.sort(margin), share, color=colour, ls=dash, lw=2, label=name)
    ax.axvline(0, color=base.GREY, lw=1)
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 1])
    # A distribution rises to the right, so the upper left is free.
    ax.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none", loc="upper left", handlelength=2.2,
              borderaxespad=0.1)  # fmt: skip


def draw_history(ax, data: Trained, ghost: Trained | None = None, frame: Frame | None = None) -> None:
    base.tidy(ax, "the loss and its weighted terms", "step of training", "")
    totals = [sum(each.history.values()) for each in (data, ghost) if each is not None]
    if ghost is not None:
        ax.plot(totals[1], **base.GHOST, label="total, before")
    ax.plot(totals[0], color=base.GREY, lw=1, label="total")
    for name, values in data.history.items():
        colour, dash = TERM_LOOKS[name]
        ax.plot(values, color=colour, ls=dash, lw=2, label=TERMS[name])
    ax.set_xlim(0, STEPS)
    if data.step < STEPS:
        ax.axvline(data.step, color=base.INK, lw=1.4, ls=(0, (4, 2)))
        ax.annotate(f"step {data.step}", (data.step, 1), (3, -2), xycoords=("data", "axes fraction"),
                    textcoords="offset points", fontsize=8, va="top")  # fmt: skip
    highest = max(float(np.quantile(total, 0.97)) for total in totals)
    # Room for the legend above the lines.
    ax.set_ylim(*(frame or Frame()).hold("history", 0, max(1.4 * highest, 1e-3)))
    ax.legend(fontsize=8, frameon=False, loc="upper right", ncols=6, handlelength=2.6, borderaxespad=0)


# -- words ------------------------------------------------------------------------------------------------
def words(data: Trained) -> str:
    accuracy = data.accuracy
    summary = (
        f"Trained with {data.words}. Of {len(data.labels)} points the guide gets {accuracy['guide']:.1%} right, the "
        f"target {accuracy['target']:.1%} clean and {accuracy['target, attacked']:.1%} under PGD-10 at ε {data.eps:g}."
    )
    if data.step < STEPS:
        summary = f"After {data.step} of {STEPS} steps: {summary}"
    if accuracy["target"] < 0.4:
        summary += " The target is at chance."
    margins = base.table(
        ("", "right", "mean margin", "lowest tenth"),
        [
            (name, f"{(m > 0).mean():.1%}", f"{m.mean():.2f}", f"{np.quantile(m, 0.1):.2f}")
            for name, m in (
                ("guide", data.guide_clean),
                ("target", data.target_clean),
                ("target, attacked", data.target_adv),
            )
        ],
        "Logit margins",
    )
    terms = base.table(
        ("term", "first step", "last step"),
        [(TERMS[name], f"{values[0]:.3f}", f"{values[-1]:.3f}") for name, values in data.history.items()],
        "Weighted terms of the loss",
    )
    return base.sentence(summary) + base.side_by_side(margins, terms)


class GuideAndTarget(Panel):
    """Weigh D2R's terms; a pair trains from scratch in about a second and shows what it learnt."""

    def __init__(self, **start: float | str | bool):
        """start: initial settings, as in compute()."""
        fixed = {"variant": "symmetric", "eps": 0.03, "attack": "cag", "detach_guide": False}
        at: dict[str, Any] = fixed | DEFAULT | start
        controls = {
            "variant": Choice("Clean term", at["variant"], VARIANTS),
            "attack": Choice(
                "Training attack", at["attack"], ATTACKS, "Makes the attacked points", when=lambda at: at["w_adv"] > 0
            ),
            "w_ce": Slider("Weight: CE", at["w_ce"], 0.0, 3.0, 0.1, "Weight of the guide's cross-entropy"),
            "w_mse": Slider("Weight: MSE", at["w_mse"], 0.0, 5.0, 0.1, "Weight of the MSE of logits"),
            "w_clean": Slider("Weight: clean", at["w_clean"], 0.0, 40.0, 1.0, "Weight of the KL term on clean points"),
            "w_adv": Slider(
                "Weight: adversarial", at["w_adv"], 0.0, 60.0, 1.0, "Weight of the KL term on attacked points"
            ),
            "eps": Slider("ε", at["eps"], 0.0, 0.08, 0.005, "Radius of the attack, in units of the square's side"),
            "detach_guide": Choice(
                "Gradient to guide",
                at["detach_guide"],
                {"from every term": False, "from CE only": True},
                "Which terms teach the guide",
                when=lambda at: at["w_mse"] + at["w_clean"] + at["w_adv"] > 0,
            ),
        }
        x, y = spirals()
        classes = {"● class 1": 0, "▲ class 2": 1, "■ class 3": 2}
        self.editor = PointEditor(Points(x.flatten(1).numpy(), y.numpy()), classes, self.refresh)
        self.scrub = Scrubber("Step of training", self._on_scrub)

        def run(**settings: Any) -> Trained:
            return compute(**settings, points=self.editor.points)

        super().__init__("Guide and target in the plane", controls, run, draw, words)
        self.more.children = (self.scrub.row, self.editor.row)
        if self.touch is not None:
            self.editor.follow(self.touch, map_axes())

    def on_touch(self, message: Mapping[str, Any]) -> None:
        """A point was dragged, added or removed."""
        self.editor.attempt(lambda: self.editor.on_touch(message))

    def _show(self, settings: Mapping[str, Any], data: Trained) -> None:
        super()._show(settings, data)
        self.scrub.over(range(0, STEPS + 1, EVERY))

    def _on_scrub(self, step: int) -> None:
        """Look at a moment of the training that is over; nothing is trained."""
        if self._shown is not None:
            self._paint(self._shown.settings, at_step(self._shown.data, step))
