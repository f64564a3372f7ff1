"""The tables and figures in docs/ are those of the shipped results."""

import importlib.util
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
SCRIPT = PROJECT / "docs" / "refresh.py"


def refresh():
    spec = importlib.util.spec_from_file_location("refresh", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_have_what_the_results_give():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pages():
    return [file.read_text(encoding="utf-8") for file in sorted((PROJECT / "docs").glob("*.md"))]


def test_every_table_is_marked_once_and_a_typed_number_does_not_last():
    module = refresh()
    marks = [(page, mark) for page in pages() for mark in module.MARKED.finditer(page)]
    assert sorted(mark[2] for _, mark in marks) == sorted(module.TABLES)
    for page, mark in marks:
        row = mark[0].splitlines()[3]
        typed = page.replace(row, row.replace(".", ".9", 1))
        assert typed != page and module.refreshed(typed) == page


def test_every_kind_of_figure_is_used_and_a_typed_one_does_not_last():
    module = refresh()
    marks = [(page, mark) for page in pages() for mark in module.MARKED_FIGURE.finditer(page)]
    assert {mark[2] for _, mark in marks} == set(module.FIGURES) and len(marks) > 15
    for page, mark in marks:
        typed = page[: mark.start()] + f"{mark[1]}7.77{mark[4]}" + page[mark.end() :]
        assert typed != page and module.refreshed(typed) == page
    beside = "".join(module.MARKED_FIGURE.sub("", module.MARKED.sub("", page)) for page in pages())
    assert "<!-- / -->" not in beside and "results of" not in beside  # no mark is misspelt


def test_of_results_with_rows_to_be_run_those_that_were_run_are_shown():
    module = refresh()
    assert len(module.shipped("small")) > 2 and all("`" not in cell for row in module.medium() for cell in row)
