"""What one can take from a panel: its picture and its tables, as links that save and buttons that copy.

A link needs nothing but the page. Copying needs a script, `touch.js`, which also uncovers the buttons."""

from __future__ import annotations

import base64
import csv
import html
import io
import re
from html.parser import HTMLParser
from textwrap import shorten

from d2rkit.panels.picture import Sheet


class _Tables(HTMLParser):
    """Captions and cells of the tables in an HTML fragment."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[str, list[list[str]]]] = []
        self._into: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr" and self.tables:
            self.tables[-1][1].append([])
        elif tag in ("td", "th", "caption"):
            self._into = []

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "caption") and self._into is not None and self.tables:
            text, rows = "".join(self._into).strip(), self.tables[-1][1]
            if tag == "caption":
                self.tables[-1] = (text, rows)
            elif rows:
                rows[-1].append(text)
            self._into = None


def tables_in(markup: str) -> list[tuple[str, list[list[str]]]]:
    """(caption, rows of cells) of every table in an HTML fragment, header first."""
    parser = _Tables()
    parser.feed(markup)
    return [(caption, [row for row in rows if row]) for caption, rows in parser.tables]


def to_csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def stem(words: str) -> str:
    """A file's name: letters, digits and dashes of the title of a panel or table."""
    return re.sub(r"[^\w]+", "-", words.lower()).strip("-")[:50].strip("-") or "table"


def links(title: str, sheet: Sheet, markup: str) -> str:
    """Links and buttons for the picture and for every table in `markup`, HTML."""
    parts = [
        f"<a download='{stem(title)}.png' href='{sheet.address}'>Save the picture</a>",
        "<button type='button' data-copy='picture'>Copy the picture</button>",
    ]
    tables = tables_in(markup)
    for number, (caption, rows) in enumerate(tables):
        name = f"“{html.escape(shorten(caption or title, 40, placeholder=' …'))}”" if len(tables) > 1 else "the table"
        address = "data:text/csv;base64," + base64.b64encode(to_csv(rows).encode("utf-8-sig")).decode()
        parts += [
            f"<a download='{stem(caption or title)}.csv' href='{address}'>Save {name} (CSV)</a>",
            f"<button type='button' data-copy='{number}'>Copy {name}</button>",
        ]
    return f"<div class='d2rkit-take'>{''.join(parts)}</div>"
