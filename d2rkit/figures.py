"""The kit's figures of runs: each takes runs, returns a matplotlib Figure and carries its data along.

    figure = draw_eps_curve(read_runs("runs"));  export(figure, "robustness", venue="icml", info=info_of(runs))

Mean over seeds with a band of one sample standard deviation; a method has the same colour, marker and dashes
everywhere (export.LOOKS). What is drawn is in figure.d2r_data, and export() writes it beside the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d2rkit.experiment import Run
from d2rkit.export import VENUES, Look, export, info_of, legend_below, look, new_figure, style
from d2rkit.presets import Preset
from d2rkit.tidy import eps_words, history_of, labels, one_table, settings_of, tidy

__all__ = [
    "VENUES",
    "draw_eps_curve",
    "draw_training_curves",
    "export",
    "info_of",
    "style",
    "write_figures",
]

WIDE = VENUES["neurips"][1]
PERCENT = "accuracy (%)"


def draw_eps_curve(runs: Sequence[Run]) -> Figure:
    """Accuracy under PGD-20 against the radius of the ball, down to about 0 where an evaluation is sound."""
    runs = [run for run in runs if "eps_curve" in run.result]
    shared = one_table(tidy(runs))
    rows = [
        {"seed": run.experiment.seed, "eps": eps, "pgd20": accuracy, **row}
        for run, row in _rows(runs)
        for eps, accuracy in zip(*(run.result["eps_curve"][name] for name in ("eps", "pgd20")), strict=True)
    ]
    data = _over_seeds(pd.DataFrame(rows), ["eps"], "pgd20")
    with style():
        figure = new_figure(WIDE, 2.6)
        axes = figure.add_subplot()
        for label, its_look, part in _each(data):
            _line(axes, part["eps"], part, label, its_look)
        axes.axvline(shared["eps"], color="#6B6B6B", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.annotate(
            f"ε = {eps_words(shared['eps'])[:6]}, the table's", (shared["eps"], 1), (4, -2), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=7, color="#6B6B6B",
        )  # fmt: skip
        axes.set(xlabel="radius ε of the L∞ ball (pixel scale)", ylabel=f"PGD-20 {PERCENT}", ylim=(-2, 102))
        axes.set_xlim(left=0, right=data["eps"].max())
        legend_below(figure)
    figure.d2r_data = data
    return figure


def draw_training_curves(runs: Sequence[Run]) -> Figure:
    """Accuracy on the validation images by epoch: clean and under PGD."""
    histories = _histories(runs)
    kinds = {"val_clean": "clean", "val_pgd": "PGD"}
    data = pd.concat(
        [_over_seeds(histories, ["epoch"], column).assign(measure=column) for column in kinds], ignore_index=True
    )
    with style():
        figure = new_figure(WIDE, 2.3)
        for axes, (column, words) in zip(figure.subplots(1, 2, sharex=True), kinds.items(), strict=True):
            for label, its_look, part in _each(data[data["measure"] == column]):
                _line(axes, part["epoch"], part, label, its_look)
            axes.set(title=f"validation images, {words}", xlabel="epoch", ylabel=PERCENT)
            axes.xaxis.get_major_locator().set_params(integer=True)
        legend_below(figure)
    figure.d2r_data = data
    return figure


def write_figures(preset: Preset, runs: Sequence[Run], folder: str | Path) -> list[Path]:
    """Robust accuracy against ε and training curves of a preset's runs, each in five files; returns the files.

    A figure for which no run has data is left out."""
    wanted = {settings_of(experiment) for experiment in preset.experiments()}
    runs = [run for run in runs if settings_of(run.experiment) in wanted]
    info = {"preset": preset.name, "command": preset.command, **info_of(runs)}
    files: list[Path] = []
    if any("eps_curve" in run.result for run in runs):
        files += export(draw_eps_curve(runs), Path(folder) / "robustness-against-eps", columns=2, info=info)
    if any(history_of(run) for run in runs):
        files += export(draw_training_curves(runs), Path(folder) / "training-curves", columns=2, info=info)
    return files


def _rows(runs: Sequence[Run]) -> Iterator[tuple[Run, dict[str, str]]]:
    """Each run, and the row of the table it belongs to."""
    for run, label in zip(runs, labels([run.experiment for run in runs]), strict=True):
        yield run, {"method": run.experiment.method, "label": label, "settings": settings_of(run.experiment)}


def _histories(runs: Sequence[Run]) -> pd.DataFrame:
    """All rows of all histories, one an epoch and run."""
    one_table(tidy(runs))
    rows = [{"seed": run.experiment.seed, **epoch, **row} for run, row in _rows(runs) for epoch in history_of(run)]
    if not rows:
        raise ValueError("none of these runs has a history.csv to draw")
    return pd.DataFrame(rows)


def _over_seeds(frame: pd.DataFrame, x: list[str], y: str) -> pd.DataFrame:
    """Mean, sample standard deviation and number of seeds at each x of each row of the table."""
    grouped = frame.groupby(["method", "label", "settings", *x], sort=False)[y]
    return grouped.agg(mean="mean", std="std", n="count").reset_index()


def _each(data: pd.DataFrame) -> Iterator[tuple[str, Look, pd.DataFrame]]:
    """Label, look and data of each row, in the order of the data; rows of one method differ in look."""
    seen: dict[str, int] = {}
    for (method, label, _), part in data.groupby(["method", "label", "settings"], sort=False):
        variant = seen.get(method, 0)
        seen[method] = variant + 1
        yield label, look(method, variant), part


def _line(axes: Axes, x: pd.Series, part: pd.DataFrame, label: str, its_look: Look) -> None:
    """Mean as a line, one standard deviation as a band, both in percent."""
    mean, std = 100 * part["mean"], 100 * part["std"].fillna(0)
    every = max(1, math.ceil(len(x) / 12))
    axes.plot(x, mean, label=label, markevery=every, **its_look.line())
    if (part["n"] > 1).any():
        axes.fill_between(x, mean - std, mean + std, color=its_look.color, alpha=0.12, linewidth=0)
