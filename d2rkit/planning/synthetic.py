"""What `plan` and `--dry-run` share: images that cost like the real ones, one attack alone.

Neither needs a data set: a network's speed and memory depend on the shape of the images, not on what they show.
"""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2rkit.acceleration.attack_copies import attack_copy
from d2rkit.core.devices import resolve
from d2rkit.data.arrays import Split
from d2rkit.data.datasets import (
    BIG_VALIDATION,
    DATASETS,
    DIGITS_TEST,
    DIGITS_VALIDATION,
    ImageData,
    load_data,
    subset_size,
)
from d2rkit.evaluation.autoattack import STAGES, AutoAttackBudget, AutoAttackState, autoattack
from d2rkit.experiments.experiment import Experiment, machine
from d2rkit.methods.pair import eval_mode

HARMLESS = 1e-6  # an eps at which no image falls, so that an attack makes all its iterations on all images


@dataclass(frozen=True)
class Shape:
    """channels x size x size pixels, classes, and how many images there are (validation is held out of train)."""

    channels: int
    size: int
    classes: int
    train: int
    test: int


SHAPES = {
    "digits": Shape(1, 8, 10, 1_797 - DIGITS_TEST, DIGITS_TEST),
    "cifar10": Shape(3, 32, 10, 50_000, 10_000),
    "cifar100": Shape(3, 32, 100, 50_000, 10_000),
    "tiny-imagenet": Shape(3, 64, 200, 100_000, 10_000),
    "tiny-imagenet-20": Shape(3, 64, 20, 10_000, 1_000),
}


def shape_of(name: str) -> Shape:
    """The shape of a data set; a registered one is loaded to see it, once. ValueError if that fails."""
    return SHAPES[name] if name in SHAPES else _loaded_shape(name, DATASETS.get(name))


@cache
def _loaded_shape(name: str, loader: object) -> Shape:
    data = load_data(name)
    train = len(data.train) + len(data.val)
    return Shape(data.channels, data.image_size, data.num_classes, train, len(data.test))


@dataclass(frozen=True)
class Counts:
    """How many images a run trains on, validates on, and is attacked on."""

    train: int
    val: int
    test: int


def counts_of(experiment: Experiment) -> Counts:
    """As load_data and chosen_test will cut them, without the data."""
    shape = shape_of(experiment.data)
    whole = subset_size(experiment.subset or None) or shape.train
    val = min(DIGITS_VALIDATION if experiment.data == "digits" else BIG_VALIDATION, whole // 5)
    return Counts(whole - val, val, experiment.test_images or shape.test)


def random_data(name: str, counts: Counts, seed: int = 0) -> ImageData:
    """Random uint8 images and labels in the shape of the data set `name`."""
    shape, generator = shape_of(name), torch.Generator().manual_seed(seed)

    def split(count: int) -> Split:
        size = (count, shape.channels, shape.size, shape.size)
        images = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        return Split(images, torch.randint(0, shape.classes, (count,), generator=generator))

    names = tuple(map(str, range(shape.classes)))
    return ImageData(name, names, split(counts.train), split(counts.val), split(counts.test), "random pixels")


def bytes_of(experiment: Experiment) -> int:
    """Of the data set's images in memory: all of the training images that are used, and all test images."""
    shape, counts = shape_of(experiment.data), counts_of(experiment)
    return (counts.train + counts.val + shape.test) * shape.channels * shape.size**2


def own_labels(network: nn.Module, images: Tensor) -> Tensor:
    """What `network` itself says of images (N, C, H, W): with these labels an untrained network is always right,
    and every attack has something to attack."""
    with eval_mode(network), torch.no_grad():
        return network(images).argmax(1)


def quietly(function: Callable, *arguments: Any) -> Any:
    """function(*arguments), in a worker, where a network that saw random pixels may be stuck at chance."""
    logging.getLogger("d2rkit").setLevel(logging.ERROR)
    return function(*arguments)


def peak_memory(device: str | torch.device) -> tuple[int, str]:
    """Bytes that this process needed at most, and what they are: on CUDA those of the device, elsewhere all of its
    resident memory."""
    place = resolve(device)
    if place.type == "cuda":
        return torch.cuda.max_memory_allocated(place), f"{machine(place)}, torch.cuda.max_memory_allocated"
    words = "peak resident memory of a process, Python and its libraries included"
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss on Linux also counts the parent that this process was spawned by
        (line,) = (text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return int(line.split()[1]) * 1024, words
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024), words


def run_stage(network: nn.Module, stage: str, images: Tensor, labels: Tensor, budget: AutoAttackBudget) -> None:
    """One attack of AutoAttack alone, on every image, at a radius where none falls."""
    robust = torch.ones(len(labels), dtype=torch.bool)
    others = {name: robust.clone() for name in ("clean", *STAGES) if name != stage}
    autoattack(
        network, images, labels, eps=HARMLESS, through=attack_copy(network, images).network,
        state=AutoAttackState(robust, others), budget=budget,
    )  # fmt: skip
