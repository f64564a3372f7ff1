"""The figures in sentences, by kind: each takes the words of its marker and gives the text between it and its end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from from_results import results
from from_results.results import measured, number_of, p_value, run_folder, signed, spread_of, tests

BEYOND_CHANCE = 0.05  # after Holm
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def difference(table: str, label: str) -> str:
    return signed(tests(table).loc[label, "difference"])


def points(table: str, label: str) -> str:
    """A difference without its sign, in whole points."""
    return f"{abs(100 * tests(table).loc[label, 'difference']):.0f}"


def _beyond_chance(table: str, yes: bool) -> pd.DataFrame:
    rows = tests(table)
    return rows[(rows["p_holm"] < BEYOND_CHANCE) == yes]


def count_beyond_chance(table: str) -> str:
    return COUNTS[len(_beyond_chance(table, True))]


def points_beyond_chance(table: str) -> str:
    """From the least to the greatest of the differences that are beyond chance, in whole points."""
    sizes = 100 * _beyond_chance(table, True)["difference"].abs()
    return f"{sizes.min():.0f} to {sizes.max():.0f}"


def greatest_p_beyond_chance(table: str) -> str:
    return f"{_beyond_chance(table, True)['p_holm'].max():.3f}"


def within_chance(table: str) -> str:
    """What the other differences do not exceed, in points, rounded up."""
    return f"{math.ceil(1000 * _beyond_chance(table, False)['difference'].abs().max()) / 10:.1f}"


def standard_error(table: str) -> str:
    """The greatest that the number of test images alone gives one accuracy, in points."""
    (images,) = pd.read_csv(results.RESULTS / table / "runs.csv")["n_test"].unique()
    return f"{100 * math.sqrt(0.25 / images):.1f}"


def _means(table: str, attack: str) -> pd.Series:
    """By label of the row, in percent."""
    return 100 * pd.read_csv(results.RESULTS / table / "runs.csv").groupby("label")[attack].mean()


def above(table: str, other: str, label: str, attack: str) -> str:
    """By how many whole points a row's mean is above that of the same row in another table."""
    return f"{_means(table, attack)[label] - _means(other, attack)[label]:.0f}"


def overestimate(table: str, attack: str) -> str:
    """How far a row's mean accuracy under `attack` lies above AutoAttack's: the least and the most, in points."""
    apart = (_means(table, attack) - _means(table, "autoattack")).dropna()
    return f"{apart.min():.1f} to {apart.max():.1f}"


def accuracy(table: str, method: str, seed: str, attack: str) -> str:
    """Of a run by itself, at the one checkpoint that was judged."""
    (measured,) = json.loads((run_folder(table, method, seed) / "result.json").read_text())["accuracy"].values()
    return f"{100 * measured[attack]:.1f}"


def minutes(table: str, method: str, seed: str, part: str) -> str:
    """part: train or evaluation."""
    return f"{json.loads((run_folder(table, method, seed) / 'result.json').read_text())[f'{part}_seconds'] / 60:.0f}"


def validation(table: str, method: str, seed: str, column: str) -> str:
    """At the epoch whose weights were kept: the best under PGD."""
    history = pd.read_csv(run_folder(table, method, seed) / "history.csv")
    return f"{100 * history.loc[history['val_pgd'].idxmax(), column]:.1f}"


def above_final(table: str, seed: str, attack: str) -> str:
    """How far the accuracy after `attack` lies above AutoAttack's, in points, over the runs of a seed."""
    gaps = []
    for file in (results.RESULTS / table / "runs").glob(f"*-s{seed}-*/evaluation/autoattack.npz"):
        with np.load(file) as flags:
            gaps.append(100 * (flags[attack].mean() - flags["square"].mean()))
    return f"{min(gaps):.1f} to {max(gaps):.1f}"


def number(file: str, path: str, form: str) -> str:
    """A number of a JSON file in Python's format; percentages with a space."""
    return number_of(measured(file, path), form)


def spread(file: str, path: str) -> str:
    return spread_of(measured(file, path))


def in_points(file: str, path: str) -> str:
    return signed(measured(file, path))


FIGURES: dict[str, Callable[..., str]] = {
    each.__name__: each
    for each in (
        p_value, difference, points, count_beyond_chance, points_beyond_chance, greatest_p_beyond_chance, within_chance,
        standard_error, above, overestimate, accuracy, minutes, validation, above_final, number, spread, in_points,
    )
}  # fmt: skip
