"""Runs for the panels of tables and figures: those that are on this machine, and a small table made live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from d2rkit.experiments.experiment import Run, find_runs, read_run
from d2rkit.experiments.presets import QUICK, Preset
from d2rkit.experiments.sweep import sweep

__all__ = ["find_runs", "tiny_preset", "tiny_runs"]


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
