"""Every notebook runs clean, is committed without outputs, and links only to what exists."""

import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager

from tests.forked_kernel import ForkedKernels
from tests.notebooks.check_notebook import run_notebook
from tests.notebooks.try_it import HEADING, cells_that_try, names_in, snippets

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
BUDGET = 60  # seconds of CPU, one core
COLUMNS = 107  # what a cell shows without a scrollbar: JupyterLab, a window of 1280 pixels, the side bar open

every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)


@every_notebook
@pytest.mark.timeout(600)
def test_runs_clean_and_in_time(file):
    notebook = nbformat.read(file, as_version=4)
    kernels = AsyncKernelManager if file == NOTEBOOKS[0] else ForkedKernels  # one as users start it
    findings = run_notebook(notebook, file.parent, more=cells_that_try(notebook), kernels=kernels)
    assert findings.faults == []
    assert findings.seconds < BUDGET, f"{findings.seconds:.0f} s of CPU"


@every_notebook
def test_is_committed_clean(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, (
            f"cell {cell.id} has outputs: run nbstripout"
        )
    assert "widgets" not in notebook.metadata


@every_notebook
def test_code_is_read_without_a_scrollbar(file):
    cells = [cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    assert [line for source in cells for line in source.split("\n") if len(line) > COLUMNS] == []


@every_notebook
def test_links_resolve(file):
    notebook = nbformat.read(file, as_version=4)
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)\s]+)\)", words):
        if not re.match(r"(https?:|mailto:|#)", target):
            assert (file.parent / target.split("#")[0]).exists(), f"{file.name} links to {target}"


@every_notebook
def test_formulas_have_single_backslashes(file):
    r"""Two, as in `\\ell`, are a line break and the letters after it."""
    words = "\n".join(c.source for c in nbformat.read(file, as_version=4).cells if c.cell_type == "markdown")
    assert re.findall(r"\\\\[a-zA-Z;,]+", words) == []


@every_notebook
def test_keeps_the_house_rules(file):
    source = "\n".join(cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code")
    for banned in ("%matplotlib", "ipympl", "widgets.Output", "plt.show"):
        assert banned not in source, f"{banned} in {file.name}"
    assert '"google.colab" in sys.modules' in source


@every_notebook
def test_has_the_sections(file):
    words = "\n".join(c.source for c in nbformat.read(file, as_version=4).cells if c.cell_type == "markdown")
    assert words.startswith("# ")
    for section in ("What you will be able to", "## Setup", "## Try it yourself", "## Limits", "## References"):
        assert section in words, f"{file.name} lacks {section!r}"


@every_notebook
def test_asks_before_it_tells(file):
    """Three to six predictions, each revealed in a later cell than the one that asks; a quiz; sheet and glossary."""
    notebook = nbformat.read(file, as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    asked = {
        name: i for i, cell in enumerate(code) for name in re.findall(r"^(\w+) = Prediction\(", cell, re.MULTILINE)
    }
    assert 3 <= len(asked) <= 6
    for name, i in asked.items():
        assert code[i].rstrip().endswith(f"\n{name}"), f"{name} is not shown"
        later = [k for k, cell in enumerate(code) if f"{name}.reveal(" in cell]
        assert later and later[0] > i, f"{name} is not revealed after it was asked"
    assert f'quiz("{file.stem[:2]}")' in code
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "../docs/formulas.md" in words and "../docs/glossary.md" in words


@every_notebook
def test_no_answer_depends_on_where_the_sliders_were_left(file):
    """A reveal that reads a panel's present settings would store, and explain, what the student happened to leave."""
    for cell in nbformat.read(file, as_version=4).cells:
        if cell.cell_type == "code":
            assert ".settings" not in cell.source, "use panel.opening"
            assert not re.search(r"\.reveal\(.*\b(lab|panel|scatter|browser|explorer)\.data\b", cell.source, re.DOTALL)


def test_every_exercise_is_linked_from_a_notebook():
    words = "\n".join(c.source for f in NOTEBOOKS for c in nbformat.read(f, as_version=4).cells)
    exercises = sorted((PROJECT / "notebooks" / "exercises" / "student").glob("*.ipynb"))
    assert len(exercises) == 11
    assert [e.name for e in exercises if f"(exercises/student/{e.name})" not in words] == []


def test_what_there_is_to_try_is_found():
    snippets_of = {file.stem[:2]: snippets(nbformat.read(file, as_version=4)) for file in NOTEBOOKS}
    assert {number for number, code in snippets_of.items() if code} >= {"00", "05", "06", "07"}


def trying(words: str) -> nbformat.NotebookNode:
    notebook = made("x = 1", "y = 10 * x")
    notebook.cells.append(nbformat.v4.new_markdown_cell(f"{HEADING}\n\n{words}\n\n## Limits\n\n`1 / 0`"))
    return notebook


def test_what_is_tried_runs_from_the_line_that_it_replaces(tmp_path):
    notebook = trying("Set `x = 2`, look at `y + 1`, run `d2rkit lab`.")
    assert cells_that_try(notebook) == ["x = 2", "y = 10 * x", "y + 1"]
    findings = run_notebook(notebook, tmp_path, more=cells_that_try(notebook))
    assert findings.faults == [] and notebook.cells[-1].outputs[0].data["text/plain"] == "21"


@pytest.mark.parametrize(("words", "sign"), [("`f(x, )(`", "no Python"), ("`z = 2`", "does not have")])
def test_what_cannot_be_tried_is_refused(words, sign):
    with pytest.raises(ValueError, match=sign):
        cells_that_try(trying(words))


def test_a_snippet_that_raises_is_seen(tmp_path):
    notebook = trying("`x + y + undefined`")
    findings = run_notebook(notebook, tmp_path, more=cells_that_try(notebook))
    assert findings.faults == ["a cell raised NameError: name 'undefined' is not defined"]


# -- the checker itself: each of these must turn red ---------------------------------------------------------
def made(*cells: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])


RAISING_PANEL = """
from d2rkit.panels import Panel, Slider
def compute(x):
    if x > 1:
        raise ValueError("on purpose")
    from d2rkit.panels.base import figure
    return figure(2, 1)
panel = Panel("P", {"x": Slider("x", START, 0.0, 3.0, 0.5)}, compute, lambda f: f, lambda f: "fine")
panel.widget
"""


@pytest.mark.parametrize(
    ("cells", "sign"),
    [
        (("1 / 0",), "ZeroDivisionError"),
        ((RAISING_PANEL.replace("START", "2.0"),), "on purpose"),
        ((RAISING_PANEL.replace("START", "0.0"), "panel.controls['x'].main.value = 2.0"), "on purpose"),
        (("import sys; print('noise', file=sys.stderr)",), "stderr: noise"),
        (("import warnings; warnings.warn('beware')",), "beware"),
        (("import ipywidgets as w; o = w.Output(); o",), "Output widget"),
    ],
    ids=["cell", "panel at once", "panel after a move", "stderr", "warning", "output widget"],
)
def test_the_checker_turns_red(cells, sign, tmp_path):
    findings = run_notebook(made(*cells), tmp_path)
    assert findings.faults and sign in " ".join(findings.faults)


def test_the_checker_stays_green_on_a_sound_panel(tmp_path):
    findings = run_notebook(made(RAISING_PANEL.replace("START", "0.0")), tmp_path)
    assert findings.faults == [] and findings.widgets > 5 and findings.seconds > 0


@pytest.mark.parametrize(
    ("source", "used", "made"),
    [
        ("def f(x):\n    return a", "a", "f"),
        ("import numpy.linalg as la\nfrom m import n", "", "la n"),
        ("a += b", "a b", "a"),
        ("d[k] = 1", "d k", "d"),
        ("o.size = 1", "o", "o"),
        ("fill(d, into=e)", "fill d e", "d e"),
        ("o.part.add(1)", "o", "o"),
        ("%time\nx = y", "y", "x"),
    ],
)
def test_what_a_cell_uses_and_changes_is_known(source, used, made):
    names = names_in(source)
    assert set(used.split()) <= names[0] and set(made.split()) <= names[1]
