"""Copies of the notebooks to be presented: code folded, and each cell told which slide it belongs to.

Slides are told as Jupyter has it, in `slideshow.slide_type`, so `jupyter nbconvert --to slides` reads them, too;
jupyter/presenting shows them in JupyterLab.
"""

from __future__ import annotations

import copy
import json
import os
import re
from datetime import datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from d2rkit.cli.working_copies import LEDGER, Copied, update
from d2rkit.core.digests import bytes_digest

HEADING = re.compile(r"^#{1,2} ", re.M)  # a section, or the notebook's title
SETUP = re.compile(r"## Setup\b")  # it runs, and has nothing to show
STATIC = re.compile(r"(\w+)\.static\([^\n]*\)\s*")  # the picture of a panel for where there are no widgets


PRESENTED = ".presented.json"  # the ledger of these copies
ANSWERS = "D2RKIT_ANSWERS"


def copies_to_present(kit: Path, folder: Path) -> Copied:
    """Bring copies of the notebooks to `folder`, cut into slides. Running one changes nothing of it.

    ValueError if the folder holds somebody's working copies."""
    if (folder / LEDGER).exists():
        raise ValueError(f"{folder} holds working copies, which --present leaves alone: name another --folder")
    return update(kit, folder, presented, wording, PRESENTED, left_out=())


def surroundings(folder: Path) -> dict[str, str]:
    """Environment of the kernels: pictures sharp enough for a projector; predictions in a new place, since every
    lecture asks anew and nobody's own answers are touched. ValueError for a D2RKIT_SHARPER that is no such number."""
    from d2rkit.panels.base import SHARPER, sharpness  # matplotlib takes a second to import

    sharpness(os.environ.get(SHARPER, ""))
    mine = {ANSWERS: str(folder / "answers" / datetime.now().strftime("%Y-%m-%d-%H%M")), SHARPER: "1.6"}
    return {name: os.environ.get(name) or value for name, value in mine.items()}


def presented(file: Path) -> bytes:
    """What a copy of `file` holds: a notebook cut into slides, anything else as it is."""
    content = file.read_bytes()
    if file.suffix != ".ipynb":
        return content
    notebook = json.loads(content)
    notebook["cells"] = slides(notebook["cells"], code="exercises" in file.parts)
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def slides(cells: list[dict[str, Any]], code: bool = False) -> list[dict[str, Any]]:
    """The cells, each with its slide; a cell with several sections becomes several. code: leave it to be seen, which
    is what an exercise is about."""
    made, alive, skipped = [], set(), False
    for cell in chain.from_iterable(map(sections, cells)):
        text, kind = source(cell), "-"
        if cell["cell_type"] == "markdown" and HEADING.match(text):
            skipped, alive = bool(SETUP.match(text)), set()
            kind = "slide"
        alive |= set(re.findall(r"^(\w+)\.widget$", text, re.M))
        again = STATIC.fullmatch(text)
        if skipped or "google.colab" in text or (again and again[1] in alive):
            kind = "skip"
        cell["metadata"] = {**cell["metadata"], "slideshow": {"slide_type": kind}}
        if cell["cell_type"] == "code" and not code:
            cell["metadata"]["jupyter"] = {**cell["metadata"].get("jupyter", {}), "source_hidden": True}
        made.append(cell)
    return made


def sections(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """A cell of text cut before each heading in it; any other as it is."""
    text = source(cell)
    cuts = [match.start() for match in HEADING.finditer(text)] if cell["cell_type"] == "markdown" else []
    edges = sorted({0, *cuts, len(text)})
    parts = [text[a:b].strip("\n") for a, b in pairwise(edges)]
    if len(parts) < 2:
        return [copy.deepcopy(cell)]
    # Cells have names of their own from nbformat 4.5 on.
    return [
        {**copy.deepcopy(cell), "source": part} | ({"id": f"{cell['id'][:60]}-{i}"} if i and "id" in cell else {})
        for i, part in enumerate(parts)
    ]


def source(cell: dict[str, Any]) -> str:
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def wording(content: bytes) -> str:
    """A digest of what a notebook says and does, whatever it put out when it ran; of another file, of its bytes."""
    try:
        cells = json.loads(content)["cells"]
        content = "\0".join(f"{cell['cell_type']} {source(cell)}" for cell in cells).encode()
    except (ValueError, KeyError, TypeError):
        pass  # no notebook
    return bytes_digest(content)
