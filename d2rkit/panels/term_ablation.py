"""Notebook 03: what each of D2R's terms buys in the plane, over several seeds, with a control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from d2rkit.panels import base
from d2rkit.panels.guide_and_target import compute

ABLATION: dict[str, dict[str, Any]] = {
    "all terms": {},
    "MSE alone": {"w_clean": 0.0, "w_adv": 0.0},
    "adversarial KL alone": {"w_mse": 0.0, "w_clean": 0.0},
    "clean KL alone": {"w_mse": 0.0, "w_adv": 0.0},
    "all terms, guide detached": {"detach_guide": True},
    "control: no CE": {"w_ce": 0.0},
}
MEASURED = ("guide", "target", "target, attacked", "guide's mean margin")


def ablate(settings: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """name -> (seeds, 4) of MEASURED, one training a setting and seed."""
    measured: dict[str, np.ndarray] = {}
    for name, changes in settings.items():
        runs = [compute(seed=seed, **changes) for seed in seeds]
        measured[name] = np.array([[*run.accuracy.values(), run.guide_clean.mean()] for run in runs])
    return measured


def span(values: np.ndarray, form: str, unit: str = "") -> str:
    """Lowest to highest, or the one number where both read alike."""
    low, high = (form.format(v) for v in (values.min(), values.max()))
    low, high = (text.replace("-", "−") if float(text) else text.lstrip("-") for text in (low, high))
    return (low if low == high else f"{low} to {high}") + unit


def ablation_words(rows: Mapping[str, np.ndarray], caption: str) -> str:
    """Lowest and highest over the seeds, and in a sentence how the first row stands against the others."""
    (first, ours), *others = rows.items()

    cells = [(name, *(span(100 * row[:, i], "{:.0f}", " %") for i in range(3)), span(row[:, 3], "{:.1f}"))
             for name, row in rows.items()]  # fmt: skip
    better = [name for name, row in others if (row[:, 2] > ours[:, 2]).all()]
    worse = [name for name, row in others if (row[:, 2] < ours[:, 2]).all()]
    verdict = f"Under attack “{first}” is right on {span(100 * ours[:, 2], '{:.0f}', ' %')} of the points."
    for word, names in (("Better", better), ("Worse", worse)):
        verdict += f" {word} on every seed: {'; '.join(names) or 'nothing'}."
    return base.sentence(verdict) + base.table(("terms", *MEASURED), cells, caption)
