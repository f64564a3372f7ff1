"""Experiment: a frozen dataclass that says all that decides a result; Run: what became of it, read from its folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, SupportsIndex

import torch
import tyro

from d2rkit.core import devices
from d2rkit.core.files import read_json
from d2rkit.core.paths import check_path, home, shipped
from d2rkit.core.validation import check_count, nearest
from d2rkit.data.datasets import DATASETS, ImageData, Split, first_of_each_class, subset_size
from d2rkit.evaluation.evaluator import ATTACKS, parse_attack
from d2rkit.experiments import plugins
from d2rkit.experiments.run_files import check_settings
from d2rkit.experiments.run_folders import FoundRuns, checked_result, find
from d2rkit.methods.catalogue import get_method
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import MODELS, build_model
from d2rkit.training.guides import check_guide, guide_of
from d2rkit.training.history import read_history
from d2rkit.training.recipe import Recipe, check_types, generator_for

log = logging.getLogger("d2rkit")


@dataclass(frozen=True)
class Experiment(Recipe):
    """A recipe and what it is applied to: data, networks, evaluation."""

    data: str = "digits"
    """digits, cifar10, cifar100, tiny-imagenet, tiny-imagenet-20 (twenty classes of it)."""
    subset: str = ""
    """Number of training images, e.g. 10k; empty for all."""
    target: str = "cnn-16"
    """The network that is to become robust, e.g. cnn-16, wrn-34-10 or preactresnet18; an unknown name lists more."""
    guide: str = "cnn-16"
    """The network beside it; unused by methods without a guide and by ADR, whose guide is the target's average."""
    test_images: int = 0
    """Evaluate on the first so many test images, as equally as possible of every class; 0 for all."""
    attacks: tuple[str, ...] = ATTACKS
    """What to evaluate with: clean, fgsm, autoattack, pgdN or cwN (N steps); empty to train only."""
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
                with suppress(TypeError):  # a tensor without dimensions says that it is iterable
                    object.__setattr__(self, name, tuple(value))
        if isinstance(self.loss, Mapping):
            object.__setattr__(self, "loss", dict(sorted(self.loss.items(), key=lambda item: str(item[0]))))
        if isinstance(self.registered, Mapping):
            object.__setattr__(self, "registered", plugins.noted(self))

    __hash__ = Recipe.__hash__  # a dataclass that compares its fields would make one of its own

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
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


def settings_of(experiment: Experiment) -> str:
    """A short hash of everything but the seed: runs that share it are one row of a table."""
    return replace(experiment, seed=0).run_name.rsplit("-", 1)[1]


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


def build_pair(experiment: Experiment, data: ImageData) -> GuidedPair:
    """Target and, where the method needs one, guide, with weights that follow from the seed alone."""
    check_count("seed", experiment.seed, -(2**31))
    plugins.check_registered(experiment.registered)
    get_method(experiment.method)
    guide = guide_of(experiment)
    names = [experiment.target] if isinstance(guide, str) and not guide else [experiment.target, guide]
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


def find_runs(places: Sequence[str | Path] | None = None) -> FoundRuns:
    """All finished runs below `places` (default: the runs folder and data/results), each experiment once.

    A folder that cannot be believed is reported, not raised: one bad file must not hide the others."""
    if places is not None:
        return find([check_path(place) for place in places], read_run)
    results = shipped("results")  # where each table brings its own runs, some of them in several tables
    return replace(find([home("runs"), *sorted(results.glob("*/runs"))], read_run), places=(home("runs"), results))


def read_runs(root: str | Path) -> list[Run]:
    """find_runs() below `root`, by name; what is left out is named in the log."""
    below = find_runs([root])
    for words in below.left_out:
        log.warning("%s", words)
    return sorted(below.runs, key=lambda run: run.folder.name)


def machine(device: str | torch.device = "auto") -> str:
    """The hardware a number was measured on, in words. ValueError for a device that is not here."""
    kind = devices.resolve(device)
    if kind.type == "cuda":
        return torch.cuda.get_device_name(kind)
    if kind.type == "mps":
        return f"{platform.machine()} Apple GPU (MPS)"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def check_same(folder: Path, experiment: Experiment) -> None:
    """ValueError if config.json is damaged or of another experiment; one that is not there yet is of none."""
    if (folder / "config.json").exists() and read_config(folder) != experiment:
        raise ValueError(f"{folder} holds another experiment under the same name; choose another runs folder")
