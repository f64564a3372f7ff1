"""Rules of the house that only a look at its files can hold: length, parameters, and mutants that still bite."""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
MODULES = sorted(file for room in ("d2rkit", "tests", "benchmarks") for file in (PROJECT / room).rglob("*.py"))


def test_no_file_is_longer_than_350_lines():
    lengths = {str(file.relative_to(PROJECT)): len(file.read_text().splitlines()) for file in MODULES}
    assert len(lengths) > 200 and not {name: length for name, length in lengths.items() if length > 350}


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "tests"))
    from mutant_evaluation import EVALUATION
    from mutant_family import FAMILY
    from mutant_list import MUTANTS

    return MUTANTS + EVALUATION + FAMILY


def test_every_mutant_has_its_line_and_its_tests(mutants):
    """Without running them: the text to break is there exactly once, and so are the tests that must notice."""
    tests = {}
    for file in {node.split("::")[0] for mutant in mutants for node in mutant.tests}:
        tree = ast.parse((PROJECT / file).read_text())
        tests[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    stale = [
        mutant.name
        for mutant in mutants
        if (PROJECT / mutant.file).read_text().count(mutant.old) != 1
        or any(node.split("::")[1].split("[")[0] not in tests[node.split("::")[0]] for node in mutant.tests)
    ]
    assert len(mutants) > 100 and not stale
