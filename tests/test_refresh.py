"""The marked tables and figures of README.md and docs/ are those of the shipped results."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import refresh
from from_results import results
from from_results.tables import medium

PROJECT = Path(__file__).parents[1]
SCRIPT = PROJECT / "docs" / "refresh.py"


def test_the_pages_have_what_the_results_give():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pages():
    return [file.read_text(encoding="utf-8") for file in refresh.PAGES]


def test_every_table_is_marked_once_and_a_typed_number_does_not_last():
    marks = [(page, mark) for page in pages() for mark in refresh.MARKED.finditer(page)]
    assert sorted(mark[2] for _, mark in marks) == sorted(refresh.TABLES)
    for page, mark in marks:
        row = mark[0].splitlines()[3]
        typed = page.replace(row, row.replace(".", ".9", 1))
        assert typed != page and refresh.refreshed(typed) == page


def test_every_kind_of_figure_is_used_and_a_typed_one_does_not_last():
    marks = [(page, mark) for page in pages() for mark in refresh.MARKED_FIGURE.finditer(page)]
    assert {mark[2] for _, mark in marks} == set(refresh.FIGURES) and len(marks) > 15
    for page, mark in marks:
        typed = page[: mark.start()] + f"{mark[1]}7.77{mark[4]}" + page[mark.end() :]
        assert typed != page and refresh.refreshed(typed) == page
    beside = "".join(refresh.MARKED_FIGURE.sub("", refresh.MARKED.sub("", page)) for page in pages())
    assert "<!-- / -->" not in beside and "results of" not in beside  # no mark is misspelt


def test_of_results_with_rows_to_be_run_those_that_were_run_are_shown():
    assert len(results.shipped("small")) > 2 and all("`" not in cell for row in medium() for cell in row)


@pytest.mark.parametrize(
    ("number", "changed", "shown"),
    [
        ('"median": 1.93, "min": 1.81', '"median": 1.93, "min": 1.71', "1.93 (1.81 to 2.22)"),
        ('"seconds_released": 0.022', '"seconds_released": 0.031', "0.022 s"),
        ('"median": 2.48 }', '"median": 2.58 }', "| 2.48 |"),
        ('"saved": 0.4247', '"saved": 0.5247', "-->42 %<!--"),
        ('"low": -0.024', '"low": -0.034', "-->−2.4<!--"),
    ],
)
def test_a_changed_measurement_changes_its_page(number, changed, shown, tmp_path, monkeypatch):
    page = (PROJECT / "docs" / "speed.md").read_text(encoding="utf-8")
    stored = (results.RESULTS / "speed.json").read_text(encoding="utf-8")
    assert stored.count(number) == 1 and page.count(shown) == 1
    (tmp_path / "speed.json").write_text(stored.replace(number, changed), encoding="utf-8")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert shown not in (now := refresh.refreshed(page)) and len(now.splitlines()) == len(page.splitlines())


def test_every_script_that_a_page_names_can_write_its_results():
    named = {script for page in pages() for script in re.findall(r"benchmarks/(\w+)\.py", page)}
    assert named >= {"step", "evaluate", "data", "growth", "precision", "attack_precision", "anytime"}
    for script in named - {"quick_recipe"}:  # which has --save, for its two CSV files
        assert "results.write(" in (PROJECT / "benchmarks" / f"{script}.py").read_text(encoding="utf-8")


def test_a_measurement_says_what_made_it():
    speed = json.loads((PROJECT / "data" / "results" / "speed.json").read_text(encoding="utf-8"))

    def lacking(part, known=()):
        if isinstance(part, list):
            return [each for entry in part for each in lacking(entry, known)]
        if not isinstance(part, dict):
            return [] if {"made_by", "hardware"} <= set(known) or isinstance(part, str) else [part]
        return [each for inner in part.values() for each in lacking(inner, (*known, *part))]

    assert "transcribed" in speed["note"].lower() and lacking(speed) == []
