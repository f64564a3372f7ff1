"""Panel of notebook 12: for each digit what is proven, what an attack has broken, and what is open between them.

The networks, and the radii at which AutoAttack broke each digit, are shipped (benchmarks/sandwich.py made them); the
proofs are made anew at every move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from d2rkit.core.files import read_json
from d2rkit.core.paths import shipped
from d2rkit.core.validation import nearest
from d2rkit.data.datasets import load_data
from d2rkit.evaluation.sandwich import Sandwich
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.bounds import affine_layers, certified, certified_radius
from d2rkit.networks.checkpoints import load_weights
from d2rkit.panels import base
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.panel import Panel
from d2rkit.training.certified import relu_mlp

TITLES = {"natural": "no defence", "pgd-at": "PGD-AT", "ibp": "interval training"}
BOUNDS = {"interval bounds (IBP)": "ibp", "linear bounds (CROWN)": "crown"}
MOST = 32  # in 1/255, the end of the slider and the largest radius attacked


@dataclass(frozen=True)
class Judged:
    """A network and the digits it is judged on. images: (N, 1, 8, 8) in [0, 1]; broken: (N,) smallest radius tried at
    which AutoAttack broke each digit, pixel scale; 0: the clean prediction is wrong, infinite: none did."""

    name: str
    network: nn.Module
    images: Tensor
    labels: Tensor
    broken: np.ndarray

    @cached_property
    def layers(self) -> list:
        return affine_layers(self.network, self.images.shape[1:])

    @cached_property
    def radii(self) -> dict[str, np.ndarray]:
        """Bound -> (N,) radius up to which each digit is proven; -1 where the clean prediction is wrong."""
        how = {"most": MOST / 255, "halvings": 7}
        return {
            bound: certified_radius(self.layers, self.images, self.labels, how=bound, **how).numpy()
            for bound in BOUNDS.values()
        }


@dataclass(frozen=True)
class Shipped:
    """What benchmarks/sandwich.py has made. facts: the content of sandwich.json."""

    networks: Mapping[str, Judged]
    facts: Mapping[str, Any]

    @property
    def eps(self) -> float:
        return self.facts["eps255"] / 255

    @property
    def source(self) -> str:
        chosen, count = self.facts["choice"]["chosen"], self.facts["choice"]["images"]
        size = sum(p.numel() for p in self.networks["ibp"].network.parameters())
        return (
            f"Shown: three networks of {size:,} parameters each (seed 0), trained on digits for {self.facts['epochs']} "
            "epochs by benchmarks/sandwich.py; the images are "
            f"the first {self.facts['images']} test digits, 8×8. Interval training used ε = {chosen['radius255']}/255, "
            f"which proved the most of {count} validation digits ({chosen['proven']:.1%}) among "
            f"{len(self.facts['choice']['candidates'])} candidates."
        )


def load(folder: Path | None = None) -> Shipped:
    """The shipped networks, attacks and seeds. ValueError, in one sentence, if they are not there or damaged."""
    folder = folder or shipped("results") / "sandwich"
    facts = read_json(folder / "sandwich.json")
    digits, count = load_data("digits").test, facts["images"]
    x, y = digits.pixels()[:count], digits.labels[:count]
    networks = {}
    for name in TITLES:
        network = load_weights(folder / f"{name}.safetensors", GuidedPair(relu_mlp(0))).target.eval()
        broken = np.array(facts["broken"][f"{name}-0"], float)
        networks[name] = Judged(name, network, x, y, np.where(broken < 0, np.inf, broken / 255))
    return Shipped(networks, facts)


# -- one network at one radius ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Layers:
    """What the panel shows: a network's digits, the sandwich at eps, and the radii."""

    judged: Judged
    sandwich: Sandwich
    how: str

    @property
    def proven_radius(self) -> np.ndarray:
        return self.judged.radii[self.how]


def compute(judged: Judged, how: str, eps: float) -> Layers:
    """Prove what can be proven at eps (pixel scale) with a bound of BOUNDS. ValueError for another one."""
    proven = certified(judged.layers, judged.images, judged.labels, eps, how).numpy()
    return Layers(judged, Sandwich(proven, judged.broken > eps, eps), how)


# -- picture ----------------------------------------------------------------------------------------------
def draw(data: Layers, ghost: Layers | None = None) -> Figure:
    made = base.figure(9.4, 4.9)
    draw_digits(made.add_axes((0.01, 0.1, 0.47, 0.8)), data)
    draw_radii(made.add_axes((0.565, 0.25, 0.42, 0.65)), data, ghost)
    return made


def draw_digits(ax, data: Layers) -> None:
    """Every digit in a frame: blue and whole if proven, red with a cross if broken, grey with a ring if open."""
    images, count = data.judged.images[:, 0].numpy(), len(data.judged.labels)
    columns = math.ceil(math.sqrt(count))
    rows, side = math.ceil(count / columns), images.shape[-1]
    cell = side + 4
    canvas = np.ones((rows * cell, columns * cell, 3))
    kinds = {"proven": (data.sandwich.proven, base.BLUE), "broken": (~data.sandwich.survived, base.RED)}
    kinds["open"] = (data.sandwich.open, "#B0B0B0")
    for i, image in enumerate(images):
        top, left = i // columns * cell + 1, i % columns * cell + 1
        colour = next(colour for flags, colour in reversed(kinds.values()) if flags[i])
        canvas[top : top + side + 2, left : left + side + 2] = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        canvas[top + 1 : top + 1 + side, left + 1 : left + 1 + side] = image[..., None]
    ax.imshow(canvas, interpolation="nearest")
    ax.set_anchor("NW")
    at = np.array([(i % columns * cell + cell / 2 - 0.5, i // columns * cell + cell / 2 - 0.5) for i in range(count)])
    crossed, ringed = at[kinds["broken"][0]], at[kinds["open"][0]]
    ax.plot(*crossed.T, "x", color=base.RED, ms=9, mew=2.2)
    ax.plot(*ringed.T, "o", mfc="none", mec=base.ORANGE, ms=11, mew=2)
    counts = {name: int(flags.sum()) for name, (flags, _) in kinds.items()}
    base.bare(ax, f"{counts['proven']} proven (blue), {counts['broken']} broken (×), {counts['open']} open (○)")
    for spine in ax.spines.values():
        spine.set_visible(False)


def draw_radii(ax, data: Layers, ghost: Layers | None) -> None:
    """Each digit is a column: proven up to here, broken from there on, nothing known between."""
    base.tidy(ax, f"{TITLES[data.judged.name]}: radius by radius", "digits, sorted", "ε in 1/255")
    broken = np.where(np.isinf(data.judged.broken), MOST, 255 * data.judged.broken)
    order = np.lexsort((data.proven_radius, broken))
    proven, broken = 255 * data.proven_radius[order].clip(0), broken[order]
    edges = np.arange(len(order) + 1)
    ax.stairs(proven, edges, fill=True, color=base.SKY, label="proven")
    ax.stairs(broken, edges, baseline=MOST, fill=True, facecolor="#F6C9AE", edgecolor=base.RED, hatch="///", lw=0,
              label="broken by AutoAttack")  # fmt: skip
    ax.stairs(proven, edges, color=base.BLUE, lw=1.5, baseline=None)
    ax.stairs(broken, edges, color=base.RED, lw=1.5, baseline=None)
    ax.plot([], [], "s", ms=9, mfc="white", mec=base.GREY, label="open")
    if ghost is not None:
        ax.axhline(255 * ghost.sandwich.eps, **base.GHOST)
    ax.axhline(255 * data.sandwich.eps, color=base.INK, lw=1.8, ls="--", label="ε of the slider")
    ax.set_xlim(0, len(order))
    ax.set_ylim(0, MOST)
    ax.set_yticks(range(0, MOST + 1, 8))
    ax.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(-0.12, -0.17), ncols=2)


# -- words ------------------------------------------------------------------------------------------------
def words(data: Layers) -> str:
    sandwich, label = data.sandwich, {value: key for key, value in BOUNDS.items()}[data.how]
    summary = f"{TITLES[data.judged.name]}, {label}. {sandwich.report()}"
    rows = []
    for name, bound in BOUNDS.items():
        radius = data.judged.radii[bound]
        rows.append((name, f"{(radius >= sandwich.eps).mean():.1%}", f"{255 * np.median(radius.clip(0)):.1f}/255"))
    broken = 255 * np.median(data.judged.broken)
    rows.append(("AutoAttack leaves", f"{sandwich.upper:.1%}", f"{broken:.0f}/255" if broken < MOST else "–"))
    return base.sentence(summary) + base.table(("", "at this ε", "median radius"), rows, "Lower and upper bounds")


class CertifiedSandwich(Panel):
    """Choose a network, a bound and ε; every digit is proven, broken or open."""

    def __init__(self, networks: Mapping[str, Judged], eps255: int = 15, network: str = "ibp", how: str = "crown"):
        self.networks = dict(networks)
        if network not in self.networks:
            raise nearest(network, self.networks, "network")
        controls = {
            "network": Choice("Training", network, {TITLES[name]: name for name in self.networks}),
            "how": Choice("Proof by", how, BOUNDS, "Linear bounds are tighter and slower"),
            "eps255": Slider("ε in 1/255", eps255, 0, MOST, 1, "Radius of the box around each digit, in 1/255"),
        }
        super().__init__("The certified sandwich", controls, self._compute, draw, words)

    def _compute(self, network: str, how: str, eps255: int) -> Layers:
        return compute(self.networks[network], how, eps255 / 255)
