"""Panel of notebook 13: which term of a loss moves which network, with switches that stop gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from d2rkit.methods.catalogue import METHODS
from d2rkit.panels import base
from d2rkit.panels.controls import Choice
from d2rkit.panels.gradient_routes import ROUTES, STOPS, Batch, Flow, flow
from d2rkit.panels.panel import Panel
from d2rkit.panels.training_curves import TERMS

COLUMNS = ("f through x", "f through x′", "g through x", "g through x′")
SWITCHES = {
    "mse": "MSE into g",
    "clean": "Clean KL into g",
    "adv": "Adversarial KL into g",
    "own": "f(x), where f(x′) follows it",
}
STOPPED = "stopped"
STRONG = 1.0  # norm of the darkest cell


@dataclass(frozen=True)
class Matrix:
    """Gradients with the switches as they are, and with none of them (before); epoch: of the pair."""

    now: Flow
    before: Flow
    epoch: int
    images: int

    @property
    def title(self) -> str:
        when = "before training" if self.epoch == 0 else f"after epoch {self.epoch}"
        return f"{METHODS[self.now.method].title}, {when}"


def named(terms: Sequence[str]) -> list[str]:
    return [TERMS.get(term, term).removesuffix(" term") for term in terms]


def number(size: float) -> str:
    return "0" if size == 0 else f"{size:.3f}" if size >= 0.001 else f"{size:.0e}"


def compute(batches: Sequence[Batch], method: str, epoch: int, stops: Sequence[str]) -> Matrix:
    """ValueError for an epoch that is not among the batches, or an unknown method or stop."""
    by_epoch = {batch.epoch: batch for batch in batches}
    if epoch not in by_epoch:
        raise ValueError(f"there is no pair of epoch {epoch}; there are those of {', '.join(map(str, by_epoch))}")
    before = flow(by_epoch[epoch], method)
    return Matrix(flow(by_epoch[epoch], method, stops) if stops else before, before, epoch, len(by_epoch[epoch].y))


# -- picture ----------------------------------------------------------------------------------------------
LEAST = 3  # rows that a picture has room for at least, so that short losses have no huge cells


def draw(data: Matrix) -> Figure:
    made = base.figure(9.4, 4.3)
    draw_matrix(made.add_axes((0.13, 0.09, 0.54, 0.72)), data)
    draw_balance(made.add_axes((0.7, 0.09, 0.285, 0.72)), data)
    return made


def rows_shared(ax: Axes, data: Matrix) -> int:
    """Both pictures have a row a term, and one for the whole loss. Returns the number of terms."""
    count = len(data.now.terms)
    base.tidy(ax)
    ax.set_ylim(max(count, LEAST) + 1.2, 0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_yticks([])
    return count


def draw_matrix(ax: Axes, data: Matrix) -> None:
    """A cell a term and a route. What a network does not do or learn is a dash, what no gradient takes is 0."""
    flows, shade, count = data.now, PowerNorm(0.5, 0, STRONG), rows_shared(ax, data)

    def cell(column: float, row: float, width: int, text: str, colour, hatch: str = "") -> None:
        ax.add_patch(Rectangle((column, row), width, 1, fc=colour, ec=base.GREY, lw=1, hatch=hatch or None))
        halo = {"fc": base.PAPER, "ec": "none", "pad": 1.5} if hatch else None
        ax.annotate(text, (column + width / 2, row + 0.5), ha="center", va="center", fontsize=10, color=base.INK,
                    bbox=halo)  # fmt: skip

    for row, sizes in enumerate(flows.sizes):
        for column, (size, text) in enumerate(zip(sizes, cells(flows, row), strict=True)):
            tone = base.TARGET if column < 2 else base.GUIDE
            plain = base.PAPER if np.isnan(size) else blend(tone, shade(size))
            cell(column, row, 1, text, plain, "///" if text == STOPPED else "")
    for column, total, tone in zip((0, 2), flows.total, (base.TARGET, base.GUIDE), strict=True):
        cell(column, count + 0.2, 2, number(total), blend(tone, shade(total)))
    ax.set_xlim(0, 4)
    ax.set_yticks([*(np.arange(count) + 0.5), count + 0.7], [*named(flows.terms), "whole loss"], fontsize=9.5)
    ax.set_xticks(np.arange(4) + 0.5, COLUMNS, fontsize=9.5)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.annotate(f"{data.title}: gradient norms", (0, 1), (-2, 30), xycoords="axes fraction", fontsize=10,
                textcoords="offset points", color=base.INK)  # fmt: skip


def draw_balance(ax: Axes, data: Matrix) -> None:
    """How hard each term pulls the guide towards the labels, or away from them; dashed: before the switches."""
    flows, was = data.now, data.before.along
    along, count = flows.along, rows_shared(ax, data)
    ax.annotate("pull on g, along that of CE(g(x), y)", (0, 1), (-2, 30), xycoords="axes fraction", fontsize=10,
                textcoords="offset points", color=base.INK)  # fmt: skip
    if not data.before.guide.any():
        ax.set_xticks([])
        ax.annotate("no gradient reaches a guide", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=10)
        return
    ax.barh(np.arange(count) + 0.5, was, 0.62, fc="none", ec=base.GREY, lw=1, ls="--")
    for row in range(count):
        against = along[row] < 0
        ax.barh(row + 0.5, along[row], 0.62, color=base.RED if against else base.GREEN, hatch="//" if against else None,
                ec=base.PAPER)  # fmt: skip
    ax.barh(count + 0.7, along.sum(), 0.62, color=base.INK)
    ax.axvline(0, color=base.INK, lw=1)
    reach = 1.1 * max(was.clip(0).sum(), -was.clip(max=0).sum())
    ax.set_xlim(-reach, reach)
    for text, place, side in (("away from the labels", 0.48, "right"), ("towards them", 0.52, "left")):
        ax.annotate(text, (place, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=9.5,
                    ha=side, color=base.INK)  # fmt: skip


def blend(colour: str, strength: float) -> tuple[float, ...]:
    """White for 0, and for 1 a tone on which black numbers still stand out."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return tuple(1 - 0.75 * float(np.clip(strength, 0, 1)) * (1 - rgb))


# -- words ------------------------------------------------------------------------------------------------
def words(data: Matrix) -> str:
    flows, terms = data.now, named(data.now.terms)
    moved = [
        listed([term for term, size in zip(terms, sizes, strict=True) if size]) for sizes in (flows.target, flows.guide)
    ]
    text = (
        f"{data.title}, on {data.images} training images: the target is moved by {moved[0]}; the guide by {moved[1]}."
    )
    if closed := [SWITCHES[stop] for stop in STOPS if _closes(data, stop)]:
        text += f" Stopped: {', '.join(closed)}."
    if (flows.along < 0).any():
        worst = int(flows.along.argmin())
        text += (
            f" The strongest pull away from the labels is that of {terms[worst]}, {-flows.along[worst]:.3f}; the pulls "
            f"towards them add up to {flows.along.clip(0).sum():.3f}."
        )
    rows = [
        (term, f"{flows.values[k]:.3f}", *cells(flows, k), "–" if np.isnan(cosine) else f"{cosine:+.2f}")
        for k, (term, cosine) in enumerate(zip(terms, flows.agreement, strict=True))
    ]
    header = ("term", "value", *COLUMNS, "cosine")
    caption = "Gradient norms in the weights; cosine with the gradient of CE(g(x), y) in g"
    return base.sentence(text) + base.table(header, rows, caption)


def cells(flows: Flow, row: int) -> list[str]:
    """A term's sizes in words: "–" where the method makes no such prediction or that network does not learn."""
    each = zip(flows.sizes[row], flows.stopped[row], strict=True)
    return ["–" if np.isnan(size) else STOPPED if closed else number(size) for size, closed in each]


def listed(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _closes(data: Matrix, stop: str) -> bool:
    """Whether a switch has closed a route here."""
    if stop == "own":
        return bool(data.now.stopped[:, ROUTES.index("target_clean")].any())
    rows = [k for k, name in enumerate(data.now.terms) if name == stop]
    return bool(data.now.stopped[rows, 2:].any())


class WhoGetsTheGradient(Panel):
    """Choose a method and a moment of training; stop gradients; see who is still moved."""

    def __init__(self, batches: Sequence[Batch], **start: str | int | bool):
        """batches: of gradient_routes.stages. start: initial settings, as the controls have them."""

        def run(method: str, epoch: int, **switches: bool) -> Matrix:
            return compute(batches, method, epoch, [stop for stop, closed in switches.items() if closed])

        at = {"method": "d2r-cag", "epoch": batches[-1].epoch, **dict.fromkeys(SWITCHES, False)} | start
        # What perturbs weights first asks for other gradients than these.
        methods = {row.title: name for name, row in METHODS.items() if not row.awp}
        epochs = {"before training" if b.epoch == 0 else f"after epoch {b.epoch}": b.epoch for b in batches}
        controls = {
            "method": Choice("Loss of", at["method"], methods),
            "epoch": Choice("Pair", at["epoch"], epochs),
        }
        for stop, label in SWITCHES.items():
            controls[stop] = Choice(label, at[stop], {"flows": False, "stopped": True})
        super().__init__("Who gets the gradient", controls, run, draw, words)
