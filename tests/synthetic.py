"""Finished run folders without a training: what run.run() leaves behind, with numbers of our choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from d2rkit.core.files import write_json
from d2rkit.experiments.experiment import Experiment, Run, read_run
from d2rkit.experiments.presets import Preset
from d2rkit.experiments.run_evaluation import SWEEP
from d2rkit.training.loop import write_history


def preset(
    rows: tuple[str, ...] = ("trades", "d2r-cag", "pgd-at"), seeds: tuple[int, ...] = (0, 1), **changes: Any
) -> Preset:
    base = Experiment(epochs=4, eps=0.2, attacks=("clean", "autoattack"))
    return Preset("tiny", "Digits", "d2rkit reproduce tiny", "", "", replace(base, **changes), rows, seeds)


def flags_for(accuracy: float, n: int, seed: int) -> np.ndarray:
    """(n,) bool with as many True as the accuracy says; the same images are easy for every method."""
    noise = np.random.default_rng(seed).normal(0, 0.1, n)
    easiness = np.random.default_rng(0).random(n) + noise
    flags = np.zeros(n, dtype=bool)
    flags[np.argsort(-easiness)[: round(accuracy * n)]] = True
    return flags


def make_run(
    root: Path,
    experiment: Experiment,
    accuracy: Mapping[str, float],
    *,
    n: int = 100,
    status: str = "done",
    **result: Any,
) -> Run:
    """A run folder with these accuracies at every checkpoint, and flags, curve and history to go with them."""
    folder = root / experiment.run_name
    write_json(folder / "config.json", experiment.to_dict())
    done = not status.startswith("failed")
    content = {
        "format": 1, "status": status, "epochs": experiment.epochs, "train_seconds": 1.5, "evaluation_seconds": 2.5,
        "n_test": n, "data_source": "made up", "machine": "a test", "versions": {"torch": "2"},
        "accuracy": {checkpoint: dict(accuracy) for checkpoint in experiment.checkpoints if done},
    }  # fmt: skip
    robust = accuracy.get("autoattack", 0.3)
    if done:
        curve = [0.9 * math.exp(-r * math.log(0.9 / max(robust, 0.01))) for r in SWEEP]
        content["eps_curve"] = {"eps": [r * experiment.radius for r in SWEEP], "pgd20": curve}
        for checkpoint in experiment.checkpoints:
            place = "evaluation" if checkpoint == "best" else f"evaluation-{checkpoint}"
            (folder / place).mkdir(parents=True, exist_ok=True)
            for attack, value in accuracy.items():
                flags = flags_for(value, n, 7 * experiment.seed + sum(map(ord, experiment.method)))
                np.savez_compressed(folder / place / f"{attack}.npz", flags=flags)
    write_json(folder / "result.json", content | result)
    peak = 3  # the epoch of `best`
    history = [
        {
            "epoch": epoch, "lr": 0.1, "loss": 2.0 / epoch, "train_clean": 0.9 - 0.4 / epoch,
            "train_adv": 0.8 - 0.6 / epoch,
            "val_clean": 0.8 - 0.2 / epoch, "val_pgd": max(0.0, robust - 0.02 * abs(epoch - peak)), "seconds": 0.1,
        }
        for epoch in range(1, experiment.epochs + 1)
    ]  # fmt: skip
    write_history(folder / "history.csv", history)
    return read_run(folder)


def runs_of(here: Preset, root: Path) -> list[Run]:
    """All runs of a preset, the methods a few points apart, the seeds one."""
    return [
        make_run(root, e, {a: 0.9 - 0.1 * i - 0.03 * here.rows.index(e.method) - 0.01 * e.seed
                           for i, a in enumerate(e.attacks)})
        for e in here.experiments()
    ]  # fmt: skip
