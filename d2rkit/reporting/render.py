"""A Table, which is text in cells and nothing more, as Markdown, LaTeX (booktabs) and HTML."""

from __future__ import annotations

from dataclasses import dataclass, field

import jinja2
import pandas as pd
from markupsafe import Markup

from d2rkit.reporting.escaping import html_text, latex_label, latex_text, markdown_text, one_line


@dataclass(frozen=True)
class Cell:
    """What stands in a cell. mark: letter of a note below the table. code: a command, set as one."""

    text: str
    bold: bool = False
    mark: str = ""
    code: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; the last cell of a row that is too short spans the rest. Without rows it is just the
    caption and the notes. notes: lettered by the marks of the cells, (letter, words); an empty letter is a
    general remark. numbers: the same, unrounded."""

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[tuple[str, str], ...] = ()
    numbers: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return to_html(self)


def signed(points: float) -> str:
    """A difference in points, with a true minus sign and no negative zero."""
    return f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")


def to_markdown(table: Table) -> str:
    """GitHub's table, columns aligned for readers of the plain text, the caption above and the notes below."""

    def words(cell: Cell) -> str:
        text = markdown_text(f"`{cell.text}`" if cell.code else cell.text).replace("|", r"\|")
        text = f"**{text}**" if cell.bold else text
        return f"{text} [{cell.mark}]" if cell.mark else text

    caption = markdown_text(table.caption)
    notes = [f"[{letter}] {markdown_text(text)}" if letter else markdown_text(text) for letter, text in table.notes]
    if not table.rows:
        return "\n\n".join([caption, *notes]) + "\n"
    lines = [[markdown_text(title).replace("|", r"\|") for title in table.header]]
    lines += [[words(cell) for cell in row] + [""] * (len(table.header) - len(row)) for row in table.rows]
    # A command that spans cells must not widen its column for everybody else.
    spans = [len(row) < len(table.header) for row in [table.header, *table.rows]]
    fixed = [line for line, span in zip(lines, spans, strict=True) if not span]
    widths = [max(3, *(len(line[i]) for line in (fixed if i else lines))) for i in range(len(table.header))]
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    lines.insert(1, rule)
    sides = ["<", *">" * (len(widths) - 1)]
    body = [
        "| " + " | ".join(f"{t:{side}{w}}" for t, side, w in zip(line, sides, widths, strict=True)) + " |"
        for line in lines
    ]
    return "\n\n".join([caption, "\n".join(body), *notes]) + "\n"


def latex_cell(cell: Cell) -> str:
    text = latex_text(f"`{cell.text}`" if cell.code else cell.text)
    if cell.bold:
        text = rf"\textbf{{{text.replace('$±$', '±')}}}"
    return f"{text}$^{{{cell.mark}}}$" if cell.mark else text


def html_cell(cell: Cell) -> Markup:
    text = html_text(f"`{cell.text}`" if cell.code else cell.text)
    text = Markup("<strong>{}</strong>").format(text) if cell.bold else text
    return text + Markup("<sup>{}</sup>").format(cell.mark) if cell.mark else text


_TEX_TEMPLATE = r"""% needs \usepackage{booktabs}
<% if table.rows %>
\begin{table}
\centering
\caption{<< table.caption | tex >>}
\label{tab:<< table.name | label >>}
\footnotesize
\setlength{\tabcolsep}{3pt}
\makebox[\linewidth]{%
\begin{tabular}{l<< "r" * (table.header | length - 1) >>}
\toprule
<< table.header | map("tex") | join(" & ") >> \\
\midrule
<% for row in table.rows %>
<% set span = table.header | length - row | length + 1 %>
<< row[:-1] | map("tex_cell") | join(" & ") >> &
<%- if span > 1 %> \multicolumn{<< span >>}{l}{<< row[-1] | tex_cell >>} <% else %>
 << row[-1] | tex_cell >> <% endif %>\\
<% endfor %>
\bottomrule
\end{tabular}}
<% for letter, text in table.notes %>
\par\smallskip\parbox{\linewidth}{\footnotesize <% if letter %>$^{<< letter >>}$~<% endif %><< text | tex >>}
<% endfor %>
\end{table}
<% else %>
<% for text in [table.caption] + table.notes | map("last") | list %>
% << text | line >>
<% endfor %>
<% endif %>
"""

_HTML_TEMPLATE = """{% if table.rows %}
<table class="d2rkit" id="{{ table.name }}">
<caption>{{ table.caption | words }}</caption>
<thead><tr>{% for title in table.header %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr><th scope="row">{{ row[0] | cell }}</th>{% for c in row[1:] %}<td{% if loop.last and row | length < table.header | length %} colspan="{{ table.header | length - row | length + 1 }}"{% endif %}>{{ c | cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% else %}
<p>{{ table.caption | words }}</p>
{% endif %}
{% for letter, text in table.notes %}
<p class="d2rkit-note">{% if letter %}<sup>{{ letter }}</sup> {% endif %}{{ text | words }}</p>
{% endfor %}
"""  # noqa: E501

_DOCUMENT = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font-family: system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; }
table.d2rkit { border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; margin: 1em 0; }
table.d2rkit caption { text-align: left; padding-bottom: .5em; }
table.d2rkit thead { border-bottom: 1px solid; }
table.d2rkit th, table.d2rkit td { padding: .25em .75em; text-align: right; font-weight: normal; }
table.d2rkit th:first-child, table.d2rkit td[colspan] { text-align: left; }
p.d2rkit-note { font-size: .9em; margin: .25em 0; }
</style></head><body>
<h1>{{ title }}</h1>
{% for table in tables %}{{ table }}
{% endfor %}</body></html>
"""

_TEX = jinja2.Environment(
    block_start_string="<%", block_end_string="%>", variable_start_string="<<", variable_end_string=">>",
    comment_start_string="<#", comment_end_string="#>", trim_blocks=True, keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
)  # fmt: skip
_TEX.filters |= {"tex": latex_text, "tex_cell": latex_cell, "label": latex_label, "line": one_line}
_HTML = jinja2.Environment(
    autoescape=True, trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
)
_HTML.filters |= {"words": html_text, "cell": html_cell}


def to_latex(table: Table) -> str:
    r"""A table environment for \input; the preamble needs \usepackage{booktabs}, nothing else."""
    return _TEX.from_string(_TEX_TEMPLATE).render(table=table)


def latex_document(*tables: Table) -> str:
    """A whole document around the tables, to look at them or to see that they compile."""
    body = "\n".join(to_latex(table) for table in tables)
    return f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{body}\\end{{document}}\n"


def to_html(table: Table) -> str:
    """A <table> with its caption and notes, for a page or a notebook."""
    return _HTML.from_string(_HTML_TEMPLATE).render(table=table)


def html_document(title: str, *tables: Table) -> str:
    """A whole page of tables."""
    return _HTML.from_string(_DOCUMENT).render(title=title, tables=[Markup(to_html(table)) for table in tables])


def to_csv(table: Table) -> str:
    """The unrounded numbers, as many digits as it takes to read them back exactly."""
    return table.numbers.to_csv(index=False, lineterminator="\n")
