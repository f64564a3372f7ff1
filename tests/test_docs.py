"""The texts keep their promises: code blocks run, commands parse, targets, links and files exist."""

import doctest
import functools
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys

import nbformat
import pytest
import tyro

import d2rkit
from d2rkit.cli.base import app, without_plugins
from d2rkit.data.datasets import DATASETS
from d2rkit.experiments.presets import presets_of
from tests.conftest import SLOW
from tests.documents import DOCUMENTS, NOTEBOOKS, PROJECT, Piece, blocks, commands, spans, words_of

LANGUAGES = ("python", "sh", "text", "toml")
EXAMPLES = [block for file in DOCUMENTS for block in blocks(file.read_text(), str(file.relative_to(PROJECT)))]
PYTHON = [block for block in EXAMPLES if block.language == "python"]


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_every_code_block_says_its_language(file):
    text = file.read_text()
    assert text.count("\n```") == 2 * len(blocks(text, file.name)), "a fence is not closed"
    assert {block.language for block in blocks(text, file.name)} <= set(LANGUAGES)
    assert not re.search(r"\n\n    \S", text), "an indented block: fence it and name its language"


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.where)
def test_python_blocks_run_with_one_epoch_of_training(block, tmp_path):
    """As a file in a process of its own, in an empty folder, from which the exercises' page expects a folder of
    hand-ins; else as they stand."""
    (tmp_path / "handins").mkdir()
    shorter = re.sub(r"\bepochs=\d+", "epochs=1", block.text)
    (tmp_path / "block.py").write_text(shorter)
    done = subprocess.run([sys.executable, "block.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_there_are_python_blocks():
    assert {block.where for block in PYTHON} >= {"README.md", "notebooks/exercises/LECTURERS.md"}


def test_docstring_examples_run():
    tried = 0
    for module in pkgutil.walk_packages(d2rkit.__path__, "d2rkit."):
        if not module.name.endswith("__main__"):
            outcome = doctest.testmod(importlib.import_module(module.name), optionflags=doctest.ELLIPSIS)
            assert outcome.failed == 0
            tried += outcome.attempted
    outcome = doctest.testmod(d2rkit, optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0 and tried + outcome.attempted > 0


def complaint(command: str, capsys) -> str:
    """What the parser, or the table of names behind it, has against a `d2rkit …` line; nothing is started."""
    (_, name, *words), plugins = without_plugins(words_of(command))
    if name not in (known := {swapped.replace("_", "-"): s.target for swapped, s in app._subcommands.items()}):
        return f"no command {name!r}"
    function = known[name]

    @functools.wraps(function)
    def asked(*args, **options):
        return inspect.signature(function).bind(*args, **options).arguments

    try:
        given = tyro.cli(asked, prog=f"d2rkit {name}", args=words)
    except SystemExit as end:
        said = capsys.readouterr()
        return (said.out + said.err or f"exit code {end.code}") if end.code else ""
    if plugins:  # names may be theirs
        return ""
    try:
        if (preset := given.get("preset", "")).islower():
            for table in presets_of(preset):
                table.experiments([row for row in given.get("rows", ()) if row.islower()])
        if (data := given.get("name", given.get("data", ""))).islower() and data not in DATASETS:
            return f"no data set {data!r}"
        if "experiment" in given and "1" not in words:
            given["experiment"].check()
    except ValueError as error:
        return str(error)
    return ""


def test_every_d2rkit_line_parses(capsys):
    lines = commands("d2rkit")
    assert len(lines) > 30
    assert {"README.md", "d2rkit/experiments/presets.py"} <= {piece.where.split(":")[0] for piece in lines}
    assert [(piece.where, piece.text, words) for piece in lines if (words := complaint(piece.text, capsys))] == []


@pytest.mark.parametrize(
    "line",
    [
        "d2rkit retrain --method trades", "d2rkit reproduce quik", "d2rkit table quick --run x",
        "d2rkit train --method tradse", "d2rkit sweep quick --seeds many", "d2rkit data cifar11",
        "d2rkit reproduce quick --rows trade", "d2rkit pack quick",
    ],
)  # fmt: skip
def test_a_line_that_does_not_parse_is_seen(line, capsys):
    assert complaint(line, capsys)


def test_every_make_target_exists():
    there = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = {(piece.where, piece.text.split()[1]) for piece in commands("make")}
    assert {"demo", "test", "check", "lab", "help"} <= {target for _, target in named}
    assert [pair for pair in named if pair[1] not in there] == []


def test_every_benchmark_line_names_a_script_and_its_options():
    lines = commands("benchmarks/") + commands("python benchmarks/")
    for piece in lines:
        script, *words = piece.text.removeprefix("python ").split()
        source = (PROJECT / script).read_text()
        for word in words:
            assert not word.startswith("--") or f'"{word}"' in source or word[2:].replace("-", "_") in source, piece


def test_what_make_check_leaves_out_exists():
    assert [name for name in SLOW if not (PROJECT / "tests" / name).exists()] == []


LINK = re.compile(r"\]\(([^)\s#]+)[^)\s]*\)")
PATH = re.compile(r"(?:[\w.-]+/)*[\w.-]+\.(?:py|md|ipynb|toml|yml|cff|png|pt)|(?:[\w.-]+/)+[\w.-]*")
MADE = (
    "runs/", "results/", "tensorboard/", "accuracy/", "evaluation/", "val/images", "cache/", "handins/", ".venv/",
    "source/d2r/", "model.pt", "resume.pt", "table.md", "mine.py", "mine.toml", "presenting/",
)  # fmt: skip
"""What a text may name although no checkout has it: what the kit, or its user, makes."""
FRACTION = re.compile(r"\d+/\d+")


def missing(text: str, where: str) -> list[str]:
    """Links, pictures and paths in code spans that are not there, seen from the text's folder, the top or d2rkit/."""
    folders = [(PROJECT / where).parent, PROJECT, PROJECT / "d2rkit"]
    links = [link for link in LINK.findall(text) if not re.match(r"https?:|mailto:", link)]
    lost = [link for link in links if not (folders[0] / link).exists()]
    words = [word for span in spans(text, where) for word in span.text.split() if PATH.fullmatch(word)]
    words = [word for word in words if not word.startswith(MADE) and not FRACTION.fullmatch(word)]
    return lost + [word for word in words if not any((place / word).exists() for place in folders)]


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_every_file_that_is_named_exists(file):
    assert missing(file.read_text(), str(file.relative_to(PROJECT))) == []


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_links_of_notebooks_resolve(file):
    cells = nbformat.read(file, as_version=4).cells
    words = "\n".join(cell.source.replace("`", "") for cell in cells if cell.cell_type == "markdown")
    assert missing(words, str(file.relative_to(PROJECT))) == []


def test_a_file_that_is_missing_is_seen():
    text = "![x](no.png) [y](data/README.md) `d2rkit/nothing.py` `data/datasets.py` "
    text += "`benchmarks/step.py` `nowhere/` `8/255`"
    assert missing(text, "README.md") == ["no.png", "d2rkit/nothing.py", "nowhere/"]


def test_code_spans_that_call_the_library_are_right():
    """`build_model("wrn-34-10", 10, 32)` and the like, where every name is one of the kit's."""
    names = {name: getattr(d2rkit, name) for name in d2rkit.__all__}
    called = 0
    for file in DOCUMENTS:
        for piece in spans(file.read_text(), file.name):
            if re.fullmatch(r"(\w+)\(.*\)", piece.text) and piece.text.split("(")[0] in names:
                eval(piece.text, names)
                called += 1
    assert called


def test_pieces_are_found():
    text = "Say `a  b`.\n\n```sh\nmake demo    # builds\n```\n"
    assert blocks(text, "x") == [Piece("x", "make demo    # builds\n", "sh")]
    assert spans(text, "x") == [Piece("x", "a b")]
