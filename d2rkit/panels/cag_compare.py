"""Panel of notebook 04: three attacks from the same start on the same image.

CE moves away from the label, self-KL from what the target said, CAG from what the guide said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from d2rkit.core.validation import nearest
from d2rkit.methods import attacks
from d2rkit.methods.pair import GuidedPair, eval_mode
from d2rkit.panels import base
from d2rkit.panels.axes import Frame
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.panel import Panel
from d2rkit.panels.sample_pairs import SamplePair

ATTACKS = {"ce": "CE", "kl-self": "self-KL", "cag": "CAG"}
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
    transfer: np.ndarray  # (4, 2): share of right images that each attack fools, on target and on guide
    raised: np.ndarray  # (4,): share of images whose margin on the target each attack raised instead
    transfer_images: int
    eps: float
    guide_share: float
    title: str


def perturb(
    name: str, pair: GuidedPair, x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int, start: Tensor,
    guide_share: float = 0.0,
) -> Tensor:  # fmt: skip
    """x' by one of ATTACKS or GUIDE_ATTACK; eps and step_size in pixel scale. ValueError for another name."""
    budget = {"eps": eps, "step_size": step_size, "steps": steps, "start": start}
    if name == "ce":
        return attacks.pgd_ce(pair.target, x, y, **budget)
    if name == "kl-self":
        return attacks.kl_self(pair.target, x, **budget)
    if name == "cag":
        return attacks.cag(pair.target, pair.guide, x, guide_share=guide_share, y=y, **budget)
    if name == GUIDE_ATTACK:
        return attacks.pgd_ce(pair.guide, x, y, **budget)
    raise nearest(name, [*ATTACKS, GUIDE_ATTACK], "attack")


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
    device = next(pair.parameters()).device
    x, y = sample.images[image : image + 1].to(device), sample.labels[image : image + 1].to(device)
    generator = torch.Generator(device).manual_seed(seed)
    start = attacks.gaussian_start(x, generator)
    budget = {"eps": eps, "step_size": step_share * eps, "guide_share": guide_share}
    ways = {name: trace(name, pair, x, y, steps=steps, start=start, **budget) for name in ATTACKS}
    deltas = torch.stack([way[-1] - x[0] for way in ways.values()]).flatten(1)
    with eval_mode(pair), torch.no_grad():
        paths = {
            name: torch.stack([-attacks.margin(net(way), y.expand(len(way))) for net in (pair.guide, pair.target)], 1)
            for name, way in ways.items()
        }
    signs = deltas.sign()
    many, labels = sample.images[:count].to(device), sample.labels[:count].to(device)
    return Comparison(
        x[0].cpu().numpy(), sample.class_names[int(y)],
        {name: (way[-1] - x[0]).cpu().numpy() for name, way in ways.items()},
        F.cosine_similarity(deltas[:, None], deltas[None], dim=2).cpu().numpy(),
        (signs[:, None] == signs[None]).float().mean(2).cpu().numpy(),
        {name: path.cpu().numpy() for name, path in paths.items()},
        *transfer_matrix(pair, many, labels, steps=steps, generator=generator, **budget),
        len(labels), eps, guide_share, sample.title,
    )  # fmt: skip


def transfer_matrix(
    pair: GuidedPair, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None, **budget: float
) -> tuple[np.ndarray, np.ndarray]:
    """What each attack (row: the three, then CE on the guide) does to images x: (N, C, H, W): of those that a
    network (column: target, guide) gets right, the share it turns wrong, (4, 2); and the share of all images
    whose margin on the target it raises, (4,). budget: eps, step_size (pixel scale), steps, guide_share."""
    start = attacks.gaussian_start(x, generator)
    networks = (pair.target, pair.guide)
    fooled, raised = [], []
    with eval_mode(pair), torch.no_grad():
        before = [-attacks.margin(net(x), y) for net in networks]
        for name in (*ATTACKS, GUIDE_ATTACK):
            x_adv = perturb(name, pair, x, y, start=start, **budget)
            after = [-attacks.margin(net(x_adv), y) for net in networks]
            fooled.append([_share(now <= 0, among=then > 0) for then, now in zip(before, after, strict=True)])
            raised.append(_share(after[0] > before[0]))
    return np.array(fooled), np.array(raised)


def _share(flags: Tensor, among: Tensor | None = None) -> float:
    among = torch.ones_like(flags) if among is None else among
    return (flags & among).sum().item() / max(among.sum().item(), 1)


def cosines(
    pair: GuidedPair, x: Tensor, y: Tensor, first: str, second: str, *, seeds: tuple[int, int] = (0, 0), **budget: float
) -> np.ndarray:
    """Cosine, image by image, between the changes that two attacks make to x: (N, C, H, W), from starts of
    these seeds: (N,). The same attack from two seeds is the control: how alike can two changes be?"""
    deltas = []
    for name, seed in zip((first, second), seeds, strict=True):
        start = attacks.gaussian_start(x, torch.Generator(x.device).manual_seed(seed))
        deltas.append((perturb(name, pair, x, y, start=start, **budget) - x).flatten(1))
    return F.cosine_similarity(*deltas).cpu().numpy()


# -- picture ----------------------------------------------------------------------------------------------
def draw(data: Comparison, ghost: Comparison | None = None, frame: Frame | None = None) -> Figure:
    made = base.figure(9.4, 5.9)
    base.show_image(made.add_axes((0.02, 0.61, 0.205, 0.33)), data.image, f"image: {data.label}")
    top = max(255 * data.eps, 0.5)
    for place, (name, delta) in enumerate(data.deltas.items()):
        ax = made.add_axes((0.265 + 0.225 * place, 0.61, 0.205, 0.33))
        shown = ax.imshow(255 * delta.mean(0), cmap=base.SIGNED, vmin=-top, vmax=top, interpolation="nearest")
        base.bare(ax, f"{ATTACKS[name]}: change")
    bar = made.colorbar(shown, cax=made.add_axes((0.93, 0.61, 0.012, 0.33)), ticks=[-top, 0, top])
    bar.ax.set_yticklabels([f"−{top:g}", "0", f"+{top:g}"], fontsize=8)
    bar.ax.set_title("1/255", fontsize=8)
    bar.outline.set_visible(False)
    same = ghost if ghost is not None and np.array_equal(ghost.image, data.image) else None
    draw_paths(made.add_axes((0.07, 0.09, 0.36, 0.4)), data, same, frame)
    names = list(ATTACKS.values())
    draw_matrix(made.add_axes((0.51, 0.12, 0.2, 0.33)), data.cosines, names, names, "cosine of changes", (-1, 1))
    draw_matrix(
        made.add_axes((0.84, 0.12, 0.13, 0.33)), data.transfer, [*names, "CE on\nguide"], ["target", "guide"],
        "share fooled", (0, 1), percent=True,
    )  # fmt: skip
    return made


def draw_paths(ax, data: Comparison, ghost: Comparison | None = None, frame: Frame | None = None) -> None:
    """The walk in the plane of the two margins; left of 0 the guide is wrong, below 0 the target. In grey, where the
    walks led at the previous setting."""
    base.tidy(ax, "the way in the guide–target plane", "guide's margin", "target's margin")
    for name, path in {} if ghost is None else ghost.paths.items():
        ax.plot(*path.T, **base.GHOST)
        ax.plot(*path[-1], STYLE[name][2], color=base.GHOST["color"], ms=8, mec="white", mew=1, zorder=1.6)
    for name, path in data.paths.items():
        colour, dash, mark = STYLE[name]
        ax.plot(*path.T, color=colour, ls=dash, lw=1.8)
        ax.plot(*path[-1], mark, color=colour, ms=9, mec="white", mew=1, label=ATTACKS[name])
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


def draw_matrix(
    ax, values: np.ndarray, rows: list[str], columns: list[str], title: str, limits, percent: bool = False
) -> None:
    cmap = base.SIGNED if limits[0] < 0 else "Blues"
    ax.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto", alpha=0.75)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            ax.text(j, i, f"{value:.0%}" if percent else f"{value:.2f}", ha="center", va="center", fontsize=9)
    ax.set_xticks(range(len(columns)), columns, fontsize=8)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    ax.tick_params(length=0)
    ax.set_title(title, fontsize=10, loc="left", color=base.INK)
    for spine in ax.spines.values():
        spine.set_visible(False)


# -- words ------------------------------------------------------------------------------------------------
def words(data: Comparison) -> str:
    names = list(ATTACKS.values())
    pairs = [(0, 1), (0, 2), (1, 2)]
    cosines = ", ".join(f"{names[i]} and {names[j]} {data.cosines[i, j]:.2f}" for i, j in pairs)
    signs = ", ".join(f"{data.agree[i, j]:.0%}" for i, j in pairs)
    share = f" with guide share {data.guide_share:g}" if data.guide_share else ""
    summary = (
        f"{data.title}, ε = {255 * data.eps:g}/255, CAG{share}. "
        f"Cosines of the changes of this “{data.label}”: {cosines}; pixels moved the same way: {signs}."
    )
    margins = base.table(
        ("attack", "guide's margin", "target's margin"),
        [("none", *(f"{v:.2f}" for v in data.paths["ce"][0]))]
        + [(ATTACKS[name], *(f"{v:.2f}" for v in path[-1])) for name, path in data.paths.items()],
        "Margins of this image (below 0: fooled)",
    )
    transfer = base.table(
        ("attack", "fools the target", "fools the guide", "raises the target's margin"),
        [
            (name, *(f"{v:.0%}" for v in (*row, up)))
            for name, row, up in zip([*names, GUIDE_ATTACK], data.transfer, data.raised, strict=True)
        ],
        f"On {data.transfer_images} images: share fooled, of those the network gets right; share made easier, of all",
    )
    return base.sentence(summary) + base.side_by_side(margins, transfer)


class CagCompare(Panel):
    """Three attacks on one image, and how they transfer on many."""

    def __init__(self, sample: SamplePair, max_eps: float = 32 / 255, count: int = 60):
        top = round(255 * max_eps)

        def run(image: int, eps255: float, steps: int, step_share: float, guide_share: float) -> Comparison:
            return compute(sample, image, eps255 / 255, steps, step_share, guide_share, count)

        controls = {
            "image": Choice("Image", sample.first_right(), sample.choices()),
            "eps255": Slider(
                "ε in 1/255", min(round(255 * sample.eps), top), 0, top, 1, "Largest change of a pixel, in 1/255"
            ),
            "steps": Slider("Steps", 10, 1, 20, 1, "Gradient steps of every attack"),
            "step_share": Slider("Step size / ε", 0.25, 0.05, 1.0, 0.05, "Step size as a share of ε"),
            "guide_share": Slider(
                "CAG: guide's share", 0.0, 0.0, 1.0, 0.05, "How much of CAG's ascent is CE(g(x'), y)"
            ),
        }
        super().__init__(f"Three attacks · {sample.title}", controls, run, draw, words)
