"""history.csv of a run, one row an epoch: written, read and checked, and which epoch was the best."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from d2rkit.core.files import read_small_text, write_atomically

ROUNDED = 1e-6  # accuracies of old runs are float32; sums over batches of any run are off in the last digit


def read_history(file: Path) -> list[dict[str, float]]:
    """history.csv, one row an epoch, numbered from 1 (a missing value is NaN); empty if there is no such file."""
    if not file.is_symlink() and not file.exists():
        return []
    try:
        lines = list(csv.reader(io.StringIO(read_small_text(file), newline=""), strict=True))
        columns = lines[0] if lines else []
        rows = [
            {name: float(text) if text else math.nan for name, text in zip(columns, line, strict=True)}
            for line in lines[1:]
        ]
    except (csv.Error, ValueError) as error:
        reason = str(error).removeprefix(f"{file} ").removeprefix("is damaged: ")
        raise ValueError(f"{file} is damaged: {reason}") from error
    if rows and "epoch" not in columns:
        raise ValueError(f"{file} is damaged: it has no column 'epoch'")
    for number, row in enumerate(rows, 1):
        if row["epoch"] != number:
            raise ValueError(f"{file} is damaged: row {number} is of epoch {row['epoch']:g}")
        for name, value in row.items():
            if name.startswith(("val_", "train_")) and not (-ROUNDED <= value <= 1 + ROUNDED or math.isnan(value)):
                raise ValueError(f"{file} is damaged: {name} of epoch {number} must lie in [0, 1], not {value:g}")
    return rows


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    columns = list(dict.fromkeys(name for row in history for name in row))
    with write_atomically(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def best_epoch_of(history: Sequence[dict[str, float]], guide_warmup: int = 0) -> float:
    """The epoch whose weights are `best`: the first of highest PGD accuracy on validation images."""
    candidates = [row for row in history if row["epoch"] > guide_warmup and not math.isnan(row["val_pgd"])]
    return max(candidates, key=lambda row: row["val_pgd"])["epoch"] if candidates else math.nan
