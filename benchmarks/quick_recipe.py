"""The recipe of `quick`, selected on validation images, one for all rows.

    python benchmarks/quick_recipe.py RUNS             # trains what RUNS lacks, prints the comparison
    python benchmarks/quick_recipe.py RUNS --save DIR  # and writes recipe_cells.csv and recipes.csv there

Every row of the table is trained with every recipe of the grid, on seeds that the table does not use; no test image is
evaluated. A recipe's score is the best epoch's PGD-3 accuracy on the 200 validation images, averaged over rows and
seeds. The preset's recipe is replaced only if another one is better by more than two standard errors of their paired
difference over cells (row and seed): a table is not rerun for noise.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from d2rkit.experiments.experiment import Experiment
from d2rkit.experiments.presets import Preset, get_preset
from d2rkit.experiments.sweep import sweep
from d2rkit.experiments.tuning import outcomes

GRID = [{"lr": lr, "batch_size": batch} for batch in (48, 96) for lr in (0.1, 0.2, 0.4, 0.8)]
SEEDS = (10, 11, 12)


def trials(preset: Preset, seed: int) -> list[tuple[str, Experiment]]:
    """Row and experiment of every trial of one seed."""
    return [
        (row, replace(preset.experiment(row, seed), attacks=(), **recipe)) for recipe in GRID for row in preset.rows
    ]


def scores(preset: Preset, seeds: tuple[int, ...], root: Path) -> pd.DataFrame:
    """One line per trial that has run: row, seed, lr, batch_size, val_pgd in percent."""
    lines = []
    for seed in seeds:
        for row, trial in trials(preset, seed):
            outcome = outcomes([(row, trial)], root)
            if len(outcome):
                lines.append((row, seed, trial.lr, trial.batch_size, 100 * outcome["val_pgd"][0]))
    return pd.DataFrame(lines, columns=["row", "seed", "lr", "batch_size", "val_pgd"])


def compared(lines: pd.DataFrame, present: tuple[float, int]) -> pd.DataFrame:
    """Each recipe's mean score over the cells that every recipe has, its paired difference from `present` (lr, batch
    size) and that difference's standard error; in percent and points."""
    table = lines.pivot(index=["row", "seed"], columns=["lr", "batch_size"], values="val_pgd").dropna()
    apart = table.sub(table[present], axis=0)
    error = apart.std(ddof=1) / len(apart) ** 0.5
    columns = {"mean": table.mean(), "difference": apart.mean(), "standard_error": error, "cells": len(table)}
    return pd.DataFrame(columns).reset_index().sort_values(["batch_size", "lr"])


def better(summary: pd.DataFrame) -> pd.DataFrame:
    """The recipes that would replace the present one, the best first."""
    beyond = summary[summary["difference"] > 2 * summary["standard_error"]]
    return beyond.sort_values("mean", ascending=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, choices=range(1, len(SEEDS) + 1), default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--save", type=Path, help="write recipe_cells.csv and recipes.csv into this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    preset, seeds = get_preset("quick"), SEEDS[: options.seeds]
    for seed in seeds:
        sweep([trial for _, trial in trials(preset, seed)], options.runs, workers=options.workers)
    lines = scores(preset, seeds, options.runs)
    summary = compared(lines, (preset.base.lr, preset.base.batch_size))
    print(summary.round(2).to_string(index=False))
    winners = better(summary)
    print(f"replaced by lr {winners.iloc[0]['lr']}" if len(winners) else "the preset's recipe stays")
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        lines.round(4).to_csv(options.save / "recipe_cells.csv", index=False)
        summary.round(4).to_csv(options.save / "recipes.csv", index=False)


if __name__ == "__main__":
    main()
