"""A training run that can be watched: started, paused, resumed exactly, from a thread or in a blocking call."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from d2rkit.data.arrays import Split
from d2rkit.data.datasets import ImageData, first_of_each_class
from d2rkit.experiments.experiment import Experiment, build_pair
from d2rkit.methods.catalogue import METHODS
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.checkpoints import load_weights
from d2rkit.training.loop import fit

# fit() also warns on the log; a panel says it in words, and a notebook's stderr stays clean.
logging.getLogger("d2rkit").addHandler(logging.NullHandler())

FRAME = 0.25  # seconds between two notices within an epoch


@dataclass(frozen=True)
class Curves:
    """A run so far. history: fit()'s rows, one an epoch; done: share of the run in [0, 1]; status: "ready",
    "running", "paused", or how fit() ended; pauses: where it stood still, in epochs; left: seconds to go."""

    title: str
    experiment: Experiment
    images: tuple[int, int]  # training, validation
    classes: int
    history: tuple[Mapping[str, float], ...] = ()
    done: float = 0.0
    status: str = "ready"
    pauses: tuple[float, ...] = ()
    left: float = float("nan")

    @property
    def epochs(self) -> int:
        """Those of the guide alone, if there are any, and then those of the target."""
        return self.experiment.guide_warmup + self.experiment.epochs

    @property
    def best(self) -> int:
        """Position of the epoch with the highest PGD accuracy on the validation images, as fit() chooses it."""
        alone = self.experiment.guide_warmup
        return int(np.argmax([row["val_pgd"] if at >= alone else -1.0 for at, row in enumerate(self.history)]))


class Session:
    """One experiment on `data`, trained in a temporary folder; `curves` is always its latest state."""

    def __init__(self, experiment: Experiment, data: ImageData, notify: Callable[[], None] | None = None):
        """notify: called, in the thread that trains, after each epoch, at the end, and a few times a second."""
        experiment.check()
        self.experiment, self.data, self.notify = experiment, data, notify
        self.pair: GuidedPair | None = None  # of the last call; trained in place
        self.error: Exception | None = None
        title = f"{METHODS[experiment.method].title} on {data.name}"
        self.curves = Curves(title, experiment, (len(data.train), len(data.val)), data.num_classes)
        self._folder = TemporaryDirectory(prefix="d2rkit-")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._began, self._done, self._shown = 0.0, 0.0, 0.0

    @property
    def folder(self) -> Path:
        """The run folder: history.csv, best.safetensors, last.safetensors, resume.pt."""
        return Path(self._folder.name)

    @property
    def running(self) -> bool:
        return self.curves.status == "running"

    def train(self) -> Curves:
        """Start, or go on where it stopped, and come back when it is done or paused (■ or Ctrl-C pause it)."""
        self._begin()
        self._work()
        if self.error:
            raise self.error
        return self.curves

    def train_in_background(self) -> None:
        """The same in a thread; a second call while it runs does nothing."""
        if not self.running:
            self._begin()
            self._thread = threading.Thread(target=self._work, daemon=True, name="d2rkit-training")
            self._thread.start()

    def pause(self, timeout: float = 60.0) -> None:
        """Stop after the current step, with everything saved, and wait until it has."""
        self._stop.set()
        self.wait(timeout)

    def wait(self, timeout: float | None = None) -> None:
        """Until the thread is done, if there is one."""
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def weights(self, which: str) -> GuidedPair:
        """A pair with the weights of the "best" or the "last" epoch, in eval mode."""
        return load_weights(self.folder / f"{which}.safetensors", build_pair(self.experiment, self.data)).eval()

    def _begin(self) -> None:
        self._stop.clear()
        self._began, self._done, self.error = time.monotonic(), self.curves.done, None
        self._now(status="running")

    def _work(self) -> None:
        try:
            # A new pair each time: fit() brings it to where the folder says the run stood.
            self.pair = build_pair(self.experiment, self.data)
            outcome = fit(
                self.pair, self.data, self.experiment, self.folder, device="cpu",
                report=self._report, on_epoch=self._epoch, should_stop=self._stop.is_set,
            )  # fmt: skip
        except Exception as error:  # of a thread nobody would see it; the panel shows it
            self.error = error
            self._now(status=f"failed: {error}")
        else:
            paused = outcome.status == "interrupted"
            pauses = (*self.curves.pauses, self.curves.done * self.curves.epochs) if paused else self.curves.pauses
            status = "paused" if paused else outcome.status
            self._now(status=status, history=tuple(outcome.history), pauses=pauses)

    def _epoch(self, row: Mapping[str, float]) -> None:
        self._now(history=(*self.curves.history, dict(row)))

    def _report(self, done: float, words: str) -> None:
        elapsed, gained = time.monotonic() - self._began, done - self._done
        self.curves = replace(self.curves, done=done, left=elapsed / max(gained, 1e-9) * (1 - done))
        if self.notify and time.monotonic() - self._shown > FRAME:
            self._now()

    def _now(self, **changes: Any) -> None:
        self.curves = replace(self.curves, **changes)
        self._shown = time.monotonic()
        if self.notify:
            self.notify()


def fewer(data: ImageData, count: int) -> ImageData:
    """`data` with only the first `count` training images, as equally as possible of every class."""
    if not 1 <= count <= len(data.train):
        raise ValueError(f"{data.name} has 1 to {len(data.train)} training images to choose, not {count}")
    return replace(data, train=data.train.take(first_of_each_class(data.train.labels, count)))


def with_wrong_labels(data: ImageData, share: float, seed: int = 0) -> ImageData:
    """`data` with another class than the right one on a `share` in [0, 1] of the training images, drawn at random;
    validation and test stay right."""
    if not 0 <= share <= 1:
        raise ValueError(f"the share of wrong labels must lie in [0, 1], not {share}")
    labels, generator = data.train.labels.clone(), torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))].to(labels.device)
    shift = torch.randint(1, data.num_classes, (len(chosen),), generator=generator).to(labels.device)
    labels[chosen] = (labels[chosen] + shift) % data.num_classes
    return replace(data, train=Split(data.train.images, labels))


# -- runs that succeed and runs that fail --------------------------------------------------------------------
@dataclass(frozen=True)
class Scenario:
    """Settings to start from; `changes` are further fields of the Experiment."""

    words: str
    settings: Mapping[str, Any]
    changes: Mapping[str, Any] = field(default_factory=dict)


# What fails here was looked for by trying; notebook 05 shows the numbers beside a control.
SCENARIOS = {
    "sound": Scenario(
        "a sound run",
        {"method": "d2r-cag", "epochs": 8, "lr": 0.2, "warmup": 2.0, "w_clean": 2.0, "w_adv": 15.0, "images": 1200,
         "wrong": 0},
    ),
    "collapse": Scenario(
        "collapse: the gap's weights on the sum, no warm-up",
        {"method": "d2r-cag", "epochs": 4, "lr": 0.2, "warmup": 0.0, "w_clean": 20.0, "w_adv": 30.0, "images": 600,
         "wrong": 0},
    ),
    "overfitting": Scenario(
        "robust overfitting: few images, wrong labels",
        {"method": "pgd-at", "epochs": 30, "lr": 0.2, "warmup": 2.0, "w_clean": 2.0, "w_adv": 15.0, "images": 200,
         "wrong": 30},
        {"eps": 0.1, "step_size": 0.03, "schedule": "constant", "weight_decay": 0.0, "batch_size": 50},
    ),
}  # fmt: skip


def small() -> Experiment:
    """A digits pair that trains in about a second an epoch: the quick preset's networks, cheaper attacks. Written
    out, and not derived from the preset, so that what fails on purpose goes on failing when the preset changes."""
    return Experiment(
        data="digits", target="cnn-16", guide="cnn-16", batch_size=64, lr=0.2, warmup=2.0, weight_decay=5e-4, eps=0.2,
        step_size=0.05, steps=5, val_steps=3, padding=0, flip=False, speed="fast",
    )  # fmt: skip
