"""Writes the tables and figures of README.md and docs/*.md from data/results, each between two markers.

python docs/refresh.py           after results have changed
python docs/refresh.py --check   writes nothing; exit status 1 if a page is not what the results say

A table lies between `<!-- results of NAME -->` and `<!-- end of results -->`, NAME being one of TABLES; a figure in a
sentence between `<!-- KIND: WORD | WORD -->` and `<!-- / -->`, KIND being one of FIGURES and the words its arguments.
TABLES and FIGURES are in from_results/.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from from_results.sentences import FIGURES
from from_results.tables import TABLES

PROJECT = Path(__file__).resolve().parents[1]
PAGES = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
MARKED = re.compile(r"(<!-- results of (\w+) -->\n).*?(<!-- end of results -->\n)", re.DOTALL)
MARKED_FIGURE = re.compile(r"(<!-- (\w+): ([^>]+?) -->).*?(<!-- / -->)")


LEFT = ("", "Method", "network", "networks, batch", "optimisation")  # columns of words


def markdown(rows: list[list[str]]) -> str:
    ruler = ["---" if name in LEFT or "interval" in name else "---:" for name in rows[0]]
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]
    return "\n".join([lines[0], f"|{'|'.join(ruler)}|", *lines[1:]]) + "\n"


def refreshed(page: str) -> str:
    """The page with the tables and figures that the results give now."""
    page = MARKED.sub(lambda mark: mark[1] + markdown(TABLES[mark[2]]()) + mark[3], page)
    return MARKED_FIGURE.sub(lambda mark: mark[1] + FIGURES[mark[2]](*mark[3].split(" | ")) + mark[4], page)


def main() -> int:
    stale = []
    for file in PAGES:
        page = file.read_text(encoding="utf-8")
        if (now := refreshed(page)) != page:
            stale.append(file.name)
            if "--check" not in sys.argv[1:]:
                file.write_text(now, encoding="utf-8")
    if stale and "--check" in sys.argv[1:]:
        print(f"{', '.join(stale)}: not what data/results says; run `python docs/refresh.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
