"""What the project's texts promise, taken out of them: code blocks, code spans, commands."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

PROJECT = Path(__file__).parents[1]
DOCUMENTS = [PROJECT / name for name in ("README.md", "data/README.md", "notebooks/exercises/LECTURERS.md")]
DOCUMENTS += sorted((PROJECT / "docs").glob("*.md"))
NOTEBOOKS = sorted((PROJECT / "notebooks").rglob("*.ipynb"))
SOURCES = sorted(file for folder in ("d2rkit", "benchmarks") for file in (PROJECT / folder).rglob("*.py"))
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLANK = "…"  # what an f-string fills in at run time


@dataclass(frozen=True)
class Piece:
    """A piece of a text, and where it stands."""

    where: str
    text: str
    language: str = ""


def blocks(text: str, where: str) -> list[Piece]:
    """Fenced code blocks."""
    return [Piece(where, body, language) for language, body in FENCE.findall(text)]


def spans(text: str, where: str) -> list[Piece]:
    """`code` within a line or a paragraph."""
    return [Piece(where, " ".join(span.split())) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def texts() -> Iterator[Piece]:
    """Everything that a user reads: the documents, the notebooks' words, strings and docstrings of the sources."""
    for file in DOCUMENTS:
        yield Piece(str(file.relative_to(PROJECT)), file.read_text())
    for file in NOTEBOOKS:
        for cell in nbformat.read(file, as_version=4).cells:
            where = f"{file.relative_to(PROJECT)}:{cell.id}"
            if cell.cell_type == "markdown":
                yield Piece(where, cell.source)
            else:
                yield from strings(re.sub(r"^( *)%.*$", r"\1pass", cell.source, flags=re.MULTILINE), where)
    for file in SOURCES:
        yield from strings(file.read_text(), str(file.relative_to(PROJECT)))


def strings(source: str, where: str) -> Iterator[Piece]:
    """Every string of a Python source, also docstrings; f-strings with … for what is filled in."""
    within = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            within |= {id(part) for part in ast.walk(node) if part is not node}
            words = (part.value if isinstance(part, ast.Constant) else BLANK for part in node.values)
            yield Piece(f"{where}:{node.lineno}", "".join(words))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within:
            yield Piece(f"{where}:{node.lineno}", node.value)


def commands(program: str) -> list[Piece]:
    """Every `d2rkit …` or `make …` that a text tells its reader to type: in code spans, as a line of a code block or
    as a whole string."""
    pieces = []
    for piece in texts():
        lines = [line for block in blocks(piece.text, piece.where) for line in block.text.splitlines()]
        lines += [span.text for span in spans(piece.text, piece.where)]
        if piece.where.split(":")[0].endswith(".py"):
            lines += [piece.text]
        for line in lines:
            for part in re.split(r"&&|\n", line.split("  #")[0]):
                part = re.sub(r"^\s*(\$ |\S*python3? -m |\.venv/bin/)", "", part).strip()
                if re.match(rf"{program} [a-z]", part):
                    pieces.append(Piece(piece.where, part))
    return list(dict.fromkeys(pieces))


def words_of(command: str) -> list[str]:
    """The words of a command, with something in place of what its reader is to fill in (N, …, <NAME>)."""
    filled = re.sub(r"(?<![\w.])N(?![\w.])", "1", re.sub(r"<[^>]*>", "1", command))
    return [word.replace(BLANK, "1") for word in shlex.split(filled)]
