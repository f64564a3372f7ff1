"""Reads what is in data/results, and writes its numbers as the pages have them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"


def shipped(name: str) -> list[list[str]]:
    """The cells of the main table in data/results/NAME/table.md, its header first; rows that have been run."""
    lines = (RESULTS / name / "table.md").read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| Method"))
    after = next(number for number, line in enumerate(lines[first:], first) if not line.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first:after]]
    return [[re.sub(r" \[\w+\]$", "", row[0]), *row[1:]] for row in (cells[0], *cells[2:]) if "`" not in row[1]]


def tests(table: str) -> pd.DataFrame:
    """The paired tests of a table by the labels of its rows."""
    return pd.read_csv(RESULTS / table / "paired.csv").set_index("label")


def run_folder(table: str, method: str, seed: str) -> Path:
    """The one run of a method and seed below a table's runs."""
    (folder,) = (RESULTS / table / "runs").glob(f"*-{method}-s{seed}-*")
    return folder


def measured(file: str, path: str) -> Any:
    """What is at `path` in data/results/FILE.json: keys joined by dots; in a list, a number or a word that only one
    entry has among its values."""
    inner = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
    for key in path.split("."):
        if isinstance(inner, list) and not key.isdigit():
            (inner,) = (entry for entry in inner if key in entry.values())
        else:
            inner = inner[int(key) if isinstance(inner, list) else key]
    return inner


# -- words ------------------------------------------------------------------------------------------------------------
def signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def p_value(table: str, label: str) -> str:
    p = tests(table).loc[label, "p_holm"]
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number_of(value: float, form: str) -> str:
    return format(value, form).replace("%", " %").replace("-", "−")


def spread_of(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
