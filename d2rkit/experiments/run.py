"""run(): an experiment becomes a run folder.

    Experiment -> load_data -> GuidedPair -> fit -> checkpoint -> evaluate -> run folder

The folder is named by a hash of the experiment, so the same experiment finds its own folder, goes on if
it is unfinished and is not repeated if it is done. Nothing here deletes or overwrites a finished run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from d2rkit.core import devices
from d2rkit.core.files import clear_drafts, write_json
from d2rkit.core.paths import home
from d2rkit.core.processes import launch
from d2rkit.data.datasets import ImageData, load_data
from d2rkit.experiments import plugins
from d2rkit.experiments.experiment import Experiment, Run, build_pair, check_same, chosen_test, machine, read_run
from d2rkit.experiments.plugin_checks import try_out
from d2rkit.experiments.run_evaluation import evaluate_checkpoint
from d2rkit.experiments.run_files import FORMAT
from d2rkit.experiments.run_locks import lock, watching
from d2rkit.experiments.trackers import tracking
from d2rkit.networks.checkpoints import load_resume, load_weights
from d2rkit.training.loop import Report, fit

log = logging.getLogger("d2rkit")


class Interrupted(Exception):
    """A run was asked to stop; its state is saved."""


def run(
    experiment: Experiment,
    root: str | Path | None = None,
    *,
    device: str = "auto",
    count: int = 1,
    data_root: str | Path | None = None,
    report: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Run:
    """Train and evaluate, or go on, or just read the result if it is there.

    root: where run folders lie (default: $D2RKIT_RUNS, else `runs/`). count: of devices (GPUs, or processes on a
    CPU) that share the work. Raises ValueError for impossible settings, Interrupted when asked to stop (the state
    is saved), Busy if another process has this run."""
    experiment.check()
    devices.check_count(count, device, experiment.batch_size)
    folder = (Path(root) if root is not None else home("runs")) / experiment.run_name
    if (folder / "result.json").exists():
        return _finished(folder, experiment)
    data = load_data(experiment.data, data_root, experiment.subset or None)
    chosen_test(experiment, data)  # nothing is written if it cannot be
    if experiment.registered:
        try_out(experiment, build_pair(experiment, data), data)
        if count > 1:
            plugins.travelling(experiment.registered)
    _claim_config(folder, experiment)
    with lock(folder):
        if (folder / "result.json").exists():
            return _finished(folder, experiment)
        clear_drafts(folder)
        _set_aside_remains(folder, experiment)
        if count == 1:
            _work(experiment, folder, device, data, report=report, should_stop=should_stop)
        else:  # each process reads the images itself: sent to it, they would have to lie in /dev/shm
            del data
            arguments = (experiment, folder, device, data_root)
            launch(count, _work_with_others, arguments, report=report, should_stop=should_stop)
    return read_run(folder)


def _work_with_others(experiment: Experiment, folder: Path, device: str, data_root, **how) -> None:
    _work(experiment, folder, device, load_data(experiment.data, data_root, experiment.subset or None), **how)


def _work(
    experiment: Experiment,
    folder: Path,
    device: str,
    data: ImageData,
    *,
    report: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """The run itself, up to result.json, by this process or by each of a group."""

    def part(low: float, high: float) -> Report:
        def inner(done: float, words: str) -> None:
            if report:
                report(low + (high - low) * done, words)
            if stop():
                raise Interrupted(str(folder))

        return inner

    stop = watching(folder, should_stop)

    pair, test = build_pair(experiment, data), chosen_test(experiment, data)
    # fit() saves its state when asked to stop, so inside it the question is its own.
    with tracking(folder, devices.rank() == 0) as trackers:
        trained = fit(
            pair, data, experiment, folder, device=device, report=report and _scaled(report, 0.5),
            on_epoch=trackers.on_epoch, should_stop=stop,
        )  # fmt: skip
    if trained.status == "interrupted":
        raise Interrupted(str(folder))
    stop()
    result = {
        "format": FORMAT,
        "status": trained.status,
        "epochs": len(trained.history),
        "train_seconds": round(sum(row["seconds"] for row in trained.history), 2),
        "n_test": len(test),
        "data_source": data.source,
        "machine": machine(device),
        "versions": {name: version(name) for name in ("torch", "pyautoattack", "numpy")},
        "accuracy": {},
    }
    if experiment.registered:
        result["registered"] = dict(experiment.registered)
    if devices.size() > 1:
        result["devices"] = devices.size()
    began = time.monotonic()
    if not trained.status.startswith("failed") and experiment.attacks:
        result["judged_in"] = "IEEE float32"
        for number, checkpoint in enumerate(experiment.checkpoints):
            share = 0.5 / len(experiment.checkpoints)
            pair = load_weights(folder / f"{checkpoint}.safetensors", pair)
            evaluation = evaluate_checkpoint(
                experiment, pair, test, checkpoint, folder=folder, shared=devices.size() > 1,
                report=part(0.5 + number * share, 0.5 + (number + 1) * share),
            )  # fmt: skip
            _take_over(result, checkpoint, evaluation)
    result["evaluation_seconds"] = round(time.monotonic() - began, 2)
    stop()  # a folder that has vanished gets no result
    if devices.rank() == 0:
        write_json(folder / "result.json", result)
        with tracking(folder) as trackers:
            trackers.on_result(result)


def _take_over(result: dict[str, Any], checkpoint: str, evaluation: dict[str, Any]) -> None:
    """Put what evaluate_checkpoint() found of a checkpoint into result.json's entries."""
    for name in ("accuracy", "weights", "notes", "autoattack_warnings"):
        if value := evaluation.pop(name):
            result.setdefault(name, {})[checkpoint] = value
    result.update(evaluation)


def _scaled(report: Report, share: float) -> Report:
    return lambda done, words: report(done * share, words)


def _finished(folder: Path, experiment: Experiment) -> Run:
    """The run that was asked for, never another one that lies in its place."""
    check_same(folder, experiment)
    return read_run(folder)


def _claim_config(folder: Path, experiment: Experiment) -> None:
    """Write config.json, or make sure that the one there says the same."""
    if not (folder / "config.json").exists():
        write_json(folder / "config.json", experiment.to_dict())
    check_same(folder, experiment)


def _set_aside_remains(folder: Path, experiment: Experiment) -> None:
    """A state whose weights are gone (its folder vanished while a run worked in it, and came back with what was saved
    after that) cannot be finished: it is renamed, and the run begins anew."""
    state = folder / "resume.pt"
    gone = [name for name in ("best", "last") if not (folder / f"{name}.safetensors").exists()]
    if not gone or not state.exists():
        return
    epoch = load_resume(state).get("epoch", 0)
    if epoch > (experiment.guide_warmup if gone == ["best"] else 0):
        state.replace(folder / "resume.incomplete.pt")
        log.warning("%s has a state but no %s.safetensors: the run begins anew", folder, gone[0])
