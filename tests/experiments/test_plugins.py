"""A stranger's own loss, network, data set and table at every door of the kit."""

import json
import logging
import pickle
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import nn

import d2rkit
from d2rkit.exercises import check, report
from d2rkit.exercises.checking import Step
from d2rkit.experiments import plugins
from d2rkit.experiments.experiment import Experiment, read_config, read_runs
from d2rkit.experiments.own_presets import read_preset
from d2rkit.experiments.presets import get_preset
from d2rkit.experiments.slurm import Job
from d2rkit.methods.catalogue import METHODS
from d2rkit.methods.objectives import Logits
from d2rkit.networks.architectures import build_model
from d2rkit.panels.start_here import StartHere
from d2rkit.planning.synthetic import counts_of
from d2rkit.reporting.export import LOOKS, look
from tests.experiments.plugin_files import MINE, command, edited, forget

pytestmark = pytest.mark.usefixtures("as_before")


def test_a_stranger_fills_a_table_with_two_workers_and_an_edited_loss_is_another_row(files, monkeypatch, capsys):
    assert MINE.count("\n") <= 42
    line = "reproduce mine.toml --plugin mine.py --workers {} --runs runs --results results"
    command(monkeypatch, line.format(2))
    assert "Mine beside TRADES, on quarters: 2 runs" in capsys.readouterr().out
    (first,) = (files / "runs").glob("quarters-tiny-mine-s0-*")
    digests = json.loads((first / "result.json").read_text())["registered"]
    assert set(digests) == {"method mine", "network tiny", "data set quarters"}
    assert digests == read_config(first).registered == {key: plugins.REGISTERED[key].digest for key in digests}
    tables = {name: (files / "results" / f"table.{name}").read_text() for name in ("md", "tex", "html", "csv")}
    assert all("Mine" in text and "TRADES, here" in text for text in tables.values())
    assert "`d2rkit reproduce mine.toml --plugin mine.py`" in tables["md"]
    assert (files / "results" / "robustness-against-eps.pdf").stat().st_size > 1_000

    command(monkeypatch, f"verify {first} --plugin mine.py")
    assert "best: confirmed: Clean" in capsys.readouterr().out
    weights = f"{first}/best.safetensors --key target --network tiny --data quarters --attacks clean --no-masking"
    command(monkeypatch, f"evaluate {weights} --plugin mine.py --runs flags")
    assert "judged in IEEE float32 on 20 test images" in capsys.readouterr().out

    forget()  # the next command is another process
    edited(files, "weight=4.0", "weight=5.0")
    command(monkeypatch, line.format(0))
    runs = read_runs(files / "runs")
    mine = [r for r in runs if r.experiment.method == "mine"]
    assert len(runs) == 3 and len({r.experiment.registered["method mine"] for r in mine}) == 2
    for name in tables:
        rows = (files / "results" / f"table.{name}").read_text()
        assert all(rows.count(r.experiment.registered["method mine"][:6]) for r in mine), name
    figure = json.loads((files / "results" / "training-curves.json").read_text())
    assert {r.folder.name for r in runs} == set(figure["runs"])
    assert len(mine[0].history) == 1 and mine[0].history[0]["loss_pull"] > 0


def test_plan_tune_and_status_take_a_table_of_ones_own(files, monkeypatch, capsys):
    base = "mine.toml --plugin mine.py --runs runs"
    command(monkeypatch, f"status {base}")
    assert "the rest: d2rkit sweep mine.toml --runs runs --plugin mine.py" in capsys.readouterr().out
    command(monkeypatch, f"tune {base} --rates 0.1 --rows mine --subset 50 --epochs 1 --workers 1 --results r")
    assert "mine" in (files / "r" / "learning_rates.csv").read_text()
    command(monkeypatch, f"plan {base} --rows mine --steps 1 --workers 0")
    assert "reproduce mine.toml --rows mine" in capsys.readouterr().out
    assert get_preset("quarters-quick").command == "d2rkit reproduce quarters-quick --plugin mine.py"
    counts = counts_of(get_preset("quarters-quick").base)
    assert (counts.train, counts.val, counts.test) == (80, 20, 20)
    assert StartHere("quarters", "quarters-quick", "mine").experiment.method == "mine"


def test_a_registered_method_looks_like_no_other(files):
    d2rkit.load_plugin("mine.py")
    plugins.register_method("other", METHODS["mine"].objective, needs_guide=True, version="1")
    taken = [(each.marker, each.dashes) for each in LOOKS.values()]
    mine, other = look("mine"), look("other")
    assert mine.color not in {each.color for each in LOOKS.values()} and (mine.marker, mine.dashes) not in taken
    assert (mine.color, mine.marker, mine.dashes) != (other.color, other.marker, other.dashes)
    forget()
    assert look("mine").color not in {each.color for each in LOOKS.values()} and look("mine") == look("mine")


def test_a_worker_loads_the_file_that_an_experiment_brings_and_none_that_has_changed(files):
    d2rkit.load_plugin("mine.py")
    cell = read_preset("mine.toml").experiments()[0]
    sent = pickle.dumps(Job(cell, files, "cpu", None, 1))
    forget()
    received = pickle.loads(sent).experiment
    assert received == cell and received.check() is METHODS["mine"]
    forget()
    edited(files, "SHARE = 0.5", "SHARE = 0.6")
    received = pickle.loads(sent).experiment
    assert received == cell and "mine" not in METHODS
    with pytest.raises(ValueError, match=r"quarters comes from .*mine.py has changed since this run was asked"):
        received.check()


def test_a_file_is_run_again_only_if_it_has_changed_and_then_in_its_own_place(files):
    d2rkit.load_plugin("mine.py")
    first, build = METHODS["mine"], plugins.MODELS["tiny"]
    d2rkit.load_plugin(files / "mine.py")
    assert METHODS["mine"] is first
    edited(files, '@d2rkit.register_model("tiny")', '@d2rkit.register_model("small")')
    edited(files, 'target="tiny", guide="tiny"', 'target="small", guide="small"')
    d2rkit.load_plugin("mine.py")
    assert "tiny" not in plugins.MODELS and plugins.MODELS["small"] is not build
    assert isinstance(build_model("small", 2, 8, 1), nn.Sequential) and Experiment(method="mine").check()


def test_plugins_of_the_environment_and_of_packages(files, monkeypatch, caplog):
    monkeypatch.setenv(plugins.VARIABLE, "mine.py:gone.py")
    (files / "their_package.py").write_text(
        MINE.replace("mine", "theirs").replace("quarters", "their").replace('"tiny"', '"slim"')
    )
    (files / "broken_package.py").write_text("import d2rkit\nd2rkit.register_method('half', lambda: 0)")
    monkeypatch.syspath_prepend(str(files))
    points = [EntryPoint(n, f"{n}_package", plugins.GROUP) for n in ("their", "broken")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "d2rkit.plugins" else [])
    with caplog.at_level(logging.WARNING, "d2rkit"):
        plugins.load_installed()
    assert {"mine", "theirs"} <= METHODS.keys() and "half" not in METHODS
    assert "the plugin broken_package is left out: the objective of method 'half' fails" in caplog.text
    assert plugins.FAULTS == ["the plugin gone.py does not exist or is not a file"]
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "status quick")
    assert caught.value.code == 2


def test_load_data_does_not_change_the_arrays_that_a_loader_keeps(files):
    kept = torch.arange(640, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(10, 1, 8, 8)
    split = d2rkit.Split(kept, torch.arange(10) % 2)
    d2rkit.register_dataset("kept", lambda root: (split, split, ("a", "b"), "kept"))
    before = kept.clone()
    data = d2rkit.load_data("kept", subset=8)
    assert (len(data.train), len(data.val), len(data.test), data.num_classes) == (7, 1, 10, 2)
    d2rkit.load_data("kept")
    assert torch.equal(kept, before)


def test_an_exercise_of_ones_own_is_checked_and_reported():
    @d2rkit.register_exercise("double", title="Twice", reference=lambda x: 2 * x)
    def probe(solution):
        four = solution(2)
        yield Step("twice two", four == 4, str(four), "4", "add it to itself")

    assert check("double", lambda x: x + x) and not check("double", lambda x: x)
    assert "double" in report().exercises
    with pytest.raises(ValueError, match="the reference of exercise 'triple' does not pass"):
        d2rkit.register_exercise("triple", probe, reference=lambda x: 3 * x)


def test_the_public_names_are_all_there_and_say_what_they_do():
    for name in d2rkit.__all__:
        assert getattr(d2rkit, name).__doc__, name
    assert Logits.__doc__ and Path(d2rkit.__file__).exists()
