"""Trackers hold what history.csv holds, read back by their own readers; nothing is imported unless it is asked for."""

import math
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from d2rkit.cli import main
from d2rkit.cli.base import Place, log_to
from d2rkit.experiments import trackers
from d2rkit.experiments.experiment import Experiment
from d2rkit.experiments.run import Interrupted, run
from d2rkit.experiments.sweep import sweep
from d2rkit.experiments.trackers import ASKED, TRACKERS, MLflow, TensorBoard, Trackers, ask
from d2rkit.training.history import read_history, write_history
from d2rkit.training.loop import fit
from tests.conftest import make_pair

NEEDED = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
INSTALLED = [name for name in TRACKERS if all(map(find_spec, NEEDED[name]))]
ROWS = [
    {"epoch": 1, "lr": 0.1, "loss": 1 / 3, "val_pgd": float("nan"), "seconds": 0.25},
    {"epoch": 2, "lr": 0.01, "loss": 0.2, "val_pgd": 0.125, "moved": 1, "seconds": 0.5},
    {"epoch": 3, "lr": 0.001, "loss": 1e-7, "val_pgd": 0.5, "seconds": 0.75},
]
EXPERIMENT = Experiment(
    data="digits", method="trades", target="cnn-4", guide="", epochs=2, batch_size=200, subset="400", eps=0.2,
    step_size=0.05, steps=1, padding=0, flip=False, val_steps=1, attacks=("clean",),
)  # fmt: skip


@pytest.fixture(params=TRACKERS)
def name(request, monkeypatch):
    if request.param not in INSTALLED:
        pytest.skip(f"the extra {request.param} is not installed")
    return request.param


@pytest.fixture
def asked(name, monkeypatch):
    monkeypatch.setenv(ASKED, name)
    return name


def read_back(name: str, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar, by the tracker's own reader."""
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray

        events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0}).Reload()
        return {
            tag: [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
            for tag in events.Tags()["tensors"]
        }
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (logged_run,) = client.search_runs([client.get_experiment_by_name("d2rkit").experiment_id])
    return {
        tag: sorted((metric.step, metric.value) for metric in client.get_metric_history(logged_run.info.run_id, tag))
        for tag in logged_run.data.metrics
    }


def columns(rows):
    """The same of a history."""
    values = {name: [] for row in rows for name in row}
    for row in rows:
        for name, value in row.items():
            if not math.isnan(value):
                values[name].append((int(row["epoch"]), value))
    return {name: pairs for name, pairs in values.items() if pairs}


def test_rows_are_read_back_to_the_last_bit(name, tmp_path):
    tracker = TRACKERS[name](tmp_path)
    for row in ROWS:
        tracker.on_epoch(row)
    tracker.on_result({"accuracy": {"best": {"pgd20": 0.1}}, "status": "done"})
    tracker.close()
    assert read_back(name, tmp_path) == columns(ROWS) | {"accuracy/best/pgd20": [(3, 0.1)]}


def test_opened_again_it_goes_on_with_what_it_missed_and_repeats_nothing(name, tmp_path):
    """A process may die between the history and the tracker, or know of the tracker only later."""
    write_history(tmp_path / "history.csv", ROWS)
    for told in ((0,), (0, 2), (2,)):  # the second epoch is told by nobody, others twice
        again = Trackers((name, name), tmp_path)
        for number in told:
            again.on_epoch(ROWS[number])
        again.close()
    assert read_back(name, tmp_path) == columns(ROWS)


def test_a_run_that_was_interrupted_and_goes_on(asked, tmp_path):
    history = tmp_path / EXPERIMENT.run_name / "history.csv"
    with pytest.raises(Interrupted):
        run(EXPERIMENT, tmp_path, device="cpu", should_stop=history.exists)
    done = run(EXPERIMENT, tmp_path, device="cpu")
    rows = read_history(history)
    logged = read_back(asked, done.folder)
    accuracy = logged.pop("accuracy/best/clean")
    assert len(rows) == 2 and logged == columns(rows)
    assert accuracy == [(2, done.result["accuracy"]["best"]["clean"])]
    run(EXPERIMENT, tmp_path, device="cpu")  # is done: nothing is told again
    assert read_back(asked, done.folder).keys() == logged.keys() | {"accuracy/best/clean"}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["tensorboard", "mlflow"], indirect=True)
def test_workers_of_a_sweep_log_into_their_runs_own_folders(asked, spawned, tmp_path):
    runs = [replace(EXPERIMENT, seed=seed, epochs=1) for seed in (0, 1)]
    assert {outcome.status for outcome in sweep(runs, tmp_path, workers=1, device="cpu", quiet=True)} == {"done"}
    for experiment in runs:
        logged = read_back(asked, tmp_path / experiment.run_name)
        assert logged.items() >= columns(read_history(tmp_path / experiment.run_name / "history.csv")).items()


def test_fit_tells_a_tracker_of_ones_own(name, few_digits, tmp_path):
    tracker = TRACKERS[name](tmp_path)
    trained = fit(make_pair(), few_digits, EXPERIMENT, tmp_path, device="cpu", on_epoch=tracker.on_epoch)
    tracker.close()
    assert read_back(name, tmp_path) == columns(trained.history) == columns(read_history(tmp_path / "history.csv"))


def test_without_being_asked_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv(ASKED, raising=False)
    done = run(EXPERIMENT, tmp_path, device="cpu")
    assert not {path.name for path in done.folder.iterdir()} & {"tensorboard", "mlflow", "mlflow.db"}


def test_trackers_are_imported_only_when_asked_for():
    code = "import sys, d2rkit.cli; from d2rkit.experiments.trackers import TRACKERS as t; print({*t} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("missing", TRACKERS)
@pytest.mark.parametrize("line", ["train", "sweep quick", "reproduce quick"])
def test_without_the_extra_one_sentence_says_what_to_install(missing, line, tmp_path, monkeypatch, capsys):
    for module in ("tensorboard", "torch.utils.tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delenv(ASKED, raising=False)
    monkeypatch.setattr(sys, "argv", ["d2rkit", *line.split(), "--log", missing, "--runs", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and f"pip install 'd2rkit[{missing}]'" in said
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"pip install 'd2rkit\["):
        TRACKERS[missing](tmp_path)


def test_a_run_that_is_finished_is_not_logged_and_that_is_said(tmp_path, monkeypatch, capsys):
    done, logged, unfinished = (tmp_path / name for name in ("done", "logged", "unfinished"))
    for folder in (done, logged, unfinished):
        folder.mkdir()
        if folder != unfinished:
            (folder / "result.json").touch()
    (logged / "tensorboard").mkdir()
    said = trackers.too_late(("tensorboard",), (done, logged, unfinished))
    assert said == "1 finished before, without tensorboard: not logged; history.csv has what would be"
    assert "2 finished before, without tensorboard and mlflow" in trackers.too_late(TRACKERS, (done, logged))
    assert trackers.too_late(("tensorboard",), (logged,)) == trackers.too_late((), (done,)) == ""
    finished = run(EXPERIMENT, tmp_path)
    monkeypatch.setenv(ASKED, "")
    monkeypatch.setattr(trackers, "_importable", lambda name: None)
    log_to(("mlflow",), [finished.experiment], Place(runs=str(tmp_path)))
    assert capsys.readouterr().err.startswith("d2rkit: 1 finished before, without mlflow")


@pytest.mark.parametrize("name", INSTALLED)
def test_what_a_tracker_writes_lies_where_it_is_looked_for(name, tmp_path):
    tracker = TRACKERS[name](tmp_path)
    tracker.on_epoch(ROWS[0])
    tracker.close()
    assert (tmp_path / trackers.PLACES[name]).exists()


def test_unknown_trackers_are_refused_by_name():
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord'"):
        ask(("tensorbord",))


def test_asking_reaches_processes_that_are_started_later(monkeypatch):
    monkeypatch.setenv(ASKED, "")
    monkeypatch.setattr(trackers, "_importable", lambda name: None)
    ask(())
    assert trackers.os.environ[ASKED] == ""
    ask(("tensorboard", "mlflow", "tensorboard"))
    code = f"import os; print(os.environ[{ASKED!r}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "tensorboard,mlflow\n"


def test_one_process_of_a_group_writes(tmp_path, monkeypatch):
    monkeypatch.setenv(ASKED, "tensorboard")
    with trackers.tracking(tmp_path, first=False) as tracker:
        assert tracker.each == []
        tracker.on_epoch(ROWS[0])
    assert list(tmp_path.iterdir()) == [] and {TensorBoard, MLflow} == set(TRACKERS.values())


@pytest.mark.skipif("tensorboard" not in INSTALLED, reason="the extra tensorboard is not installed")
def test_what_was_told_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A process that is killed while it writes leaves the number before, which the next one can read."""
    tracker = TensorBoard(tmp_path)
    tracker.on_epoch(ROWS[0])
    real = Path.write_text

    def cut(file, text, *args, **kwargs):
        real(file, "", *args, **kwargs)
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(OSError, match="no space"):
        tracker.on_epoch(ROWS[1])
    tracker.close()
    assert TensorBoard(tmp_path).last == 1
