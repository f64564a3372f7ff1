"""The kit outside a checkout: a real wheel, installed as a stranger would, used from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).parents[1]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
COMMANDS = (
    ["lab"],
    ["doctor"],
    ["table", "quick", "--runs", str(PROJECT / "data" / "results" / "quick" / "runs")],
    ["reproduce", "quick", "--help"],
)
DRIVER = """
import contextlib, io, json, sys
import d2rkit
from d2rkit.cli import main
from d2rkit.reporting.published import published

answers = {"file": d2rkit.__file__, "published": len(published())}
for words in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["d2rkit", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    answers[words[0]] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
print(json.dumps(answers))
"""

pytestmark = pytest.mark.timeout(600)


def call(*words, folder, **environment):
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("D2RKIT_")}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=clean | environment)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built without a network from a copy of what goes into it, so that no build/ appears in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(PROJECT / "d2rkit", source / "d2rkit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    built = call(*PIP, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(out), ".", folder=source)
    assert built.returncode == 0, built.stderr
    return next(out.glob("*.whl"))


def install(wheel: Path, how: str, place: Path, folder: Path) -> Path:
    """The folder of packages that pip made in `place`."""
    # Without --ignore-installed, --prefix would first remove the kit from the environment that these tests run in.
    options = ["--no-deps", "--no-index", "--ignore-installed", f"--{how}", str(place)]
    done = call(*PIP, "install", *options, str(wheel), folder=folder)
    assert done.returncode == 0, done.stderr
    return next(place.rglob("d2rkit/__init__.py")).parents[1]


def test_a_target_install_works_from_an_empty_folder(wheel, tmp_path):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "x"]):
        assert call("git", *words, folder=tmp_path).returncode == 0  # somebody else's repository
    empty = tmp_path / "empty"
    empty.mkdir()
    packages = install(wheel, "target", tmp_path / "place", empty)
    done = call(sys.executable, "-c", DRIVER, json.dumps(COMMANDS), folder=empty, PYTHONPATH=str(packages))
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert Path(answers["file"]).parent == packages / "d2rkit"
    assert (packages / "d2rkit" / "py.typed").exists(), (
        "the wheel lacks py.typed, so type checkers would not see the kit's types"
    )
    assert answers["published"] == len((PROJECT / "data" / "published.csv").read_text().splitlines()) - 1
    lab, doctor, table, reproduce = (answers[words[0]] for words in COMMANDS)
    assert lab["code"] == 2 and lab["err"].count("\n") == 1
    assert "a checkout of d2rkit has them" in lab["err"] and str(empty / "notebooks") in lab["err"]
    assert doctor["code"] == 0 and "digits: 1200 train" in doctor["out"]
    assert reproduce["code"] == 0 and "--dry-run" in reproduce["out"]
    assert table["code"] == 0, table["err"]
    made = empty / "results" / "quick"
    assert (made / "table.md").read_text() == (PROJECT / "data" / "results" / "quick" / "table.md").read_text()
    facts = [json.loads(file.read_text()) for file in made.rglob("*.json")]
    assert facts and all(fact["made_with"]["git_revision"] is None for fact in facts)


def test_the_command_of_a_prefix_install_finds_what_it_needs(wheel, tmp_path):
    packages = install(wheel, "prefix", tmp_path / "place", tmp_path)
    said = call(str(tmp_path / "place" / "bin" / "d2rkit"), "lab", folder=tmp_path, PYTHONPATH=str(packages))
    assert said.returncode == 2 and "a checkout of d2rkit has them" in said.stderr
    code = "from d2rkit.reporting import published; print(published.FILE, len(published.published()))"
    asked = call(sys.executable, "-c", code, folder=tmp_path, PYTHONPATH=str(packages))
    assert asked.stdout.startswith(str(packages)), asked.stderr


def test_these_tests_leave_the_kit_of_their_environment_installed(wheel, tmp_path):
    """Whose `d2rkit` a `make demo` after `make test` needs."""
    code = "from importlib.metadata import distributions; print(*sorted(str(each._path) for each in distributions()))"
    listed = [call(sys.executable, "-c", code, folder=tmp_path).stdout]
    for how in ("target", "prefix"):
        install(wheel, how, tmp_path / how, tmp_path)
        listed.append(call(sys.executable, "-c", code, folder=tmp_path).stdout)
    assert "torch" in listed[0] and listed[0] == listed[1] == listed[2]


COLAB = """
import importlib.util, sys, types
from IPython.core.interactiveshell import InteractiveShell

sys.modules["google.colab"] = types.ModuleType("google.colab")
result = InteractiveShell.instance().run_cell(sys.argv[1])
if result.error_in_exec:
    print(result.error_in_exec)
"""


def test_the_colab_cell_asks_for_the_copy_and_installs_it(wheel, tmp_path):
    pytest.importorskip("IPython")
    cells = {nbformat.read(file, as_version=4).cells[1].source for file in NOTEBOOKS}
    assert len(cells) == 1, "the notebooks' first cells differ"
    cell, place = cells.pop(), tmp_path / "place"
    settings = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_TARGET": str(place)}
    asked = call(sys.executable, "-c", COLAB, cell, folder=tmp_path, **settings)
    assert "set KIT in this cell" in asked.stdout and not place.exists()
    filled = cell.replace('KIT = ""', f'KIT = "{wheel}[lab]"')
    assert filled != cell
    done = call(sys.executable, "-c", COLAB, filled, folder=tmp_path, **settings)
    assert (place / "d2rkit" / "__init__.py").exists(), done.stdout + done.stderr
