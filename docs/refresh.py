"""Writes the tables of docs/tables.md from data/results, each between two markers.

python docs/refresh.py           after results have changed
python docs/refresh.py --check   writes nothing; exit status 1 if a table is not the one of the results
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = PROJECT / "docs" / "tables.md", PROJECT / "data" / "results"
MARKED = re.compile(r"(<!-- results of (\w+) -->\n).*?(<!-- end of results -->\n)", re.DOTALL)


def shipped(name: str) -> list[list[str]]:
    """The cells of the main table in data/results/NAME/table.md, its header first; rows that have been run."""
    lines = (RESULTS / name / "table.md").read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| Method"))
    after = next(number for number, line in enumerate(lines[first:], first) if not line.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first:after]]
    return [[re.sub(r" \[\w+\]$", "", row[0]), *row[1:]] for row in (cells[0], *cells[2:]) if "`" not in row[1]]


def paired(name: str) -> dict[str, tuple[str, str]]:
    """Label of a row -> difference with its interval, in points, and p corrected by Holm."""
    found = {}
    for row in pd.read_csv(RESULTS / name / "paired.csv").to_dict("records"):
        difference, low, high = (_signed(row[column]) for column in ("difference", "low", "high"))
        p = "< 0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}"
        found[row["label"]] = (f"{difference} ({low} to {high})", p)
    return found


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def small() -> list[list[str]]:
    """All attacks, and the difference from TRADES."""
    (header, *rows), tests = shipped("small"), paired("small")
    beside = [[*row[:-1], tests.get(row[0], ("", ""))[0]] for row in rows]
    return [[*header[:-1], "against TRADES, 95 % interval"], *beside]


def medium() -> list[list[str]]:
    """All attacks, and the guide's clean accuracy."""
    (header, *rows), runs = shipped("medium"), pd.read_csv(RESULTS / "medium" / "runs.csv")
    guides = runs.groupby("label")["guide_clean"].mean()
    plain = [[cell.strip("*") for cell in row[:-1]] + [f"{100 * guides[row[0]]:.1f}"] for row in rows]
    return [[*header[:-1], "its guide, clean"], *plain]


def family() -> list[list[str]]:
    """Clean, PGD-20 and AutoAttack, and the difference from D2R+CAG."""
    (header, *rows), tests = shipped("family"), paired("family")
    kept = [header.index(name) for name in ("Method", "Clean", "PGD-20", "AutoAttack")]
    plain = [[*(row[at].strip("*") for at in kept), *tests.get(row[0], ("", ""))] for row in rows]
    return [[*(header[at] for at in kept), "against D2R+CAG, 95 % interval", "p (Holm)"], *plain]


TABLES = {"small": small, "medium": medium, "family": family}


def markdown(rows: list[list[str]]) -> str:
    ruler = ["---", *("---" if "interval" in name else "---:" for name in rows[0][1:])]
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]
    return "\n".join([lines[0], f"|{'|'.join(ruler)}|", *lines[1:]]) + "\n"


def refreshed(page: str) -> str:
    """The page with the tables that the results give now."""
    return MARKED.sub(lambda found: found[1] + markdown(TABLES[found[2]]()) + found[3], page)


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    now = refreshed(page)
    if now != page and "--check" in sys.argv[1:]:
        print("docs/tables.md is not what data/results says: run `python docs/refresh.py`", file=sys.stderr)
        return 1
    PAGE.write_text(now, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
