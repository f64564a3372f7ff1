"""The tables in docs/ are those of the shipped results."""

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


def test_the_page_has_the_tables_that_the_results_give():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_table_is_marked_once_and_a_typed_number_does_not_last():
    module, page = refresh(), (PROJECT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert [found[2] for found in module.MARKED.finditer(page)] == list(module.TABLES)
    for found in module.MARKED.finditer(page):
        row = found[0].splitlines()[3]
        typed = page.replace(row, row.replace(".", ".9", 1))
        assert typed != page and module.refreshed(typed) == page


def test_of_results_with_rows_to_be_run_those_that_were_run_are_shown():
    module = refresh()
    assert len(module.shipped("small")) > 2 and all("`" not in cell for row in module.medium() for cell in row)
