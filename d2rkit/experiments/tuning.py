"""Tuning: each row's learning rate, chosen on validation images with the same small budget.

    tune(get_preset("small"), (0.05, 0.1, 0.2), subset="3k", epochs=2)

The trials are runs like any other (own folders, resumed, never repeated), but without evaluation: a test image
is never looked at. The winner has the highest PGD accuracy on the validation images after its best epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from d2rkit.experiments.experiment import Experiment, read_run
from d2rkit.experiments.presets import Preset
from d2rkit.experiments.run_folders import history_of
from d2rkit.training.history import best_epoch_of

log = logging.getLogger("d2rkit")


def trials(
    preset: Preset, rates: Sequence[float], subset: str, epochs: int, rows: Sequence[str] = ()
) -> list[tuple[str, Experiment]]:
    """Row and experiment of every trial, rate by rate; seed 0, everything but rate and budget as in the preset.

    ValueError for an unknown row, no rates, or a rate that is not above 0."""
    if not rates:
        raise ValueError("tuning needs at least one learning rate")
    budget = {"subset": subset, "epochs": epochs, "attacks": ()}
    row_trials = [
        (row, replace(preset.experiment(row, preset.seeds[0]), lr=rate, **budget))
        for rate in rates
        for row in rows or preset.rows
    ]
    for _, trial in row_trials:
        trial.check()
    return row_trials


def outcomes(row_trials: Sequence[tuple[str, Experiment]], root: str | Path) -> pd.DataFrame:
    """A row for each finished trial: row, lr, status, val_pgd and val_clean of its best epoch (in [0, 1]), seconds,
    and `chosen`, which is True for the highest val_pgd of each row (the smaller rate of two equal ones)."""
    lines = []
    for row, trial in row_trials:
        folder = Path(root) / trial.run_name
        if not (folder / "result.json").exists():
            continue
        try:
            run = read_run(folder)
        except ValueError as error:
            log.warning("left out: %s", error)
            continue
        history = history_of(run)
        best = best_epoch_of(history, trial.guide_warmup)
        at = next((line for line in history if line["epoch"] == best), {})
        lines.append(
            {
                "row": row,
                "lr": trial.lr,
                "status": run.result["status"],
                "val_pgd": at.get("val_pgd", float("nan")),
                "val_clean": at.get("val_clean", float("nan")),
                "train_seconds": run.result.get("train_seconds", float("nan")),
                "chosen": False,
            }
        )
    frame = pd.DataFrame(lines, columns=["row", "lr", "status", "val_pgd", "val_clean", "train_seconds", "chosen"])
    ranked = frame[frame["status"] == "done"].sort_values(["val_pgd", "lr"], ascending=[False, True])
    frame.loc[ranked.groupby("row").head(1).index, "chosen"] = True
    return frame.sort_values(["row", "lr"], kind="stable").reset_index(drop=True)
