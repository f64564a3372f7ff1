"""Fabric for a training run: on the device that devices.resolve() names, in a group that this kit made or in none."""

from __future__ import annotations

import logging
import shutil
import warnings
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from d2rkit.core import devices

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def check_compiler(device: torch.device) -> None:
    """ValueError if torch.compile lacks what it makes kernels with: Triton on a GPU, else a C++ compiler."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise ValueError("compile needs the package triton on a GPU, and it is not installed")
    elif not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise ValueError("compile needs a C++ compiler (g++ or clang++) on a CPU, and there is none here")


def make_fabric(device: str | torch.device, precision: str, partial: bool = False) -> Fabric:
    """Fabric on one device, or on the group's; partial: a step may leave a network of the pair without gradients."""
    place, count = devices.resolve(device), devices.expected()
    if count > 1:
        devices.check_one_machine()
    from lightning_fabric import Fabric  # takes a second to import, which other uses of the kit need not wait for
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its news are of no use to a student
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides|`broadcast_buffers` is deprecated")
    own = LightningEnvironment()  # else Fabric would take up with whatever batch system or launcher it finds itself in
    settings: dict[str, Any] = {"accelerator": place.type, "precision": precision}
    if count == 1:
        return Fabric(devices=[place.index] if place.type == "cuda" else 1, plugins=[own], **settings)
    strategy = DDPStrategy(
        cluster_environment=own, find_unused_parameters=partial,
        broadcast_buffers=False,  # sync_batchnorm_stats() looks after BatchNorm's
        timeout=timedelta(days=7),  # in evaluation one device may wait for another's whole batch
    )  # fmt: skip
    fabric = Fabric(devices=count, strategy=strategy, **settings)
    fabric.launch()
    return fabric
