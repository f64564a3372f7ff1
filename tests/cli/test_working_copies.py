"""`d2rkit lab` works on copies: the kit's files stay clean, the user's work is never overwritten."""

import json
import subprocess
import sys

import pytest

from d2rkit.cli import main, runs
from d2rkit.cli.working_copies import LEDGER, update


@pytest.fixture
def kit(tmp_path):
    folder = tmp_path / "kit"
    (folder / "exercises" / "source").mkdir(parents=True)
    (folder / "00.ipynb").write_text("one")
    (folder / "exercises" / "01.ipynb").write_text("two")
    (folder / "exercises" / "source" / "01.py").write_text("for lecturers")
    (folder / "ruff.toml").write_text("for the kit's own linter")
    (folder / "exercises" / "solution").mkdir()
    (folder / "exercises" / "solution" / "01.ipynb").write_text("solved")
    (folder / "exercises" / "LECTURERS.md").write_text("for lecturers")
    return folder


def test_copies_are_made_once_and_follow_the_kit_until_they_are_changed(kit, tmp_path):
    mine = tmp_path / "mine"
    assert update(kit, mine).new == ["00.ipynb", "exercises/01.ipynb"]
    assert not (mine / "exercises" / "source").exists() and not (mine / "exercises" / "solution").exists()
    assert vars(update(kit, mine)) == {"new": [], "renewed": [], "kept": []}
    (mine / "exercises" / "01.ipynb").write_text("my work")
    (kit / "00.ipynb").write_text("one, better")
    (kit / "exercises" / "01.ipynb").write_text("two, better")
    done = update(kit, mine)
    assert done.renewed == ["00.ipynb"] and done.kept == ["exercises/01.ipynb"]
    assert (mine / "00.ipynb").read_text() == "one, better"
    assert (mine / "exercises" / "01.ipynb").read_text() == "my work"
    assert update(kit, mine).kept == ["exercises/01.ipynb"], "it is said every time"


def test_a_deleted_copy_stays_away_until_the_kit_has_another(kit, tmp_path):
    mine = tmp_path / "mine"
    update(kit, mine)
    (mine / "00.ipynb").unlink()
    update(kit, mine)
    assert not (mine / "00.ipynb").exists()


@pytest.mark.parametrize("broken", ["", "[1]", "{"])
def test_a_broken_ledger_costs_no_work(kit, tmp_path, broken):
    mine = tmp_path / "mine"
    update(kit, mine)
    (mine / "00.ipynb").write_text("my work")
    (mine / LEDGER).write_text(broken)
    (kit / "00.ipynb").write_text("one, better")
    assert update(kit, mine).kept == ["00.ipynb"] and (mine / "00.ipynb").read_text() == "my work"


def test_lab_opens_the_copy_with_the_settings_of_the_kit(monkeypatch, tmp_path, capsys):
    called = []
    monkeypatch.setattr(subprocess, "call", lambda words, env: called.append((words, env)) or 0)
    monkeypatch.setattr(runs, "find_spec", lambda name: True)
    monkeypatch.setattr(sys, "argv", ["d2rkit", "lab", "01_function_space.ipynb", "--folder", str(tmp_path / "mine")])
    with pytest.raises(SystemExit):
        main()
    words, environment = called[0]
    copy = tmp_path / "mine" / "01_function_space.ipynb"
    assert str(copy) in words and copy.exists() and f"--notebook-dir={tmp_path}" in words
    assert environment["JUPYTER_CONFIG_PATH"].split(":")[0] == str(runs.JUPYTER)
    assert "Your notebooks are in" in capsys.readouterr().out


def saved(content):
    """`content` as JupyterLab's server would save it."""
    config = {"c": type("Config", (), {"FileContentsManager": type("Manager", (), {})})}
    exec((runs.JUPYTER / "jupyter_server_config.py").read_text(), config)
    config["c"].FileContentsManager.__dict__["pre_save_hook"](model={"type": "notebook", "content": content}, path="x")
    return content


@pytest.mark.parametrize("kept", [False, True])
def test_a_saved_panel_leaves_words(kept):
    view, state = (f"application/vnd.jupyter.widget-{part}+json" for part in ("view", "state"))
    cell = {"outputs": [{"data": {view: {"model_id": "1"}, "text/plain": "a panel"}}, {"name": "stdout", "text": "x"}]}
    metadata = {"widgets": {state: {}}} if kept else {}
    outputs = saved({"metadata": metadata, "cells": [cell, {"cell_type": "markdown"}]})["cells"][0]["outputs"]
    assert (view in outputs[0]["data"]) == kept, "a widget whose state is saved can be shown again"
    assert outputs[0]["data"]["text/plain"] == "a panel"


def test_no_news_pop_up():
    settings = json.loads((runs.JUPYTER / "labconfig" / "page_config.json").read_text())
    assert settings["disabledExtensions"] == {"@jupyterlab/apputils-extension:announcements": True}
