"""HTML tables of panels, exercises and the class page, made in one place so that a screen reader can walk them all.

Tables of results, which are Markdown, CSV and LaTeX as well, are `Table` of render.py.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

ROW, COLUMN = "th scope='row'", "th scope='col'"
LEFT = "style='padding:0.1em 0.9em 0.1em 0;text-align:left'"  # cells of a notebook's tables


class Html(str):
    """Text that is HTML already; any other is escaped."""


class Marked(NamedTuple):
    """What stands in a cell that has attributes of its own, such as a class."""

    content: object
    attributes: str


def html_table(
    header: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str | None = None, attributes: str = "",
    columns: str | Sequence[str] = "", foot: Sequence[object] = (),
) -> str:  # fmt: skip
    """First column and first row are headers, as is the first cell of `foot`. header: () for a table without one.
    Cells: any text, Html or Marked. attributes: of the table. columns: of all cells, or one for each column."""

    def line(cells: Sequence[object], first: str, rest: str) -> str:
        own = [columns] * len(cells) if isinstance(columns, str) else columns
        tags = [first, *[rest] * (len(cells) - 1)]
        return f"<tr>{''.join(_cell(*each) for each in zip(tags, cells, own, strict=True))}</tr>"

    head = f"<thead>{line(header, COLUMN, COLUMN)}</thead>" if header else ""
    body = "".join(line(row, ROW, "td") for row in rows)
    total = f"<tfoot>{line(foot, ROW, 'td')}</tfoot>" if foot else ""
    words = "" if caption is None else f"<caption style='text-align:left'>{html.escape(caption)}</caption>"
    return f"<table{_spaced(attributes)}>{words}{head}<tbody>{body}</tbody>{total}</table>"


def _cell(tag: str, content: object, attributes: str) -> str:
    if isinstance(content, Marked):
        content, attributes = content.content, f"{attributes} {content.attributes}".strip()
    text = content if isinstance(content, Html) else html.escape(str(content))
    if tag == COLUMN and not text:  # the corner above the headers of rows heads nothing
        tag = "td"
    return f"<{tag}{_spaced(attributes)}>{text}</{tag.split()[0]}>"


def _spaced(attributes: str) -> str:
    return f" {attributes}" if attributes else ""
