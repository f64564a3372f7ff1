"""pack(), and the results that the project carries: each shipped table follows from its shipped runs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from d2rkit.core.files import read_json
from d2rkit.core.paths import PROJECT
from d2rkit.data.datasets import load_data
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.experiments.experiment import Experiment, build_pair, chosen_test, read_runs
from d2rkit.experiments.presets import get_preset
from d2rkit.experiments.run_files import read_flags
from d2rkit.experiments.run_folders import evaluation_folder
from d2rkit.networks.checkpoints import load_weights, rounded_from, save_weights
from d2rkit.reporting.pack import pack
from d2rkit.reporting.tables import write_table
from tests.conftest import make_pair
from tests.synthetic import preset, runs_of

SHIPPED = sorted(path.parent for path in (PROJECT / "data" / "results").glob("*/runs"))
CHECKPOINTS = sorted((PROJECT / "data" / "checkpoints").glob("*.json"))


def test_a_packed_table_is_the_table_and_nothing_is_replaced(tmp_path):
    here = preset()
    runs = runs_of(here, tmp_path / "runs")
    for run in runs:
        save_weights(run.folder / "best.safetensors", make_pair(len(run.experiment.method)).target, None)
        (run.folder / "resume.pt").write_bytes(b"large")
    files = pack(here, runs, tmp_path / "packed", tmp_path / "weights")
    write_table(here, runs, tmp_path / "table")
    for file in (tmp_path / "table").iterdir():
        assert (tmp_path / "packed" / file.name).read_bytes() == file.read_bytes()
    again = read_runs(tmp_path / "packed" / "runs")
    assert [r.result for r in again] == [r.result for r in read_runs(tmp_path / "runs")]
    assert not list((tmp_path / "packed").rglob("resume.pt"))
    trades = next(run.folder for run in runs if run.experiment.method == "trades")
    copy = tmp_path / "weights" / "tiny-trades.safetensors"
    assert copy.read_bytes() == (trades / "best.safetensors").read_bytes()
    assert read_json(tmp_path / "weights" / "tiny-trades.json")["method"] == "trades"
    assert all(file.exists() for file in files)
    pack(here, runs, tmp_path / "packed", tmp_path / "weights")  # the same again is no harm
    pack(here, runs, tmp_path / "packed", tmp_path / "half", half=True)
    pair = load_weights(tmp_path / "half" / "tiny-trades.safetensors", make_pair(guide=False))
    for name, value in load_weights(copy, make_pair(guide=False)).state_dict().items():
        torch.testing.assert_close(pair.state_dict()[name], value, rtol=2**-10, atol=1e-7)
    (runs[0].folder / "history.csv").write_text("epoch\n")
    with pytest.raises(ValueError, match=r"history\.csv is there with other content"):
        pack(here, runs, tmp_path / "packed")
    with pytest.raises(ValueError, match="no finished run of preset tiny"):
        pack(here, [], tmp_path / "packed")


def test_another_table_is_not_replaced(tmp_path):
    here = preset()
    runs = runs_of(here, tmp_path / "runs")
    pack(here, runs, tmp_path / "packed")
    before = {file: file.read_bytes() for file in (tmp_path / "packed").rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=r"table\.md is another table \(.*\); choose another folder"):
        pack(dataclasses.replace(here, title="Another"), runs, tmp_path / "packed")
    assert before == {file: file.read_bytes() for file in (tmp_path / "packed").rglob("*") if file.is_file()}


def test_weights_are_those_of_the_first_seed_whatever_its_number(tmp_path):
    here = preset(seeds=(5, 6))
    runs = runs_of(here, tmp_path / "runs")
    for run in runs:
        save_weights(run.folder / "best.safetensors", make_pair(run.experiment.seed).target, None)
    pack(here, runs, tmp_path / "packed", tmp_path / "weights")
    assert read_json(tmp_path / "weights" / "tiny-trades.json")["seed"] == 5


def test_results_are_shipped():
    assert "quick" in [folder.name for folder in SHIPPED]


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda p: p.name)
def test_every_shipped_table_follows_from_its_shipped_runs(tmp_path, folder: Path):
    files = write_table(get_preset(folder.name), read_runs(folder / "runs"), tmp_path)
    assert {f.name for f in files} <= {f.name for f in folder.iterdir()}
    for file in files:
        assert file.read_bytes() == (folder / file.name).read_bytes(), file.name


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda p: p.name)
def test_every_shipped_accuracy_is_that_of_its_flags(folder: Path):
    for run in read_runs(folder / "runs"):
        for attack, accuracy in run.result["accuracy"].get("best", {}).items():
            with np.load(run.folder / "evaluation" / f"{attack}.npz") as arrays:
                assert accuracy == pytest.approx(arrays["flags"].mean())


@pytest.mark.parametrize("file", CHECKPOINTS, ids=lambda p: p.stem)
def test_a_shipped_checkpoint_has_the_shipped_flags(file: Path, shared_data):
    experiment = Experiment.from_dict(read_json(file))
    data = load_data(experiment.data, shared_data, test_only=True)
    pair = load_weights(file.with_suffix(".safetensors"), build_pair(experiment, data))
    run = PROJECT / "data" / "results" / file.stem.split("-")[0] / "runs" / experiment.run_name
    folder = evaluation_folder(run, experiment.checkpoints[0])
    test = chosen_test(experiment, data)
    first = np.arange(200)
    result = evaluate(pair, test.take(first), ("clean", "fgsm"), experiment.radius, experiment.seed)
    rounded = rounded_from(file.with_suffix(".safetensors"))  # float16 turns the sign of a gradient here and there
    for attack, flags in result.flags.items():
        differing = int((flags.numpy() != read_flags(folder / f"{attack}.npz").flags[first]).sum())
        assert differing <= (2 if rounded and attack != "clean" else 0), (attack, differing)
