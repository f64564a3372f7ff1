"""Student and solution notebooks from one source.

    python -m d2rkit.exercises.build            write notebooks/exercises/{student,solution}/NN_topic.ipynb
    python -m d2rkit.exercises.build --check    exit with 1 if they are not what the sources give

A source is a py:percent file, notebooks/exercises/source/NN_topic.py. What lies between `### BEGIN SOLUTION` and
`### END SOLUTION` becomes the stub that nbgrader would write; its metadata stands in the cell headers, so the
notebooks of solution/ are an nbgrader source folder as they are. Needs jupytext (pip install -e .[dev]).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from d2rkit.core.paths import PROJECT

FOLDER = PROJECT / "notebooks" / "exercises"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUBS = {"code": "# YOUR CODE HERE\nraise NotImplementedError()", "markdown": "YOUR ANSWER HERE"}  # nbgrader's own
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def build(source: Path) -> dict[str, str]:
    """The text of both notebooks of one source, by folder name. ValueError for a region without begin or end,
    or outside a cell that is marked as a solution."""
    import jupytext

    text = source.read_text(encoding="utf-8")
    notebooks = {}
    for copy in ("student", "solution"):
        notebook = jupytext.reads(text, fmt="py:percent")
        cells = []
        for number, cell in enumerate(notebook.cells):
            marks = cell.metadata.get("nbgrader", {})
            content = cell.source
            if BEGIN in content or END in content:
                if not marks.get("solution"):
                    raise ValueError(f"{source.name}: a solution in cell {number}, whose header does not say so")
                if copy == "student":
                    content = without_solution(content, cell.cell_type, source.name)
            cells.append(_cell(cell.cell_type, content, marks, f"{source.stem}-{number:02d}".replace("_", "-")))
        whole = {"cells": cells, "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5}
        notebooks[copy] = json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return notebooks


def without_solution(content: str, kind: str, name: str) -> str:
    """Each region replaced by the stub, indented like its first line."""
    lines, inside = [], False
    for line in content.split("\n"):
        mark = line.strip()
        if mark == BEGIN and not inside:
            inside, indent = True, line[: line.index(BEGIN)]
            lines += [indent + stub for stub in STUBS[kind].split("\n")]
        elif mark == END and inside:
            inside = False
        elif mark in (BEGIN, END):
            raise ValueError(f"{name}: {mark} where it does not belong")
        elif not inside:
            lines.append(line)
    if inside:
        raise ValueError(f"{name}: {END} is missing")
    return "\n".join(lines)


def _cell(kind: str, content: str, marks: dict, identity: str) -> dict:
    """A cell as nbformat 4.5 writes it, without outputs; ids follow from file and position, so diffs stay small."""
    cell = {"cell_type": kind, "id": identity, "metadata": {}, "source": content.splitlines(keepends=True)}
    if marks:
        cell["metadata"]["nbgrader"] = dict(marks)
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell


def outputs(folder: Path = FOLDER) -> dict[Path, str]:
    """Path and text of every notebook that should be there."""
    return {
        folder / copy / f"{source.stem}.ipynb": text
        for source in sorted((folder / "source").glob("*.py"))
        for copy, text in build(source).items()
    }


def drift(folder: Path = FOLDER) -> list[str]:
    """One sentence for each notebook that is missing, differs, or has no source."""
    wanted = outputs(folder)
    faults = [
        f"{p.name} has no source"
        for c in ("student", "solution")
        for p in (folder / c).glob("*.ipynb")
        if p not in wanted
    ]
    for path, text in wanted.items():
        where = f"{path.parent.name}/{path.name}"
        if not path.exists():
            faults.append(f"{where} is missing")
        elif path.read_text(encoding="utf-8") != text:
            faults.append(f"{where} differs from what its source generates")
    return faults


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    if arguments:
        faults = drift()
        print("\n".join(faults) or "all notebooks match their sources")
        return 1 if faults else 0
    for path, text in outputs().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"{path.parent.name}/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
