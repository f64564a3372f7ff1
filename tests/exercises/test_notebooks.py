"""The notebooks follow from their sources, run as students and lecturers run them, and say the friendly thing."""

import ast
import re
import shutil

import nbformat
import pytest

from d2rkit.exercises import NAMES, check, exercise
from d2rkit.exercises.build import BEGIN, END, FOLDER, STUBS, build, drift, main, outputs, without_solution
from d2rkit.exercises.checking import UNWRITTEN
from tests.forked_kernel import ForkedKernels

STEMS = [f"{number:02d}_{name}" for number, name in enumerate(NAMES, 1)]
SECONDS = 60  # for one notebook on a busy machine; alone it takes 5 to 15


def read(copy, stem):
    return nbformat.read(FOLDER / copy / f"{stem}.ipynb", as_version=4)


# ---- one source


def test_there_is_one_source_for_each_exercise_and_nothing_drifts():
    assert sorted(p.stem for p in (FOLDER / "source").glob("*.py")) == STEMS
    assert drift() == [] and main(["--check"]) == 0


def test_drift_is_seen(tmp_path):
    for part in ("source", "student", "solution"):
        (tmp_path / part).mkdir()
    shutil.copy(FOLDER / "source" / "01_kl.py", tmp_path / "source")
    assert drift(tmp_path) == ["student/01_kl.ipynb is missing", "solution/01_kl.ipynb is missing"]
    for path, text in outputs(tmp_path).items():
        path.write_text(text, encoding="utf-8")
    assert drift(tmp_path) == []
    file = tmp_path / "student" / "01_kl.ipynb"
    file.write_text(file.read_text(encoding="utf-8").replace("10 minutes", "11 minutes"), encoding="utf-8")
    (tmp_path / "solution" / "99_old.ipynb").write_text("{}")
    assert drift(tmp_path) == [
        "99_old.ipynb has no source",
        "student/01_kl.ipynb differs from what its source generates",
    ]


def test_building_twice_gives_the_same_bytes():
    source = FOLDER / "source" / "04_pgd.py"
    assert build(source) == build(source)


@pytest.mark.parametrize("text", [BEGIN, f"{BEGIN}\n{BEGIN}\n{END}", END, f"{BEGIN}\n{END}\n{END}"])
def test_broken_regions_are_refused(text):
    with pytest.raises(ValueError, match=r"a\.py"):
        without_solution(text, "code", "a.py")


def test_a_solution_outside_a_solution_cell_is_refused(tmp_path):
    source = tmp_path / "a.py"
    source.write_text(f"# %%\n{BEGIN}\nx = 1\n{END}\n")
    with pytest.raises(ValueError, match="header"):
        build(source)


# ---- what is in them


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("copy", ["student", "solution"])
def test_valid_clean_and_fit_for_nbgrader(copy, stem):
    notebook = read(copy, stem)
    nbformat.validate(notebook)
    ids, grade_ids = [cell.id for cell in notebook.cells], []
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert not cell.get("outputs") and not cell.get("execution_count")
        marks = cell.metadata.get("nbgrader")
        if marks:
            grade_ids.append(marks["grade_id"])
            assert set(marks) - {"points"} == {"grade", "grade_id", "locked", "schema_version", "solution", "task"}
            assert marks["schema_version"] == 3 and ("points" in marks) == marks["grade"]
    assert len(set(grade_ids)) == len(grade_ids)
    name = stem[3:]
    assert {f"{name}-solution", f"{name}-check", f"{name}-grade"} <= set(grade_ids)


@pytest.mark.parametrize("stem", STEMS)
def test_students_see_no_solution_and_everything_else(stem):
    student, solution = read("student", stem), read("solution", stem)
    text = "\n".join(cell.source for cell in student.cells)
    assert BEGIN not in text and END not in text and STUBS["code"].split("\n")[0] in text
    for theirs, ours in zip(student.cells, solution.cells, strict=True):
        assert theirs.id == ours.id and (theirs.source == ours.source) == (BEGIN not in ours.source)
    for heading in ("What you will be able to do", "**Time:**", "## Predict first", "## Check", "## Going further", "## References"):  # fmt: skip  # noqa: E501
        assert heading in text
    assert f"about {exercise(stem[3:]).minutes} minutes" in text
    references = text.split("## References")[1].split("##")[0]
    assert 2 <= references.count("\n- ") <= 4


@pytest.mark.parametrize("stem", STEMS)
def test_the_untouched_stub_of_the_notebook_is_not_yet_written(stem):
    """The stub that students get, not one made for this test, and only it raises."""
    source = "\n".join(c.source for c in read("student", stem).cells if c.metadata.get("nbgrader", {}).get("solution") and c.cell_type == "code")  # fmt: skip  # noqa: E501
    names = [node.name for node in ast.parse(source).body]
    space = {}
    exec(compile(source, f"<{stem}>", "exec"), space)
    functions = tuple(space[name] for name in names)
    result = check(stem[3:], functions if len(functions) > 1 else functions[0])
    assert result.status == UNWRITTEN, repr(result)
    with pytest.raises(NotImplementedError):
        functions[0](*[None] * functions[0].__code__.co_argcount)


# ---- run as they are run


@pytest.fixture(scope="session")
def ran(tmp_path_factory):
    """All twenty, each in a folder of its own. Starting a kernel takes longer than most of them, so that the students'
    share one and the solutions another, and each notebook begins without any names of the last."""
    from nbclient import NotebookClient

    run = {}
    for copy in ("student", "solution"):
        notebooks = [read(copy, stem) for stem in STEMS]
        folders = [tmp_path_factory.mktemp(f"{copy}-{stem}", numbered=False) for stem in STEMS]
        cells = []
        for notebook, folder in zip(notebooks, folders, strict=True):
            cells += [nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {folder}"), *notebook.cells]
        together = nbformat.v4.new_notebook(metadata=notebooks[0].metadata, cells=cells)
        NotebookClient(
            together, timeout=SECONDS, allow_errors=True, kernel_manager_class=ForkedKernels
        ).execute()  # fills in the notebooks' own cells
        for stem, notebook, folder in zip(STEMS, notebooks, folders, strict=True):
            run[copy, stem] = notebook, folder
    return run


def outputs_of(notebook):
    return [(cell, output) for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stem", STEMS)
def test_student_notebooks_stop_only_where_work_is_asked(ran, stem):
    notebook, folder = ran["student", stem]
    errors = [(cell, output) for cell, output in outputs_of(notebook) if output.output_type == "error"]
    assert [output.ename for _, output in errors] == ["NotImplementedError"]
    cell, error = errors[0]
    assert cell.source == "result.require()" and len(error.traceback) == 1  # one friendly line at the very end
    shown = "\n".join(str(output.get("data", "")) for _, output in outputs_of(notebook))
    assert "not yet written" in shown
    assert not [output for _, output in outputs_of(notebook) if output.get("name") == "stderr"]
    assert (folder / "handin.json").exists()


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stem", STEMS)
def test_solution_notebooks_run_without_error_or_noise(ran, stem):
    notebook, _ = ran["solution", stem]
    noise = [o for _, o in outputs_of(notebook) if o.output_type == "error" or o.get("name") == "stderr"]
    assert noise == []
    shown = "\n".join(str(output.get("data", "")) for _, output in outputs_of(notebook))
    assert re.search(rf"✔ {stem[3:]}: passed", shown)


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_what_comes_after_the_check_agrees_with_a_correct_student(ran):
    """Wherever a solved notebook puts the student's numbers beside the kit's, they are the same."""
    notebooks = {}
    for stem in STEMS:
        notebook, _ = ran["solution", stem]
        printed = "".join(output.get("text", "") for _, output in outputs_of(notebook))
        notebooks[stem] = re.findall(r"yours\s+(\S+)\s+the kit's\s+(\S+)", printed)
    assert len(notebooks["06_d2r_loss"]) == 4
    assert [(stem, pair) for stem, pairs in notebooks.items() for pair in pairs if pair[0] != pair[1]] == []
