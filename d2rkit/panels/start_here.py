"""Panel of notebook 00: what this machine has, and what a preset would do here.

`check()` looks at the installation without loading anything large; `StartHere` shows the images of a data set
and the one experiment that the chosen preset and method stand for.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from d2rkit.core.devices import resolve
from d2rkit.core.paths import home, shipped
from d2rkit.core.validation import nearest
from d2rkit.data.datasets import DATASETS, TINY, ImageData, load_data
from d2rkit.data.sample_images import cifar10_20
from d2rkit.data.tiny_imagenet import caches
from d2rkit.experiments.experiment import Experiment, machine
from d2rkit.experiments.presets import PRESETS, Preset, get_preset
from d2rkit.methods.catalogue import METHODS, Method, get_method
from d2rkit.networks.architectures import build_model
from d2rkit.panels import base
from d2rkit.panels.controls import Choice
from d2rkit.panels.panel import Panel
from d2rkit.planning.synthetic import shape_of
from d2rkit.training.guides import by_method, guide_of

PACKAGES = ("torch", "torchvision", "numpy", "matplotlib", "lightning-fabric", "pyautoattack")
LAB = ("jupyterlab", "ipywidgets")
SAMPLE = "cifar10-20"


# -- the machine ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Item:
    """One line of the check. needed: without it this notebook does not run; note: what to do if it is missing."""

    name: str
    found: str
    ok: bool
    needed: bool = True
    note: str = ""


def check(data_root: str | Path | None = None) -> list[Item]:
    """What is installed, what computes, and which data sets lie in `data_root` (default: the kit's data folder).

    Only file names are looked at; `d2rkit doctor` reads the files."""
    python = sys.version.split()[0]
    items = [Item("Python", python, sys.version_info >= (3, 11), note="3.11 or newer is needed")]
    for package in PACKAGES + LAB:
        try:
            items.append(Item(package, version(package), True))
        except PackageNotFoundError:
            part = "[lab]" if package in LAB else ""
            items.append(Item(package, "missing", False, note=f"pip install d2rkit{part}"))
    items.append(Item("cores", f"{os.cpu_count()}, of which PyTorch uses {torch.get_num_threads()}", True))
    gpu = resolve().type != "cpu"
    apple = "an Apple GPU is used when asked for: device mps" if torch.backends.mps.is_available() else ""
    items.append(Item("GPU", machine() if gpu else "none", gpu, False, "" if gpu else apple or "digits need none"))
    items += [data_item(name, data_root) for name in (*DATASETS, SAMPLE)]
    pairs = sorted(shipped("checkpoints").glob("*.safetensors"))
    note = "" if pairs else "the notebooks then train on digits"
    items.append(Item("trained pairs", f"{len(pairs)} in data/checkpoints", bool(pairs), False, note))
    return items


def data_item(name: str, root: str | Path | None = None) -> Item:
    """Whether a data set is at hand."""
    if name == "digits":
        return Item("data: digits", "1,797 scans of 8×8 pixels, from scikit-learn", True)
    if name == SAMPLE:
        try:
            return Item(f"data: {SAMPLE}", f"{len(cifar10_20()[0])} CIFAR-10 test images", True, False)
        except ValueError:
            return Item(f"data: {SAMPLE}", "not here", False, False, "pip install d2rkit[lab]")
    if DATASETS.get(name):
        return Item(f"data: {name}", "registered", True, False)
    root = Path(root).expanduser() if root is not None else home("data")
    arrays = [root / f"{name}_{part}.npz" for part in ("train10k", "train", "test")]
    files = [file.name for file in arrays if file.exists()]
    kept = caches(root, TINY[name]) if name in TINY else sorted((root / "cache").glob(f"{name}*.safetensors"))
    files += [f"cache/{file.name}" for file in kept]
    if name in TINY:
        files += [file.name for file in sorted(root.glob("tiny-imagenet-200*"))]
    words = ", ".join(files) or "not here"
    return Item(f"data: {name}", words, bool(files), False, "" if files else f"d2rkit data {name}")


def check_words(items: list[Item]) -> str:
    """The check as a sentence and a table, HTML."""
    missing = [item.name for item in items if item.needed and not item.ok]
    verdict = (
        f"Not ready: {', '.join(missing)}."
        if missing
        else "Everything that the notebooks need is here. What is marked “optional” is for CIFAR and Tiny ImageNet."
    )
    rows = [
        (i.name, i.found, "✓ here" if i.ok else "✗ missing" if i.needed else "– optional", "" if i.ok else i.note)
        for i in items
    ]
    return base.sentence(verdict) + base.table(("part", "found", "verdict", "what to do"), rows, "This machine")


class NotHere(ValueError):
    """Data that are not on this machine: in a notebook one sentence, not a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def load_here(experiment: Experiment) -> ImageData:
    """The data of an experiment, never downloaded; NotHere, with the command that gets them, if they are not here."""
    try:
        return load_data(experiment.data, subset=experiment.subset or None, download=False)
    except (ValueError, OSError):
        raise NotHere(
            f"{experiment.data} is not on this machine: run `d2rkit data {experiment.data}` in a terminal, or choose a "
            "preset on digits above, and run this cell again."
        ) from None


# -- what a preset stands for -----------------------------------------------------------------------------
@dataclass(frozen=True)
class Choices:
    """images: at most ten (C, H, W) in [0, 1], one a class; parameters: of target and guide (0: no guide)."""

    data: str
    images: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    source: str
    sizes: str
    preset: Preset
    experiment: Experiment
    parameters: tuple[int, int]
    here: Item  # the data that the experiment trains on

    @property
    def method(self) -> Method:
        return METHODS[self.experiment.method]


@lru_cache(maxsize=4)
def look(name: str) -> tuple[tuple[np.ndarray, ...], tuple[str, ...], str, str]:
    """Up to ten test images of a data set, one a class, their names, the source, and the size of the splits.
    ValueError, with what to do, if the data set is not here."""
    if name == SAMPLE:
        images, labels, names = cifar10_20()
        source, sizes = "CIFAR-10, from the package foolbox", "20 test images"
    else:
        part = name != "digits" and (home("data") / f"{name}_train10k.npz").exists()
        data = load_data(name, subset="10k" if part else None, download=False)
        images, labels = data.test.pixels(slice(2_000)), data.test.labels[:2_000]
        names, source = data.class_names, data.source
        sizes = f"{len(data.train):,} training, {len(data.val):,} validation, {len(data.test):,} test images"
    first = [int((labels == c).nonzero()[0]) for c in labels.unique()[:10]]
    return tuple(images[i].numpy() for i in first), tuple(names[labels[i]] for i in first), source, sizes


@lru_cache(maxsize=32)
def count_parameters(network: str, data: str) -> int:
    """Parameters of a network on a data set; built without memory, so wrn-34-10 is quick too."""
    shape = shape_of(data)
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(network, shape.classes, shape.size, shape.channels).parameters())


def compute(data: str, preset: str, method: str) -> Choices:
    """ValueError if a name is unknown or the images of `data` are not here."""
    if data not in (*DATASETS, SAMPLE):
        raise nearest(data, (*DATASETS, SAMPLE), "data set")
    chosen, guided = get_preset(preset), get_method(method).needs_guide
    plan = by_method(replace(chosen.base, **chosen.changes.get(method, {})), method)
    counts = count_parameters(plan.target, plan.data), count_parameters(guide_of(plan), plan.data) if guided else 0
    return Choices(data, *look(data), chosen, plan, counts, data_item(plan.data))


# -- picture ----------------------------------------------------------------------------------------------
def draw(data: Choices) -> Figure:
    made = base.figure(9.4, 3.5)
    made.text(0.02, 0.95, f"data: {data.data}", fontsize=10, color=base.INK, va="center")
    draw_strip(made.add_axes((0.02, 0.63, 0.96, 0.27)), data)
    made.text(0.02, 0.5, f"preset: {data.preset.name}, method: {data.method.title}", fontsize=10, color=base.INK)
    draw_plan(made.add_axes((0.02, 0.04, 0.96, 0.42)), data)
    return made


def draw_strip(ax, data: Choices) -> None:
    """The images side by side in one picture, which is quicker to draw than one frame an image."""
    channels, side = data.images[0].shape[0], data.images[0].shape[-1]
    gap = max(1, round(0.18 * side))
    strip = np.ones((10 * (side + gap) - gap, side, channels))
    for place, image in enumerate(data.images):
        left = place * (side + gap)
        strip[left : left + side] = image.transpose(2, 1, 0)
        name = data.names[place] if len(data.names[place]) < 13 else f"{data.names[place][:11]}…"
        ax.text(left + side / 2 - 0.5, side * 1.06, name, ha="center", va="top", fontsize=8, color=base.INK)
    ax.imshow(strip.transpose(1, 0, 2).repeat(3 // channels, 2), interpolation="nearest")
    ax.axis("off")


def draw_plan(ax, data: Choices) -> None:
    """The way of an experiment, a box a step."""
    plan, (target, guide) = data.experiment, data.parameters
    here = "here" if data.here.ok else "not here"
    epochs = f"{plan.guide_warmup} + {plan.epochs}" if plan.guide_warmup else plan.epochs  # the guide's come first
    beside = f"guide {guide_of(plan)}, {short(guide)}" if guide else "no guide"
    boxes = (
        ("data", f"{plan.data} {plan.subset}".strip() + f"\n{here}"),
        ("pair", f"target {plan.target}, {short(target)}\n{beside}"),
        ("train", f"{epochs} epochs, batches of {plan.batch_size}\n{plan.steps} attack steps, ε = {plan.eps:.3g}"),
        ("evaluate", f"{len(plan.attacks)} attacks on\n{plan.test_images or 'all'} test images"),
        ("table", f"{len(data.preset.rows)} methods ×\n{len(data.preset.seeds)} seeds"),
    )
    widths = np.array([0.9, 1.75, 1.85, 1.1, 0.95])
    lefts = np.concatenate([[0], np.cumsum(widths + 0.32)])
    ax.set(xlim=(0, lefts[-1] - 0.32), ylim=(0, 1))
    ax.axis("off")
    for (name, text), left, width in zip(boxes, lefts, widths, strict=False):
        box = FancyBboxPatch(
            (left + 0.03, 0.08), width - 0.06, 0.84, boxstyle="round,pad=0,rounding_size=0.08", mutation_aspect=1,
            fc="#EEF4F9", ec=base.TARGET, lw=1.2,
        )  # fmt: skip
        ax.add_patch(box)
        ax.text(left + width / 2, 0.73, name, ha="center", va="center", fontsize=10, weight="bold", color=base.INK)
        ax.text(left + width / 2, 0.36, text, ha="center", va="center", fontsize=8.5, linespacing=1.5, color=base.INK)
        if name != "table":
            arrow = {"arrowstyle": "-|>", "color": base.GREY, "lw": 1.4}
            ax.annotate("", (left + width + 0.31, 0.5), (left + width + 0.01, 0.5), arrowprops=arrow)


def short(count: int) -> str:
    """12,345,678 -> 12.3 M."""
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"


# -- words ------------------------------------------------------------------------------------------------
def words(data: Choices) -> str:
    plan, preset = data.experiment, data.preset
    images = f"Shown: {data.source}; {data.sizes}, {len(data.names)} classes pictured."
    todo = "" if data.here.ok else f" Its data is not here yet: run `{data.here.note}` first."
    rows = [
        ("the whole table", preset.title),
        ("command", preset.command),
        ("time", preset.time),
        ("what came out", preset.expect),
        ("this one pair", f"{data.method.title} ({data.method.source}), seed {plan.seed}"),
    ]
    return as_code(base.sentence(images + todo) + base.table(("", ""), rows, f"Preset {preset.name}"))


def as_code(markup: str) -> str:
    """HTML in which what stands between backticks is set as code, as in the sentences of presets."""
    return re.sub(r"`([^`<]+)`", r"<code>\1</code>", markup)


class StartHere(Panel):
    """Choose a data set to look at, and a preset and method to train."""

    def __init__(self, data: str = "digits", preset: str = "quick", method: str = "d2r-cag"):
        controls = {
            "data": Choice("Data to look at", data, {name: name for name in (*DATASETS, SAMPLE)}),
            "preset": Choice("Preset", preset, {f"{p.name}: {p.base.data}": name for name, p in PRESETS.items()}),
            "method": Choice("Method", method, {m.title: name for name, m in METHODS.items()}),
        }
        super().__init__("Data and preset", controls, compute, draw, words)

    @property
    def experiment(self) -> Experiment:
        """What the controls stand for: one pair to train."""
        return compute("digits", self.settings["preset"], self.settings["method"]).experiment
