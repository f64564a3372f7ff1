"""Rules of the house that only a look at its files can hold: length, parameters, and mutants that still bite."""

import ast
import tomllib
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


def parameters(function: ast.FunctionDef) -> tuple[int, int]:
    """How many a caller can give, and how many of them without a name."""
    words = function.args
    positional = [each.arg for each in (*words.posonlyargs, *words.args) if each.arg not in ("self", "cls")]
    return len(positional) + len(words.kwonlyargs), len(positional)


def test_functions_take_at_most_seven_parameters():
    """Free of it: commands (tyro makes options of them) and panels' compute (controls give each by its name);
    and what is public as long as everything behind the first seven is by name only."""
    too_many = []
    for file in MODULES:
        if file.parts[len(PROJECT.parts)] != "d2rkit":
            continue
        for function in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)):
            count, positional = parameters(function)
            is_command = any("app.command" in ast.unparse(each) for each in function.decorator_list)
            by_name = is_command or (file.parent.name == "panels" and function.name == "compute")
            private = function.name.startswith("_") and function.name != "__init__"
            if count > 7 and not by_name and (private or positional > 7):
                too_many.append(f"{file.relative_to(PROJECT)}: {function.name} has {count}")
    assert not too_many


def test_spelling_is_not_checked_in_what_the_kit_writes_into_a_checkout():
    ignored = [line.strip("/") for line in (PROJECT / ".gitignore").read_text().splitlines() if line.startswith("/")]
    skipped = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["codespell"]["skip"].split(",")
    assert {f"./{name}" for name in ignored if name != "data/*"} <= {*skipped}
