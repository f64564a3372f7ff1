"""Panel of notebook 04: three attacks from the same start on the same image.

CE moves away from the label, self-KL from what the target said, CAG from what the guide said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from d2rkit.core.validation import nearest
from d2rkit.methods import attacks
from d2rkit.methods.pair import GuidedPair, eval_mode, required_guide
from d2rkit.panels import base
from d2rkit.panels.axes import Frame
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.panel import Panel
from d2rkit.panels.sample_pairs import SamplePair
from d2rkit.panels.shares import Share

COMPARED = {"ce": "CE", "kl-self": "self-KL", "cag": "CAG"}
STYLE = {  # colour, dash, mark: the same in every part of the picture
    "ce": (base.BLUE, "-", "o"),
    "kl-self": (base.GREEN, "--", "^"),
    "cag": (base.RED, "-.", "s"),
}
GUIDE_ATTACK = "CE on the guide"  # the control in the transfer matrix


@dataclass(frozen=True)
class Comparison:
    """Images (C, H, W) in [0, 1]; margins are logits of the true class less the best other."""

    image: np.ndarray
    label: str
    deltas: dict[str, np.ndarray]  # attack -> x' − x
    cosines: np.ndarray  # (3, 3) between the perturbations
    agree: np.ndarray  # (3, 3) share of pixels moved in the same direction
    paths: dict[str, np.ndarray]  # attack -> (steps + 1, 2): margin of guide, margin of target on the way
    transfer: dict[str, Transfer]  # attack (the three, and CE on the guide) -> what it does to many images
    transfer_images: int
    eps: float
    steps: int
    guide_share: float
    title: str


@dataclass(frozen=True)
class Transfer:
    """What one attack does to many images: of those that a network gets right, how many it turns wrong; and of all,
    whose margin on the target it raised instead, (N,) bool."""

    target: Share
    guide: Share
    climbs: np.ndarray

    @property
    def raised(self) -> Share:
        return Share.of(self.climbs)


def perturb(
    name: str, pair: GuidedPair, x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int, start: Tensor,
    guide_share: float = 0.0,
) -> Tensor:  # fmt: skip
    """x' by one of COMPARED or GUIDE_ATTACK; eps and step_size in pixel scale. ValueError for another name."""
    budget: dict[str, Any] = {"eps": eps, "step_size": step_size, "steps": steps, "start": start}
    if name == "ce":
        return attacks.pgd_ce(pair.target, x, y, **budget)
    if name == "kl-self":
        return attacks.kl_self(pair.target, x, **budget)
    if name == "cag":
        return attacks.cag(pair.target, required_guide(pair), x, guide_share=guide_share, y=y, **budget)
    if name == GUIDE_ATTACK:
        return attacks.pgd_ce(required_guide(pair), x, y, **budget)
    raise nearest(name, [*COMPARED, GUIDE_ATTACK], "attack")


def trace(name: str, pair: GuidedPair, x: Tensor, y: Tensor, *, steps: int, start: Tensor, **budget) -> Tensor:
    """All images on the way, (steps + 1, C, H, W), of an attack on one image x: (1, C, H, W). Each step starts
    where the last one ended, which is the same walk as `steps` steps at once."""
    images = [x + start]
    for _ in range(steps):
        images.append(perturb(name, pair, x, y, steps=1, start=images[-1] - x, **budget))
    return torch.cat(images)


def compute(
    sample: SamplePair, image: int, eps: float, steps: int = 10, step_share: float = 0.25, guide_share: float = 0.0,
    count: int = 60, seed: int = 0,
) -> Comparison:  # fmt: skip
    """Run the three attacks on image number `image`, and on `count` images for the transfer matrix. eps: pixel
    scale; step_share: step size as a share of eps; guide_share: of CE(g(x'), y) in CAG.
    ValueError if the pair has no guide, or eps or the image is impossible."""
    pair = sample.pair
    if pair.guide is None:
        raise ValueError(f"{sample.title} has no guide; choose a pair trained with one, such as d2r-cag")
    if not 0 <= eps <= 1:
        raise ValueError(f"eps is in pixel scale and must lie in [0, 1], e.g. 8/255 = 0.0314, not {eps}")
    if not 0 <= image < len(sample.labels):
        raise ValueError(f"image {image} does not exist; allowed: 0..{len(sample.labels) - 1}")
    device, count = next(pair.parameters()).device, max(count, image + 1)
    many, labels = sample.images[:count].to(device), sample.labels[:count].to(device)
    # One draw for all: the image starts here where it starts among the many, so that both tell the same story.
    starts = starts_of(many, seed)
    x, y, start = (tensor[image : image + 1] for tensor in (many, labels, starts))
    budget: dict[str, Any] = {"eps": eps, "step_size": step_share * eps, "guide_share": guide_share}
    ways = {name: trace(name, pair, x, y, steps=steps, start=start, **budget) for name in COMPARED}
    deltas = torch.stack([way[-1] - x[0] for way in ways.values()]).flatten(1)
    with eval_mode(pair), torch.no_grad():
        paths = {
            name: torch.stack([-attacks.margin(net(way), y.expand(len(way))) for net in (pair.guide, pair.target)], 1)
            for name, way in ways.items()
        }
    signs = deltas.sign()
    return Comparison(
        x[0].cpu().numpy(), sample.class_names[int(y)],
        {name: (way[-1] - x[0]).cpu().numpy() for name, way in ways.items()},
        F.cosine_similarity(deltas[:, None], deltas[None], dim=2).cpu().numpy(),
        (signs[:, None] == signs[None]).float().mean(2).cpu().numpy(),
        {name: path.cpu().numpy() for name, path in paths.items()},
        transfer_matrix(pair, many, labels, seed=seed, steps=steps, **budget),
        len(labels), eps, steps, guide_share, sample.title,
    )  # fmt: skip


def starts_of(x: Tensor, seed: int) -> Tensor:
    """Where every attack begins: 0.001 N(0, 1) beside x: (N, C, H, W). The same seed and N, the same starts."""
    return attacks.gaussian_start(x, torch.Generator(x.device).manual_seed(seed))


def transfer_matrix(
    pair: GuidedPair, x: Tensor, y: Tensor, *, seed: int = 0, names: Sequence[str] = (*COMPARED, GUIDE_ATTACK),
    **budget: Any,
) -> dict[str, Transfer]:  # fmt: skip
    """What each attack, the three and then CE on the guide, or those of `names`, does to images x: (N, C, H, W), from
    the starts of `seed`. budget: eps, step_size (pixel scale), steps, guide_share."""
    start, networks = starts_of(x, seed), (pair.target, required_guide(pair))
    transfers: dict[str, Transfer] = {}
    with eval_mode(pair), torch.no_grad():
        before = [-attacks.margin(net(x), y) for net in networks]
        for name in names:
            x_adv = perturb(name, pair, x, y, start=start, **budget)
            after = [-attacks.margin(net(x_adv), y) for net in networks]
            target, guide = (Share.of(now[then > 0] <= 0) for then, now in zip(before, after, strict=True))
            transfers[name] = Transfer(target, guide, (after[0] > before[0]).cpu().numpy())
    return transfers


def first_that_climbs(sample: SamplePair, seed: int = 0, count: int = 20) -> tuple[int, str]:
    """The first of `count` images that the target gets right and that CAG makes easier while CE makes it harder, at the
    pair's own eps in ten steps; and that rule in a sentence. Without one, the first that the target gets right."""
    x, y = (t[:count].to(next(sample.pair.parameters()).device) for t in (sample.images, sample.labels))
    budget: dict[str, Any] = {"eps": sample.eps, "step_size": sample.eps / 4, "steps": 10}
    transfers = transfer_matrix(sample.pair, x, y, seed=seed, names=("ce", "cag"), **budget)
    with eval_mode(sample.pair), torch.no_grad():
        right = (sample.pair.target(x).argmax(1) == y).cpu().numpy()
    chosen = right & transfers["cag"].climbs & ~transfers["ce"].climbs
    words = f"of the first {len(y)} images, the target gets {chosen.sum()} right that CAG makes easier and CE harder"
    if not chosen.any():
        return sample.first_right(count), f"Shown is the first image that the target gets right: {words}."
    return int(chosen.argmax()), f"Chosen by a rule, not by hand: {words}; shown is the first of them."


def cosines(
    pair: GuidedPair, x: Tensor, y: Tensor, first: str, second: str, *, seeds: tuple[int, int] = (0, 0), **budget: Any
) -> np.ndarray:
    """Cosine, image by image, between the changes that two attacks make to x: (N, C, H, W), from starts of
    these seeds: (N,). The same attack from two seeds is the control: how alike can two changes be?"""
    deltas = []
    for name, seed in zip((first, second), seeds, strict=True):
        start = starts_of(x, seed)
        deltas.append((perturb(name, pair, x, y, start=start, **budget) - x).flatten(1))
    return F.cosine_similarity(*deltas).cpu().numpy()


# -- picture ----------------------------------------------------------------------------------------------
def draw(data: Comparison, ghost: Comparison | None = None, frame: Frame | None = None) -> Figure:
    made = base.figure(9.4, 5.9)
    base.show_image(made.add_axes((0.02, 0.61, 0.205, 0.33)), data.image, f"image: {data.label}")
    top, shown = max(255 * data.eps, 0.5), []
    for place, (name, delta) in enumerate(data.deltas.items()):
        ax = made.add_axes((0.265 + 0.225 * place, 0.61, 0.205, 0.33))
        image = ax.imshow(255 * delta.mean(0), cmap=base.SIGNED, vmin=-top, vmax=top, interpolation="nearest")
        shown.append(image)
        base.bare(ax, f"{COMPARED[name]}: change")
    bar = made.colorbar(shown[-1], cax=made.add_axes((0.93, 0.61, 0.012, 0.33)), ticks=[-top, 0, top])
    bar.ax.set_yticklabels([f"−{top:g}", "0", f"+{top:g}"], fontsize=8)
    bar.ax.set_title("1/255", fontsize=8)
    bar.outline.set_visible(False)
    same = ghost if ghost is not None and np.array_equal(ghost.image, data.image) else None
    draw_paths(made.add_axes((0.07, 0.09, 0.36, 0.4)), data, same, frame)
    names = list(COMPARED.values())
    draw_matrix(made.add_axes((0.5, 0.12, 0.2, 0.33)), data.cosines, names, "cosine of changes")
    draw_transfer(made.add_axes((0.78, 0.12, 0.19, 0.33)), data)
    return made


def draw_paths(ax, data: Comparison, ghost: Comparison | None = None, frame: Frame | None = None) -> None:
    """The walk in the plane of the two margins; left of 0 the guide is wrong, below 0 the target. In grey, where the
    walks led at the previous setting."""
    base.tidy(ax, "paths in the guide–target plane", "guide's margin", "target's margin")
    for name, path in {} if ghost is None else ghost.paths.items():
        ax.plot(*path.T, **base.GHOST)
        ax.plot(*path[-1], STYLE[name][2], color=base.GHOST["color"], ms=8, mec="white", mew=1, zorder=1.6)
    for name, path in data.paths.items():
        colour, dash, mark = STYLE[name]
        ax.plot(*path.T, color=colour, ls=dash, lw=1.8)
        ax.plot(*path[-1], mark, color=colour, ms=9, mec="white", mew=1, label=COMPARED[name])
    ax.plot(*data.paths["ce"][0], "*", color=base.INK, ms=14, mec="white", label="start")
    ax.margins(0.12)
    (low_x, high_x), (low_y, high_y), frame = ax.get_xlim(), ax.get_ylim(), frame or Frame()
    ax.set_xlim(*frame.hold("guide's margin", min(low_x, -0.5), max(high_x, 0.5)))
    ax.set_ylim(*frame.hold("target's margin", min(low_y, -0.5), max(high_y, 0.5)))
    ax.axhline(0, color=base.GREY, lw=1)
    ax.axvline(0, color=base.GREY, lw=1)
    ax.legend(
        fontsize=8, frameon=False, ncols=4, loc="lower right", columnspacing=0.8, handletextpad=0.1, borderaxespad=0
    )


def draw_matrix(ax, values: np.ndarray, names: list[str], title: str) -> None:
    """values: (N, N) in [-1, 1]."""
    ax.imshow(values, cmap=base.SIGNED, vmin=-1, vmax=1, aspect="auto", alpha=0.75)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=9)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(range(len(names)), names, fontsize=8)
    ax.tick_params(length=0)
    ax.set_title(title, fontsize=10, loc="left", color=base.INK)
    for spine in ax.spines.values():
        spine.set_visible(False)


def draw_transfer(ax, data: Comparison) -> None:
    """Share of the images that a network gets right and an attack turns wrong, with 95 % intervals."""
    base.tidy(ax, "share fooled, 95 % intervals", "", "")
    for row, transfer in enumerate(data.transfer.values()):
        for shift, share, colour, mark in (
            (-0.15, transfer.target, base.TARGET, "o"), (0.15, transfer.guide, base.GUIDE, "^")
        ):  # fmt: skip
            if share.n:
                ax.errorbar(share.value, row + shift, xerr=share.error, fmt=mark, color=colour, ms=6, capsize=3, lw=1.5,
                            clip_on=False)  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(len(data.transfer) - 0.5, -0.5))
    ax.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    ax.set_yticks(range(len(data.transfer)), [*COMPARED.values(), "CE on\nguide"], fontsize=8)
    ax.grid(axis="x", color="#DDDDDD", lw=0.8)
    ax.set_axisbelow(True)
    handles = [ax.plot([], [], m, color=c, label=w)[0] for w, c, m in (("target", base.TARGET, "o"),
               ("guide", base.GUIDE, "^"))]  # fmt: skip
    ax.legend(handles=handles, fontsize=8, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(-0.05, -0.12),
              handletextpad=0.1, columnspacing=1)  # fmt: skip


# -- words ------------------------------------------------------------------------------------------------
def words(data: Comparison) -> str:
    names = list(COMPARED.values())
    pairs = [(0, 1), (0, 2), (1, 2)]
    cosines = ", ".join(f"{names[i]} and {names[j]} {data.cosines[i, j]:.2f}" for i, j in pairs)
    signs = ", ".join(f"{data.agree[i, j]:.0%}" for i, j in pairs)
    share = f", guide's share in CAG {data.guide_share:g}" if data.guide_share else ""
    summary = (
        f"{data.title}, ε = {255 * data.eps:g}/255, {data.steps} step{'' if data.steps == 1 else 's'}{share}. "
        f"Cosines between the changes of this “{data.label}”: {cosines}; pixels moved the same way: {signs}."
    )
    up = [COMPARED[name] for name, path in data.paths.items() if path[-1][1] > path[0][1]]
    if data.steps and data.eps:
        summary += f" {' and '.join(up)} left the target's margin higher than it was." if up else " All go down."
    margins = base.table(
        ("attack", "guide's margin", "target's margin"),
        [("none", *(f"{v:.2f}" for v in data.paths["ce"][0]))]
        + [(COMPARED[name], *(f"{v:.2f}" for v in path[-1])) for name, path in data.paths.items()],
        "Margins of this image (below 0: fooled)",
    )
    return base.sentence(summary) + base.side_by_side(margins, transfer_words(data.transfer, data.transfer_images))


def transfer_words(rows: Mapping[str, Transfer], images: int) -> str:
    """A table: attack (any words, or a key of COMPARED) -> what it does."""
    cells = [(COMPARED.get(name, name), *map(str, (t.target, t.guide, t.raised))) for name, t in rows.items()]
    caption = (
        f"On {images} images, with 95 % intervals: share fooled, of those the network gets right; share made easier "
        "for the target, of all"
    )
    return base.table(("attack", "fools the target", "fools the guide", "raises the target's margin"), cells, caption)


class CagCompare(Panel):
    """Three attacks on one image, and how they transfer on many."""

    def __init__(self, sample: SamplePair, max_eps: float = 32 / 255, count: int = 60, image: int | None = None):
        """image: where to begin (None: the first that the target gets right). The walk begins at step 0."""
        top = round(255 * max_eps)

        def run(image: int, eps255: float, steps: int, step_share: float, guide_share: float) -> Comparison:
            return compute(sample, image, eps255 / 255, steps, step_share, guide_share, count)

        controls = {
            "image": Choice("Image", sample.first_right() if image is None else image, sample.choices()),
            "eps255": Slider(
                "ε in 1/255", min(round(255 * sample.eps), top), 0, top, 1, "Largest change of a pixel, in 1/255"
            ),
            "steps": Slider("Steps", 0, 0, 20, 1, "Gradient steps of every attack"),
            "step_share": Slider("Step size / ε", 0.25, 0.05, 1.0, 0.05, "Step size as a share of ε"),
            "guide_share": Slider(
                "CAG: guide's share", 0.0, 0.0, 1.0, 0.05, "How much of CAG's ascent is CE(g(x'), y)"
            ),
        }
        super().__init__(f"Three attacks · {sample.title}", controls, run, draw, words)
