"""The kit's figures of runs: each takes runs, returns a matplotlib Figure and carries its data along.

    figure = draw_eps_curve(read_runs("runs"));  export(figure, "robustness", venue="icml", info=info_of(runs))

Mean over seeds with a band of one sample standard deviation; a method has the same colour, marker and dashes
everywhere (export.LOOKS). What is drawn is in figure.d2r_data, and export() writes it beside the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from d2rkit.data.datasets import ImageData
from d2rkit.experiments.experiment import Run, chosen_test, settings_of
from d2rkit.experiments.presets import Preset
from d2rkit.experiments.run_folders import history_of
from d2rkit.reporting.export import (
    GREY,
    VENUES,
    KitFigure,
    Look,
    export,
    info_of,
    legend_below,
    look,
    new_figure,
    spread_labels,
    style,
)
from d2rkit.reporting.frame import attack_title, attacks_in, eps_words, one_table, tidy
from d2rkit.reporting.published import published as read_published
from d2rkit.reporting.published import same_setting, why_not
from d2rkit.reporting.significance import flags_of
from d2rkit.reporting.style import GRID

__all__ = [
    "VENUES",
    "draw_clean_vs_robust",
    "draw_eps_curve",
    "draw_overfitting",
    "draw_per_class",
    "draw_steps_curve",
    "draw_training_curves",
    "export",
    "info_of",
    "style",
    "write_figures",
]

WIDE = VENUES["neurips"][1]
ROW = ["method", "label", "settings"]
MANY_CLASSES = 20


def draw_eps_curve(runs: Sequence[Run]) -> KitFigure:
    """Accuracy under PGD-20 against the radius of the ball, down to about 0 where an evaluation is sound."""
    runs = [run for run in runs if "eps_curve" in run.result]
    shared = one_table(tidy(runs))
    rows = [
        {"seed": run.experiment.seed, "eps": eps, "pgd20": accuracy, **row}
        for run, row in _in_order(runs)
        for eps, accuracy in zip(*(run.result["eps_curve"][name] for name in ("eps", "pgd20")), strict=True)
    ]
    data = _over_seeds(pd.DataFrame(rows), ["eps"], "pgd20")
    with style():
        figure, (axes,) = new_figure(WIDE, 2.6)
        _mark(axes, shared["eps"], f"ε of the table, {eps_words(shared['eps']).split(' ')[0]}")
        for label, its_look, part in _each(data):
            _line(axes, part["eps"], part, label, its_look)
        axes.set(xlabel="radius ε of the L∞ ball (pixel scale)", ylabel="PGD-20 accuracy (%)", ylim=(-2, 102))
        axes.set_xlim(-0.01 * data["eps"].max(), 1.01 * data["eps"].max())
        legend_below(figure)
    figure.d2r_data = data
    return figure


def draw_steps_curve(runs: Sequence[Run], checkpoint: str = "best") -> KitFigure:
    """Accuracy under PGD against its number of steps: it must fall and level off; if it rises, gradients are
    masked. Needs runs evaluated with several, e.g. attacks pgd1 pgd5 pgd20 pgd100."""
    frame = tidy(runs)
    one_table(frame)
    attacks = [name for name in attacks_in(frame.columns) if name.startswith("pgd")]
    if len(attacks) < 2:
        raise ValueError("a curve over steps needs runs with several PGD attacks, e.g. pgd1, pgd5, pgd20 and pgd100")
    here = frame[frame["checkpoint"] == checkpoint]
    long = here.melt([*ROW, "seed"], attacks, "attack", "accuracy").dropna(subset="accuracy")
    long["steps"] = long["attack"].str.removeprefix("pgd").astype(int)
    data = _over_seeds(long, ["steps"], "accuracy")
    with style():
        figure, (axes,) = new_figure(WIDE, 2.4)
        for label, its_look, part in _each(data):
            _line(axes, part["steps"], part, label, its_look)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted(data["steps"].unique())))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="PGD steps", ylabel="PGD accuracy (%)")
        legend_below(figure)
    figure.d2r_data = data
    return figure


def draw_training_curves(runs: Sequence[Run]) -> KitFigure:
    """Accuracy on the validation images by epoch: clean and under PGD."""
    histories = _histories(runs)
    kinds = {"val_clean": "clean", "val_pgd": "PGD"}
    parts = [_over_seeds(histories, ["epoch"], column).assign(measure=column) for column in kinds]
    data = pd.concat(parts, ignore_index=True)
    with style():
        figure, panels = new_figure(WIDE, 2.2, len(kinds))
        for axes, (column, words) in zip(panels, kinds.items(), strict=True):
            for label, its_look, part in _each(data[data["measure"] == column]):
                _line(axes, part["epoch"], part, label, its_look)
            _epochs(axes, f"{words} accuracy (%)", "epoch (validation images)")
        legend_below(figure)
    figure.d2r_data = data
    return figure


def draw_overfitting(runs: Sequence[Run]) -> KitFigure:
    """Robust overfitting: accuracy under attack on training images (thin) goes on rising while that on
    validation images (thick) falls. Ring: the best epoch of the mean over seeds; filled marker: the last."""
    histories = _histories(runs)
    measures = [name for name in ("train_adv", "val_pgd") if name in histories]
    parts = [_over_seeds(histories, ["epoch"], column).assign(measure=column) for column in measures]
    data = pd.concat(parts, ignore_index=True).dropna(subset="mean")
    with style():
        figure, (axes,) = new_figure(WIDE, 2.6)
        for label, its_look, part in _each(data):
            seen, val = (part[part["measure"] == name] for name in ("train_adv", "val_pgd"))
            axes.plot(seen["epoch"], 100 * seen["mean"], **its_look.line(marker="", linewidth=0.7, alpha=0.8))
            axes.plot(val["epoch"], 100 * val["mean"], label=label, **its_look.line(markevery=[-1]))
            best = val.iloc[val["mean"].argmax()]
            ring = its_look.line(markersize=8, linestyle="", markerfacecolor="none")
            axes.plot(best["epoch"], 100 * best["mean"], **ring)
        _epochs(axes, "accuracy under attack (%)")
        axes.set_title("thick: validation images, PGD (ring: best epoch); thin: training images", fontsize=7)
        legend_below(figure)
    figure.d2r_data = data
    return figure


def draw_clean_vs_robust(
    frame: pd.DataFrame, published: pd.DataFrame | None = None, *, attack: str = "autoattack", checkpoint: str = "best"
) -> KitFigure:
    """Clean accuracy against accuracy under attack, mean ± std over seeds; up and right is better.

    frame: from tidy(). published: published.published(); its numbers for the same data set, network and eps
    are small open grey diamonds with their method's name, and nothing is shown where nothing is comparable."""
    shared = one_table(frame)
    here = frame[(frame["checkpoint"] == checkpoint)].dropna(subset=["clean", attack])
    grouped = here.groupby(ROW, sort=False)
    data = grouped.agg(
        clean=("clean", "mean"), clean_std=("clean", "std"), robust=(attack, "mean"), robust_std=(attack, "std"),
        n=("seed", "count"),
    ).reset_index().assign(source="ours", attack=attack)  # fmt: skip
    if published is not None and not why_not(frame):
        known = same_setting(published, shared["data"], shared["target"], shared["eps"])
        known = known.rename(columns={"method": "label", attack: "robust"}).dropna(subset=["clean", "robust"])
        known = known.assign(clean=known["clean"] / 100, robust=known["robust"] / 100, attack=attack)
        data = pd.concat([data, known[["label", "clean", "robust", "source", "attack"]]], ignore_index=True)
    ours, theirs = data[data["source"] == "ours"], data[data["source"] != "ours"]
    with style():
        figure, (axes,) = new_figure(WIDE, 3.0)
        for label, its_look, part in _each(ours):
            axes.errorbar(
                100 * part["clean"], 100 * part["robust"], 100 * part["robust_std"], 100 * part["clean_std"],
                label=label, elinewidth=0.8, **its_look.line(linestyle="", markersize=6),
            )  # fmt: skip
        for _, point in theirs.iterrows():
            axes.annotate(
                point["label"], (100 * point["clean"], 100 * point["robust"]), (5, 0), textcoords="offset points",
                fontsize=6, color=GREY,
            )  # fmt: skip
        if not theirs.empty:
            shape: dict[str, Any] = {"marker": "d", "linestyle": "", "color": GREY, "markerfacecolor": "white"}
            axes.plot(100 * theirs["clean"], 100 * theirs["robust"], label="published", **shape, zorder=1)
        axes.margins(0.1)
        axes.set(xlabel="clean accuracy (%)", ylabel=f"{attack_title(attack)} accuracy (%)")
        legend_below(figure)
        spread_labels(figure)
    figure.d2r_data = data
    return figure


def draw_per_class(
    runs: Sequence[Run], data: ImageData, attack: str = "autoattack", checkpoint: str = "best"
) -> KitFigure:
    """Accuracy under attack of each class, mean ± std over seeds; of more than 20 classes the 20 hardest.

    data: the data set the runs were evaluated on (load_data(...)), for labels and class names."""
    runs = [run for run in runs if not run.result["status"].startswith("failed")]
    shared = one_table(tidy(runs))
    if shared["data"] != data.name:
        raise ValueError(f"these runs are of {shared['data']}, not of {data.name}")
    rows = []
    for run, row in _in_order(runs):
        labels, flags = chosen_test(run.experiment, data).labels.numpy(), flags_of(run, attack, checkpoint)
        for number in np.unique(labels):
            of_class = flags[labels == number]
            facts = {"class": int(number), "class_name": data.class_names[number], "images": of_class.size}
            rows.append({"seed": run.experiment.seed, **facts, "accuracy": of_class.mean(), **row})
    table = _over_seeds(pd.DataFrame(rows), ["class", "class_name", "images"], "accuracy").assign(attack=attack)
    hardest = table.groupby("class")["mean"].mean().sort_values(kind="stable").index[:MANY_CLASSES]
    shown = table[table["class"].isin(hardest)]
    places = {number: at for at, number in enumerate(sorted(hardest))}
    with style():
        figure, (axes,) = new_figure(WIDE, 2.5)
        groups = list(_each(shown))
        for at, (label, its_look, part) in enumerate(groups):
            x = part["class"].map(places) + (at - (len(groups) - 1) / 2) * 0.7 / len(groups)
            axes.errorbar(
                x, 100 * part["mean"], 100 * part["std"], label=label, elinewidth=0.6,
                **its_look.line(linestyle="", markersize=3.5),
            )  # fmt: skip
        names = shown.drop_duplicates("class").sort_values("class")["class_name"]
        axes.set_xticks(range(len(names)), names, rotation=0 if names.str.len().max() < 4 else 40)
        axes.grid(False, axis="x")
        for at in range(1, len(names)):
            axes.axvline(at - 0.5, color=GRID, linewidth=0.5)
        left_out = table["class"].nunique() - len(names)
        words = f"class (the {len(names)} hardest of {len(names) + left_out})" if left_out else "class"
        axes.set(xlabel=words, ylabel=f"{attack_title(attack)} accuracy (%)", xlim=(-0.5, len(names) - 0.5))
        legend_below(figure)
    figure.d2r_data = table
    return figure


def write_figures(preset: Preset, runs: Sequence[Run], folder: str | Path) -> list[Path]:
    """Robust accuracy against ε, training curves, and clean against robust accuracy of a preset's runs, each
    as PDF, SVG, PNG, CSV and JSON; returns the files. A figure for which no run has data is left out."""
    wanted = {settings_of(experiment) for experiment in preset.experiments()}
    runs = [run for run in runs if settings_of(run.experiment) in wanted]
    info = {"preset": preset.name, "command": preset.command, **info_of(runs)}
    folder, frame = Path(folder), tidy(runs)
    figures: dict[str, KitFigure] = {}
    if any("eps_curve" in run.result for run in runs):
        figures["robustness-against-eps"] = draw_eps_curve(runs)
    if any(history_of(run) for run in runs):
        figures["training-curves"] = draw_training_curves(runs)
    strongest = attacks_in(frame.columns)[-1:]
    if "clean" in frame and strongest != ["clean"]:
        first = preset.base.checkpoints[0]
        figures["clean-against-robust"] = draw_clean_vs_robust(
            frame, read_published(), attack=strongest[0], checkpoint=first
        )
    return [file for name, figure in figures.items() for file in export(figure, folder / name, columns=2, info=info)]


def _in_order(runs: Sequence[Run]) -> Iterator[tuple[Run, dict[str, str]]]:
    """Each run, in the order of the tables, and the row it belongs to."""
    by_folder = {run.folder.name: run for run in runs}
    for _, row in tidy(runs).drop_duplicates("folder").iterrows():
        yield by_folder[row["folder"]], {name: row[name] for name in ROW}


def _histories(runs: Sequence[Run]) -> pd.DataFrame:
    """All rows of all histories, one an epoch and run."""
    one_table(tidy(runs))
    rows = [{"seed": run.experiment.seed, **epoch, **row} for run, row in _in_order(runs) for epoch in history_of(run)]
    if not rows:
        raise ValueError("none of these runs has a history.csv to draw")
    return pd.DataFrame(rows)


def _over_seeds(frame: pd.DataFrame, x: list[str], y: str) -> pd.DataFrame:
    """Mean, sample standard deviation and number of seeds at each x of each row of the table."""
    return frame.groupby([*ROW, *x], sort=False)[y].agg(mean="mean", std="std", n="count").reset_index()


def _each(data: pd.DataFrame) -> Iterator[tuple[str, Look, pd.DataFrame]]:
    """Label, look and data of each row, in the order of the data; rows of one method differ in look."""
    seen: dict[str, int] = {}
    for _, part in data.groupby(ROW, sort=False):
        method, label = (str(part[name].iloc[0]) for name in ("method", "label"))
        variant = seen.get(method, 0)
        seen[method] = variant + 1
        yield label.replace("$", r"\$"), look(method, variant), part  # a $ in a name is a $, no formula


def _line(axes: Axes, x: pd.Series, part: pd.DataFrame, label: str, its_look: Look) -> None:
    """Mean as a line, one standard deviation as a band, both in percent."""
    mean, std = 100 * part["mean"], 100 * part["std"].fillna(0)
    axes.plot(x, mean, label=label, markevery=max(1, math.ceil(len(x) / 12)), **its_look.line())
    if (part["n"] > 1).any():
        axes.fill_between(x, mean - std, mean + std, color=its_look.color, alpha=0.1, linewidth=0)


def _epochs(axes: Axes, ylabel: str, xlabel: str = "epoch") -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _mark(axes: Axes, x: float, words: str) -> None:
    """A dashed line across, named above the axes, where there is no data."""
    axes.axvline(x, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    place = axes.get_xaxis_transform() + ScaledTranslation(0, 2 / 72, axes.figure.dpi_scale_trans)
    axes.text(x, 1, words, transform=place, ha="center", va="bottom", fontsize=7, color=GREY)
