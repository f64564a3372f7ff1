"""Every HTML table of panels and exercises, from one function."""

from pathlib import Path

import d2rkit
from d2rkit.panels import base
from d2rkit.reporting.html_table import Html, Marked, html_table


def test_headers_lead_rows_and_columns_and_text_is_escaped():
    assert html_table(("", "a<b"), [("x&y", 1.5)], caption="its 'caption'") == (
        "<table><caption style='text-align:left'>its &#x27;caption&#x27;</caption>"
        "<thead><tr><td></td><th scope='col'>a&lt;b</th></tr></thead>"
        "<tbody><tr><th scope='row'>x&amp;y</th><td>1.5</td></tr></tbody></table>"
    )


def test_html_stays_columns_and_cells_have_attributes_and_totals_a_foot():
    rows = [("A", Html("<b>1</b>")), (Marked("B", "title='b'"), Marked(Html("<i>2</i>"), "id='two'"))]
    made = html_table((), rows, attributes="class='t'", columns=("", "class='n'"), foot=("all", "<3>"))
    assert made == (
        "<table class='t'><tbody><tr><th scope='row'>A</th><td class='n'><b>1</b></td></tr>"
        "<tr><th scope='row' title='b'>B</th><td class='n' id='two'><i>2</i></td></tr></tbody>"
        "<tfoot><tr><th scope='row'>all</th><td class='n'>&lt;3&gt;</td></tr></tfoot></table>"
    )


def test_panels_show_it_in_their_own_look():
    cell = "style='padding:0.1em 0.9em 0.1em 0;text-align:left'"
    assert base.table(("", "clean"), [("g", "98.0 %")], "") == (
        "<table style='line-height:1.4'><caption style='text-align:left'></caption>"
        f"<thead><tr><td {cell}></td><th scope='col' {cell}>clean</th></tr></thead>"
        f"<tbody><tr><th scope='row' {cell}>g</th><td {cell}>98.0 %</td></tr></tbody></table>"
    )


def test_nobody_else_writes_rows():
    room = Path(d2rkit.__file__).parent
    writers = {file.name for file in room.rglob("*.py") if "</tr>" in file.read_text() or "</td>" in file.read_text()}
    assert writers == {"html_table.py", "render.py"}
