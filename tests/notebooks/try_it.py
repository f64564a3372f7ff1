"""What a notebook's "Try it yourself" tells its reader to write, as cells that do it."""

from __future__ import annotations

import ast
import re

import nbformat

HEADING = "## Try it yourself"
NO_PYTHON = ("d2rkit ", "make ", "\\")  # commands are checked with the documents; LaTeX is the reader's own


def snippets(notebook: nbformat.NotebookNode) -> list[str]:
    """Code spans and Python blocks of the section, Python only. ValueError for what is neither Python nor a command."""
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    section = re.split(r"^## ", words.split(HEADING, 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    matches = re.findall(r"```python\n(.*?)```|`([^`\n]+)`", section, re.DOTALL)
    code = [block or span for block, span in matches if not (block or span).startswith(NO_PYTHON)]
    for piece in code:
        try:
            ast.parse(piece)
        except SyntaxError as error:
            raise ValueError(f"{piece!r} is no Python that could be run: {error.msg}") from error
    return code


def cells_that_try(notebook: nbformat.NotebookNode) -> list[str]:
    """An expression is a cell. An assignment takes the place of the notebook's own first one to that name; then all
    cells below that use it, or what such cells make, run again. ValueError if the notebook has no such line."""
    own = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    cells = []
    for piece in snippets(notebook):
        name = re.match(r"(\w+) = ", piece)
        if not name:
            cells.append(piece)
            continue
        line = re.compile(rf"^{name[1]} = .*$", re.MULTILINE)
        start = next((i for i, source in enumerate(own) if line.search(source)), None)
        if start is None:
            raise ValueError(f"{piece!r} replaces a line that the notebook does not have")
        changed = {name[1]}
        cells.append(piece)
        rest = line.sub("", own[start], count=1)
        for source in [rest, *own[start + 1 :]]:
            used, made = names_in(source)
            if used & changed:
                changed |= made
                cells.append(source)
    return cells


def names_in(source: str) -> tuple[set[str], set[str]]:
    """Names that a cell uses, and those that it makes or may change: what it assigns, defines or imports, and whatever
    has a method called, an attribute or element set, or is handed to a call."""
    used, made = set(), set()
    for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "pass", source, flags=re.MULTILINE))):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.AugAssign):
            used |= _names(node.target)
        elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            made |= _names(node.value)
        elif isinstance(node, ast.Call):
            receiver = [node.func.value] if isinstance(node.func, ast.Attribute) else []
            for part in [*receiver, *node.args, *(keyword.value for keyword in node.keywords)]:
                made |= _names(part)
    return used, made


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
