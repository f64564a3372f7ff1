"""Experiment: one frozen dataclass that says all that decides a result; run() turns it into a run folder.

    Experiment -> load_data -> GuidedPair -> fit -> checkpoint -> evaluate -> run folder

The folder is named by a hash of the experiment, so the same experiment finds its own folder, goes on if
it is unfinished and is not repeated if it is done. Nothing here deletes or overwrites a finished run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import tyro

from d2rkit import devices, plugins
from d2rkit.border import check_count, check_path, home, nearest
from d2rkit.checkpoints import clear_drafts, load_resume, load_weights, read_json, write_json
from d2rkit.data import DATASETS, ImageData, Split, first_of_each_class, load_data, subset_size
from d2rkit.evaluator import ATTACKS, parse_attack
from d2rkit.guides import check_guide, guide_of
from d2rkit.methods import get_method
from d2rkit.models import MODELS, build_model
from d2rkit.pair import GuidedPair
from d2rkit.plugin_checks import try_out
from d2rkit.recipe import Recipe, check_types, generator_for
from d2rkit.run_evaluation import evaluate_checkpoint
from d2rkit.run_files import FORMAT, check_settings, read_history
from d2rkit.run_folders import Found, checked_result, find
from d2rkit.run_locks import lock, watching
from d2rkit.training import Report, fit

log = logging.getLogger("d2rkit")


@dataclass(frozen=True)
class Experiment(Recipe):
    """A recipe, and what it is applied to: data, networks, evaluation."""

    data: str = "digits"
    """digits, cifar10, cifar100, tiny-imagenet."""
    subset: str = ""
    """Number of training images, e.g. 10k; empty for all."""
    target: str = "cnn-16"
    """The network that is to become robust."""
    guide: str = "cnn-16"
    """The network beside it; unused by methods without a guide and by ADR, whose guide is the target's average."""
    test_images: int = 0
    """Evaluate on the first so many test images, as equally as possible of every class; 0 for all."""
    attacks: tuple[str, ...] = ATTACKS
    """What to evaluate with; empty to train only."""
    test_eps: float = 0.0
    """Radius of the L-infinity ball in evaluation, pixel scale; 0 for that of training."""
    checkpoints: tuple[str, ...] = ("best",)
    """Which weights to evaluate: best (on the validation images), last."""
    registered: tyro.conf.Suppress[Mapping[str, str]] = field(default_factory=dict)
    """Digests of what it uses of plugins, filled in by itself, e.g. "method mine": an edited loss is another run."""

    def __post_init__(self) -> None:
        # JSON has lists, not tuples, and sorted keys make equal experiments equal text.
        # What is neither a list nor options is left for check() to name.
        for name in ("attacks", "checkpoints"):
            value = getattr(self, name)
            if isinstance(value, Iterable) and not isinstance(value, str | bytes):
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.loss, Mapping):
            object.__setattr__(self, "loss", dict(sorted(self.loss.items(), key=lambda item: str(item[0]))))
        if isinstance(self.registered, Mapping):
            object.__setattr__(self, "registered", plugins.noted(self))

    def __reduce_ex__(self, protocol: int) -> Any:
        """Pickled for a worker process, an experiment brings along the plugin files it needs, by path and digest."""
        if not self.registered:
            return super().__reduce_ex__(protocol)
        return plugins.arrived, (type(self), dict(vars(self)), plugins.travelling(self.registered))

    @property
    def radius(self) -> float:
        """The evaluation's eps, pixel scale."""
        return self.test_eps or self.eps

    def check(self):
        """ValueError, in one sentence, for anything that could not run."""
        check_types(self)
        plugins.check_registered(self.registered)
        method = super().check()
        if self.data not in DATASETS:
            raise nearest(self.data, DATASETS, "data set")
        subset_size(self.subset or None)
        with torch.device("meta"):
            for name in filter(None, (self.target, guide_of(self))):
                if name not in MODELS:  # one that is registered may take no other images than its own
                    build_model(name, num_classes=10)
        check_guide(self, method)
        for attack in self.attacks:
            parse_attack(attack)
        for checkpoint in self.checkpoints:
            if checkpoint not in ("best", "last"):
                raise ValueError(f"unknown checkpoint {checkpoint!r}; allowed: best, last")
        if self.attacks and not self.checkpoints:
            raise ValueError("checkpoints must name at least one of best, last, for the attacks to attack")
        for name in ("attacks", "checkpoints"):
            words = getattr(self, name)
            if twice := [word for word in words if words.count(word) > 1]:
                raise ValueError(f"{name} must name each of them once, not {twice[0]!r} twice")
        if not 0 <= self.test_eps <= 1:
            raise ValueError(f"test_eps is in pixel scale and must lie in [0, 1], e.g. 8/255, not {self.test_eps}")
        if self.test_images < 0:
            raise ValueError(f"test_images must not be negative, not {self.test_images}")
        return method

    def to_dict(self) -> dict[str, Any]:
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        return values if self.registered else {k: v for k, v in values.items() if k != "registered"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Experiment:
        """From JSON's lists and numbers; ValueError for a setting that is unknown or of another type."""
        check_settings(values, vars(cls()))
        return cls(**values)

    @property
    def run_name(self) -> str:
        """Folder name: a few words to read, and a hash of every setting that differs from its default, so
        that a setting added later leaves the names of old runs alone."""
        default = Experiment().to_dict()
        changed = {k: v for k, v in self.to_dict().items() if v != default.get(k)}
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.data}-{self.target}-{self.method}-s{self.seed}-{digest}"


@dataclass(frozen=True)
class Run:
    """A run folder, read: the experiment, its result, its history."""

    folder: Path
    experiment: Experiment
    result: dict[str, Any]

    @property
    def history(self) -> list[dict[str, float]]:
        """history.csv, one row an epoch (a missing value is NaN); empty if there is none, ValueError if damaged."""
        return read_history(self.folder / "history.csv")


class Interrupted(Exception):
    """A run was asked to stop; its state is saved."""


def build_pair(experiment: Experiment, data: ImageData) -> GuidedPair:
    """Target and, where the method needs one, guide, with weights that follow from the seed alone."""
    check_count("seed", experiment.seed, -(2**31))
    plugins.check_registered(experiment.registered)
    get_method(experiment.method)
    names = filter(None, (experiment.target, guide_of(experiment)))
    networks = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for("init", experiment.seed).initial_seed())
        for name in names:
            networks.append(build_model(name, data.num_classes, data.image_size, data.channels))
    return GuidedPair(*networks)


def chosen_test(experiment: Experiment, data: ImageData) -> Split:
    count = experiment.test_images
    if count > len(data.test):
        raise ValueError(f"test_images {count} is more than the {len(data.test)} test images of {data.name}")
    return data.test.take(first_of_each_class(data.test.labels, count)) if count else data.test


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
            devices.start(count, _work_with_others, arguments, report=report, should_stop=should_stop)
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
    trained = fit(
        pair,
        data,
        experiment,
        folder,
        device=device,
        report=report and _scaled(report, 0.5),
        should_stop=stop,
    )
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
            found = evaluate_checkpoint(
                experiment, pair, test, checkpoint, folder=folder, shared=devices.size() > 1,
                report=part(0.5 + number * share, 0.5 + (number + 1) * share),
            )  # fmt: skip
            _take_over(result, checkpoint, found)
    result["evaluation_seconds"] = round(time.monotonic() - began, 2)
    stop()  # a folder that has vanished gets no result
    if devices.rank() == 0:
        write_json(folder / "result.json", result)


def _take_over(result: dict[str, Any], checkpoint: str, found: dict[str, Any]) -> None:
    """Put what evaluate_checkpoint() found of a checkpoint into result.json's entries."""
    for name in ("accuracy", "weights", "notes", "autoattack_warnings"):
        if value := found.pop(name):
            result.setdefault(name, {})[checkpoint] = value
    result.update(found)


def read_config(folder: Path) -> Experiment:
    """The experiment of a run folder, finished or not; ValueError if config.json is missing or damaged."""
    file = folder / "config.json"
    try:
        return Experiment.from_dict(read_json(file))
    except ValueError as error:
        raise ValueError(str(error) if str(file) in str(error) else f"{file}: {error}") from error


def read_run(folder: str | Path) -> Run:
    """A finished run; ValueError if a file is missing or damaged, or if name, settings, history, flags, weights and
    result do not belong together."""
    folder = check_path(folder)
    experiment = read_config(folder)
    return Run(folder, experiment, checked_result(folder, experiment))


def find_runs(places: Sequence[str | Path] | None = None) -> Found:
    """All finished runs below `places` (default: the runs folder and data/results), each experiment once.

    A folder that cannot be believed is reported, not raised: one bad file must not hide the others."""
    if places is not None:
        return find([Path(place) for place in places], read_run)
    results = home("data") / "results"  # where each table brings its own runs, some of them in several tables
    return replace(find([home("runs"), *sorted(results.glob("*/runs"))], read_run), places=(home("runs"), results))


def read_runs(root: str | Path) -> list[Run]:
    """find_runs() below `root`, by name; what is left out is named in the log."""
    found = find_runs([root])
    for words in found.left_out:
        log.warning("%s", words)
    return sorted(found.runs, key=lambda run: run.folder.name)


def machine(device: str | torch.device = "auto") -> str:
    """The hardware a number was measured on, in words. ValueError for a device that is not here."""
    kind = devices.resolve(device)
    if kind.type == "cuda":
        return torch.cuda.get_device_name(kind)
    if kind.type == "mps":
        return f"{platform.machine()} Apple GPU (MPS)"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


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


def check_same(folder: Path, experiment: Experiment) -> None:
    """ValueError if config.json is damaged or of another experiment; one that is not there yet is of none."""
    if (folder / "config.json").exists() and read_config(folder) != experiment:
        raise ValueError(f"{folder} holds another experiment under the same name; choose another runs folder")


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
