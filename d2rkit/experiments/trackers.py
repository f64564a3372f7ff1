"""Trackers: what history.csv holds, told to TensorBoard or MLflow as well, epoch by epoch.

history.csv is always written, with or without a tracker. A tracker lies in the run's own folder and needs no server
and no network. On a run that goes on it is first told the epochs that it has missed: it ends up with those of
history.csv, whatever happened in between. Its package is imported when it is asked for and not before.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d2rkit.core.validation import check_choice
from d2rkit.training.history import read_history

ASKED = "D2RKIT_LOG"  # names, with commas between them: worker processes and jobs inherit it


# What each imports; alembic and sqlalchemy are what the small mlflow lacks for an SQLite file.
PACKAGES = {"tensorboard": ("torch.utils.tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}


def _importable(name: str) -> None:
    """ValueError, in one sentence, unless what this tracker needs is installed."""
    try:
        for package in PACKAGES[name]:
            importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"to log to {name}, it has to be installed: pip install 'd2rkit[{name}]'") from error


class TensorBoard:
    """Event files in FOLDER/tensorboard: a scalar for every column of history.csv, at full precision."""

    def __init__(self, folder: str | Path):
        _importable("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.make, self.writer, self.folder = SummaryWriter, None, Path(folder) / "tensorboard"
        self.told = self.folder / "epochs_told"  # event files are not read again
        self.last = int(self.told.read_text()) if self.told.exists() else 0

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """A row of the history; an epoch that was told before is left as it is."""
        epoch = int(row["epoch"])
        if epoch > self.last:
            self._write(told(row), epoch)
            self.told.write_text(str(epoch))
            self.last = epoch

    def on_result(self, result: Mapping[str, Any]) -> None:
        """result.json: its accuracies, at the last epoch."""
        self._write(accuracies(result), self.last)

    def _write(self, values: Mapping[str, float], epoch: int) -> None:
        if self.writer is None:  # what a process wrote that died before it could say so does not count
            self.writer = self.make(str(self.folder), purge_step=self.last + 1)
        for name, value in values.items():  # the old style would round to float32
            self.writer.add_scalar(name, value, epoch, new_style=True, double_precision=True)
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class MLflow:
    """One MLflow run in FOLDER/mlflow.db: a metric for every column of history.csv."""

    def __init__(self, folder: str | Path):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        _importable("mlflow")
        from mlflow import MlflowClient

        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        experiment = self.client.get_experiment_by_name("d2rkit")
        number = experiment.experiment_id if experiment else self.client.create_experiment(
            "d2rkit", artifact_location=(folder / "mlflow").as_uri()
        )  # fmt: skip
        there = self.client.search_runs([number])
        self.run = (there[0] if there else self.client.create_run(number, run_name=folder.name)).info.run_id
        self.last = max((m.step for m in self.client.get_metric_history(self.run, "epoch")), default=0)

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """A row of the history; an epoch that was told before is left as it is."""
        epoch = int(row["epoch"])
        if epoch <= self.last:
            return
        for name, value in told(row).items():
            self.client.log_metric(self.run, name, value, step=epoch)
        self.last = epoch

    def on_result(self, result: Mapping[str, Any]) -> None:
        """result.json: its accuracies and, as tags, its status and machine."""
        for name, value in accuracies(result).items():
            self.client.log_metric(self.run, name, value, step=self.last)
        for name in ("status", "machine", "data_source"):
            self.client.set_tag(self.run, name, str(result.get(name, "")))
        self.client.set_terminated(self.run, "FAILED" if str(result.get("status")).startswith("failed") else "FINISHED")

    def close(self) -> None:
        pass  # every metric is written at once


TRACKERS = {"tensorboard": TensorBoard, "mlflow": MLflow}
PLACES = {"tensorboard": "tensorboard", "mlflow": "mlflow.db"}  # of what each writes, in a run's folder


class Trackers:
    """Those of these names for one run folder, as one; none of them is a tracker, too."""

    def __init__(self, names: Sequence[str], folder: str | Path):
        self.each, self.folder = [TRACKERS[name](folder) for name in checked(names)], Path(folder)

    def on_epoch(self, row: Mapping[str, float]) -> None:
        self._catch_up(row["epoch"])
        for tracker in self.each:
            tracker.on_epoch(row)

    def _catch_up(self, epoch: float) -> None:
        """What a tracker has missed before this epoch: history.csv holds it by now."""
        if any(tracker.last + 1 < epoch for tracker in self.each):
            for row in read_history(self.folder / "history.csv"):
                for tracker in self.each if row["epoch"] < epoch else ():
                    tracker.on_epoch(row)

    def on_result(self, result: Mapping[str, Any]) -> None:
        self._catch_up(math.inf)
        for tracker in self.each:
            tracker.on_result(result)

    def close(self) -> None:
        for tracker in self.each:
            tracker.close()


def checked(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once; ValueError for one that is no tracker's."""
    for name in names:
        check_choice(name, tuple(TRACKERS), "tracker")
    return tuple(dict.fromkeys(names))


def ask(names: Sequence[str]) -> None:
    """From now on every run of this process, and of those that it starts, logs to these. ValueError for one that is
    unknown or not installed."""
    if names:
        for name in checked(names):
            _importable(name)
        os.environ[ASKED] = ",".join(checked(names))


def too_late(names: Sequence[str], folders: Iterable[Path]) -> str:
    """A sentence on the finished runs among these that one of the trackers knows nothing of; "" if there are none."""
    finished = [folder for folder in folders if (folder / "result.json").exists()]
    count = sum(not all((folder / PLACES[name]).exists() for name in names) for folder in finished)
    words = f"{count} finished before, without {' and '.join(names)}: not logged; history.csv has what would be"
    return words if count else ""


@contextmanager
def tracking(folder: str | Path, first: bool = True) -> Iterator[Trackers]:
    """The trackers that were asked for, of a run folder. first: whether this process is the one that writes."""
    names = [name for name in os.environ.get(ASKED, "").split(",") if name]
    trackers = Trackers(names if first else (), folder)
    try:
        yield trackers
    finally:
        trackers.close()


def told(row: Mapping[str, float]) -> dict[str, float]:
    """What of a row is told: all but what is missing."""
    return {name: float(value) for name, value in row.items() if not math.isnan(value)}


def accuracies(result: Mapping[str, Any]) -> dict[str, float]:
    """ "accuracy/best/pgd20" and the like, of result.json."""
    return {
        f"accuracy/{checkpoint}/{attack}": value
        for checkpoint, by_attack in result.get("accuracy", {}).items()
        for attack, value in by_attack.items()
    }
