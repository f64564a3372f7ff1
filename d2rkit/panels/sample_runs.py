"""Runs for the panels of tables and figures: those that are on this machine, and a small table made live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from d2rkit.core.paths import shipped
from d2rkit.experiments.experiment import Run, find_runs, read_run, read_runs, settings_of
from d2rkit.experiments.presets import QUICK, Preset, get_preset
from d2rkit.experiments.sweep import sweep
from d2rkit.reporting.frame import labels, tidy
from d2rkit.reporting.significance import flags_of

__all__ = ["claims", "find_runs", "shipped_runs", "tiny_preset", "tiny_runs"]


def shipped_runs(name: str) -> tuple[Run, ...]:
    """The runs of a preset's rows in data/results; none that stand beside the table, such as undefended controls."""
    rows = {settings_of(experiment) for experiment in get_preset(name).experiments()}
    runs = read_runs(shipped("results") / name / "runs")
    kept = [run for run in runs if settings_of(run.experiment) in rows]
    order = list(tidy(kept)["folder"])
    return tuple(sorted(kept, key=lambda run: order.index(run.folder.name)))


def claims(runs: Sequence[Run], first: str, second: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Row of the table -> flags (N,) under two attacks of each run's first seed."""
    rows: dict[str, Run] = {}
    for label, run in zip(labels([run.experiment for run in runs]), runs, strict=True):
        rows.setdefault(label, run)
    return {label: (flags_of(run, first), flags_of(run, second)) for label, run in rows.items()}


def tiny_preset(attacks: Sequence[str] = ("clean", "fgsm", "pgd20")) -> Preset:
    """Two methods, two seeds, networks of half the quick table's width: a table to watch, not one to cite."""
    base = replace(
        QUICK.base, target="cnn-8", guide="cnn-8", epochs=4, warmup=1.0, steps=5, val_steps=3, test_images=100,
        attacks=tuple(attacks),
    )  # fmt: skip
    return Preset(
        name="tiny",
        title="Handwritten digits (8x8), tiny CNN pair",
        command="sweep(preset.experiments(), folder)",
        time="about 20 seconds on one core",
        expect="nothing to rely on: 100 test images",
        base=base,
        rows=("trades", "d2r-cag"),
        seeds=(0, 1),
    )


def tiny_runs(folder: str | Path, attacks: Sequence[str] = ("clean", "fgsm", "pgd20")) -> tuple[Run, ...]:
    """The tiny table's runs: trained and attacked now, or read if `folder` has them. ValueError if one failed."""
    experiments = tiny_preset(attacks).experiments()
    for outcome in sweep(experiments, folder, device="cpu"):
        if outcome.status != "done":
            raise ValueError(f"{outcome.experiment.run_name}: {outcome.status}")
    return tuple(read_run(Path(folder) / experiment.run_name) for experiment in experiments)
