"""`d2rkit lab --present`: copies of their own, cut into slides, that running does not change."""

import json
import subprocess
import sys

import pytest

from d2rkit.cli import main, runs
from d2rkit.cli.presenting import PRESENTED, copies_to_present, presented, sections, slides, wording
from d2rkit.cli.working_copies import LEDGER, update
from d2rkit.core.paths import home


def text(source):
    return {"cell_type": "markdown", "id": "a", "metadata": {}, "source": source}


def code(source, **metadata):
    return {"cell_type": "code", "id": "b", "metadata": metadata, "source": source, "outputs": [], "execution_count": 1}


def types(cells):
    return [cell["metadata"]["slideshow"]["slide_type"] for cell in cells]


def notebook(folder, *cells):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "00.ipynb"
    file.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
    return file


def test_a_section_is_a_slide_and_what_has_nothing_to_show_is_left_out():
    cells = [
        text("# 00 · Title"), code("if 'google.colab' in sys.modules: pass"), text("## Setup\nSeeds."), code("S = 0"),
        text("## 1 · First\nWords."), code("panel = Panel()\npanel.widget"), text("### Within"), code("panel.static()"),
        code("panel.static(a=1)"), code("other.static()"), text("## 2 · Second"), code("panel.static()"),
    ]  # fmt: skip
    assert types(slides(cells)) == [
        "slide", "skip", "skip", "skip", "slide", "-", "-", "skip", "skip", "-", "slide", "-"
    ]  # fmt: skip
    assert all("slideshow" not in cell["metadata"] for cell in cells), "the kit's cells are left alone"


def test_a_cell_with_two_sections_becomes_two_with_ids_of_their_own():
    parts = sections(text("The end.\n\n## Before you go on\nQuiz\n\n## Limits\n- none"))
    assert [part["source"].split("\n")[0] for part in parts] == ["The end.", "## Before you go on", "## Limits"]
    assert len({part["id"] for part in parts}) == 3
    assert sections(code("## no heading\nx = 1\n## nor this")) == [code("## no heading\nx = 1\n## nor this")]


def test_code_is_folded_but_in_exercises():
    (cell,) = slides([code("x = 1", tags=["keep_output"])])
    assert cell["metadata"]["jupyter"] == {"source_hidden": True} and cell["metadata"]["tags"] == ["keep_output"]
    (cell,) = slides([code("x = 1")], code=True)
    assert "jupyter" not in cell["metadata"]


def test_every_notebook_of_the_kit_has_slides_and_stays_valid():
    nbformat = pytest.importorskip("nbformat")
    files = sorted(home("notebooks").glob("*.ipynb"))
    for file in files:
        made = nbformat.reads(presented(file).decode(), 4)
        nbformat.validate(made)
        headings = [cell.source.split("\n")[0] for cell in made.cells if cell.metadata.slideshow.slide_type == "slide"]
        assert headings[0].startswith("# ") and "## Limits" in headings and "## Setup" not in headings, file.name
        assert len(headings) >= 6 and all(h.startswith("#") for h in headings), file.name
    assert len(files) >= 14


def test_running_a_copy_changes_nothing_and_writing_in_it_does(tmp_path):
    kit, place = tmp_path / "kit", tmp_path / "presenting"
    file = notebook(kit, text("# T"), code("1 + 1"))
    assert copies_to_present(kit, place).new == ["00.ipynb"]
    copy = place / "00.ipynb"
    saved = json.loads(copy.read_text(encoding="utf-8"))
    saved["cells"][1] |= {"outputs": [{"output_type": "stream", "name": "stdout", "text": "2"}], "source": ["1 + 1"]}
    copy.write_text(json.dumps(saved), encoding="utf-8")  # as JupyterLab saves it after a run
    notebook(kit, text("# T, better"), code("1 + 1"))
    assert copies_to_present(kit, place).renewed == ["00.ipynb"]
    saved = json.loads(copy.read_text(encoding="utf-8"))
    assert saved["cells"][0]["source"] == "# T, better"
    saved["cells"][0]["source"] = "# T, as I say it"
    copy.write_text(json.dumps(saved), encoding="utf-8")
    notebook(kit, text("# T, best"), code("1 + 1"))
    assert copies_to_present(kit, place).kept == ["00.ipynb"] and "as I say it" in copy.read_text(encoding="utf-8")
    assert wording(b"\x89PNG") != wording(b"\x89PNG2") and file.exists()


def test_working_copies_are_left_alone(tmp_path):
    kit, mine = tmp_path / "kit", tmp_path / "mine"
    notebook(kit, text("# T"))
    update(kit, mine)
    before = (mine / "00.ipynb").read_bytes()
    with pytest.raises(ValueError, match="working copies, which --present leaves alone"):
        copies_to_present(kit, mine)
    assert (mine / "00.ipynb").read_bytes() == before and not (mine / PRESENTED).exists() and (mine / LEDGER).exists()


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Runs the command; what it would have started."""
    called = []
    monkeypatch.setattr(subprocess, "call", lambda words, env: called.append((words, env)) or 0)
    monkeypatch.setattr(runs, "find_spec", lambda name: True)
    monkeypatch.delenv("D2RKIT_ANSWERS", raising=False)

    def start(*options):
        monkeypatch.setattr(sys, "argv", ["d2rkit", "lab", "--present", *options])
        with pytest.raises(SystemExit):
            main()
        return called.pop()

    return start


def test_the_command_opens_the_slides_with_answers_of_their_own(started, tmp_path):
    words, environment = started("01_function_space.ipynb", "--folder", str(tmp_path / "talk"))
    assert str(tmp_path / "talk" / "01_function_space.ipynb") in words
    (option,) = (word for word in words if word.startswith("--LabApp.extra_labextensions_path="))
    (extension,) = (runs.PRESENTING / "labextensions").glob("*/package.json")
    assert option.endswith(str(extension.parents[1]))
    build = json.loads(extension.read_text(encoding="utf-8"))["jupyterlab"]["_build"]
    assert (extension.parent / build["load"]).is_file() and (extension.parent / "static" / "slides.css").is_file()
    places = environment["JUPYTER_CONFIG_PATH"].split(":")
    assert places[:2] == [str(runs.PRESENTING), str(runs.JUPYTER)], "no news in a popup here, either"
    assert environment["D2RKIT_ANSWERS"].startswith(str(tmp_path / "talk" / "answers"))
    assert float(environment["D2RKIT_SHARPER"]) > 1


def test_a_bad_sharpness_is_bad_input(started, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("D2RKIT_SHARPER", "large")
    with pytest.raises(IndexError):  # nothing was started
        started("--folder", str(tmp_path / "talk"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("d2rkit: D2RKIT_SHARPER must be a number")


def test_in_place_and_present_exclude_each_other(started, capsys):
    with pytest.raises(IndexError):  # nothing was started
        started("--in-place")
    assert "--present works on copies" in capsys.readouterr().err
