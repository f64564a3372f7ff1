"""What a training run looks like: its curves as pictures, and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from d2rkit.panels import base
from d2rkit.panels.training_session import Curves

TERMS = {"ce": "CE", "mse": "MSE of logits", "clean": "clean KL term", "adv": "adversarial KL term",
         "reverse": "reverse KL", "kl": "KL", "bce": "BCE", "guide": "guide", "self": "KL to itself",
         "soft": "soft-label CE", "guide_ce": "guide's CE", "guide_kl": "guide's KL"}  # fmt: skip


# -- picture ----------------------------------------------------------------------------------------------
COLOURS = (base.GREEN, base.PURPLE, base.SKY, base.RED, base.ORANGE)
DASHES, MARKS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v")
MEASURES = (  # column, label, colour, dash, mark
    ("val_guide", "guide, clean", base.GUIDE, "-.", "^"),
    ("val_clean", "target, clean", base.TARGET, "-", "o"),
    ("val_pgd", "target, PGD", base.RED, "-", "s"),
    ("train_adv", "attacked training images", base.GREY, ":", ""),
)


def draw(data: Curves, at: int | None = None) -> Figure:
    """at: an epoch to point at, counted from 1."""
    made = base.figure(9.4, 4.1)
    for ax, draw_one in ((made.add_axes((0.065, 0.27, 0.5, 0.64)), draw_accuracy),
                         (made.add_axes((0.66, 0.27, 0.33, 0.64)), draw_loss)):  # fmt: skip
        draw_one(ax, data)
        if at is not None:
            epoch = data.history[at - 1]["epoch"]
            ax.axvline(epoch, color=base.INK, lw=1.2, ls=(0, (4, 2)))
            ax.annotate(f"epoch {epoch:g}", (epoch, 1), (3, -3), xycoords=("data", "axes fraction"),
                        textcoords="offset points", fontsize=8, va="top")  # fmt: skip
    return made


def frame(ax, data: Curves) -> np.ndarray:
    """Shared x axis: epochs, with a line where the run was paused. Returns the epochs."""
    ax.set_xlim(0.5, max(data.epochs, 2) + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    for at in data.pauses:
        ax.axvline(at, color=base.GREY, lw=1, ls=(0, (1, 2)))
    return np.array([row["epoch"] for row in data.history])


def below(ax, columns: int) -> None:
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.17), ncols=columns,
              handlelength=2.6, columnspacing=1.4)  # fmt: skip


def draw_accuracy(ax, data: Curves) -> None:
    base.tidy(ax, f"accuracy on {data.images[1]} validation images", "epoch", "")
    epochs = frame(ax, data)
    every = max(1, len(epochs) // 12)
    for column, label, colour, dash, mark in MEASURES:
        values = [row.get(column, np.nan) for row in data.history]
        if column == "val_pgd" or not np.isnan(values).all() or not values:
            ax.plot(epochs, values, color=colour, ls=dash, marker=mark, ms=4, lw=1.8, label=label, markevery=every)
    ax.axhline(1 / data.classes, color=base.INK, lw=1, ls=(0, (4, 3)))
    ax.annotate("chance", (1, 1 / data.classes), (-2, 2), xycoords=("axes fraction", "data"), fontsize=8, ha="right",
                va="bottom", textcoords="offset points")  # fmt: skip
    if len(data.history) > 1:
        best = data.history[data.best]
        ax.plot(best["epoch"], best["val_pgd"], "*", color=base.RED, mec=base.INK, mew=0.8, ms=13, zorder=4)
        ax.annotate(f"best {best['val_pgd']:.0%}", (best["epoch"], best["val_pgd"]), (0, 9), fontsize=8, ha="center",
                    textcoords="offset points", zorder=5,
                    bbox={"fc": base.PAPER, "ec": "none", "pad": 0.8, "alpha": 0.8})  # fmt: skip
    ax.set_ylim(0, 1.03)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    below(ax, 4)


def parts(data: Curves) -> dict[str, list[float]]:
    """The weighted terms of the loss, epoch by epoch; while a guide trains alone there is one of them."""
    columns = dict.fromkeys(name for row in data.history for name in row if name.startswith("loss_"))
    names = [name.removeprefix("loss_") for name in columns]
    return {name: [row.get(f"loss_{name}", np.nan) for row in data.history] for name in names}


def draw_loss(ax, data: Curves) -> None:
    base.tidy(ax, "terms of the loss, weighted", "epoch", "")
    epochs, every = frame(ax, data), max(1, len(data.history) // 12)
    for i, (name, values) in enumerate(parts(data).items()):
        shown = np.maximum(values, 1e-6)  # the released gap can be 0, which a log axis cannot show
        ax.plot(epochs, shown, color=COLOURS[i], ls=DASHES[i % 4], marker=MARKS[i], ms=4, lw=1.8, markevery=every,
                label=TERMS.get(name, name))  # fmt: skip
    if data.history:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_minor_locator(NullLocator())
        below(ax, 2)


def draw_runs(runs: Mapping[str, Curves], column: str = "val_pgd", title: str = "PGD accuracy, validation") -> Figure:
    """One measure of several runs; name -> Curves."""
    made = base.figure(8.6, 3.3)
    ax = base.tidy(made.add_axes((0.075, 0.16, 0.55, 0.74)), title, "epoch", "")
    looks = zip((base.TARGET, base.RED, base.GREEN, base.PURPLE), DASHES, MARKS, strict=False)
    for (name, run), (colour, dash, mark) in zip(runs.items(), looks, strict=False):
        epochs = [row["epoch"] for row in run.history]
        ax.plot(epochs, [row[column] for row in run.history], color=colour, ls=dash, marker=mark, ms=4, lw=1.8,
                label=name, markevery=max(1, len(epochs) // 15), clip_on=False)  # fmt: skip
    first = next(iter(runs.values()))
    ax.axhline(1 / first.classes, color=base.INK, lw=1, ls=(0, (4, 3)), label="chance")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    ax.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1.02), handlelength=2.6)
    return made


# -- words ------------------------------------------------------------------------------------------------
def state_words(data: Curves) -> str:
    """Where the run stands, as a sentence."""
    total, now = data.epochs, data.done * data.epochs
    if data.status == "ready":
        return "Press Start."
    if data.status == "running":
        left = f", about {data.left:.0f} s left" if data.left < 1e6 else ""
        return f"Epoch {min(int(now) + 1, total)} of {total}{left}."
    if data.status == "paused":
        return f"Paused after {now:.2f} of {total} epochs; Resume continues from exactly this step."
    if data.status == "stuck at chance":
        return "Stuck at chance: the target never got clearly above it."
    if data.status.startswith("failed"):
        return f"The training {data.status}; the weights are those before."
    return f"Done: {total} epoch{'s' if total > 1 else ''} in {sum(row['seconds'] for row in data.history):.0f} s."


def verdict(data: Curves) -> str:
    """What the curves show, if they show it beyond two standard errors of the validation images."""
    if len(data.history) < 3:
        return ""
    best, last = data.history[data.best]["val_pgd"], data.history[-1]["val_pgd"]
    error = (best * (1 - best) / data.images[1]) ** 0.5
    if best - last > 2 * error:
        return (
            f" The last epoch is {100 * (best - last):.0f} points below the best one (standard error "
            f"{100 * error:.0f}): robust overfitting, unless it falls on the training images too."
        )
    return ""


def _or_dash(value: float, form: str) -> str:
    return "–" if np.isnan(value) else format(value, form)


def words(data: Curves, at: int | None = None) -> str:
    """at: an epoch to tell as well, counted from 1."""
    plan = data.experiment
    setting = f"{data.title}, {data.images[0]:,} training images, learning rate {plan.lr:g}. "
    text = base.sentence(setting + state_words(data) + verdict(data))
    if not data.history:
        return text
    chosen = {"first epoch": 0, "best epoch": data.best, "latest epoch": len(data.history) - 1}
    if at is not None:
        chosen["pointed at: epoch"] = at - 1
    rows = []
    for column, label, *_ in MEASURES:
        if column in data.history[-1]:
            rows.append((label, *(_or_dash(data.history[i].get(column, np.nan), ".1%") for i in chosen.values())))
    for name, values in parts(data).items():
        rows.append((f"loss: {TERMS.get(name, name)}", *(_or_dash(values[i], ".3g") for i in chosen.values())))
    header = ("", *(f"{name} ({data.history[i]['epoch']:g})" for name, i in chosen.items()))
    return text + base.table(header, rows, "Accuracies and weighted terms of the loss")
