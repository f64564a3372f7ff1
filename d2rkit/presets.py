"""Presets: tables as data. Each says what it costs and what came out, on which machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from d2rkit.border import nearest
from d2rkit.experiment import Experiment
from d2rkit.methods import get_method


@dataclass(frozen=True)
class Preset:
    """A table: one base experiment, the methods that are its rows, and the seeds of each.

    changes: settings that a method has to itself, by method name. command, time and expect tell a reader
    how to run it, how long it takes and what came out where it was measured."""

    name: str
    title: str
    command: str
    time: str
    expect: str
    base: Experiment
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def experiments(self, methods: Sequence[str] = (), seeds: int = 0) -> list[Experiment]:
        """Every cell, seed by seed (so that an unfinished table compares all methods); fewer on request:
        `methods` picks rows, `seeds` the first so many seeds."""
        for method in methods:
            get_method(method)
            if method not in self.methods:
                raise nearest(method, self.methods, f"method of preset {self.name}")
        if seeds < 0:
            raise ValueError(f"seeds must not be negative, not {seeds}")
        numbers = range(seeds) if seeds else self.seeds
        return [
            replace(self.base, method=method, seed=seed, **self.changes.get(method, {}))
            for seed in numbers
            for method in methods or self.methods
        ]


QUICK = Preset(
    name="quick",
    title="Handwritten digits (8x8), small CNN pair",
    command="d2rkit reproduce quick",
    time="654 s of CPU time (24 runs) on a two-core x86-64 machine, shared by two workers",
    expect="AutoAttack between 53 % and 61 % for every method, on 100 test images (standard error 5 points)",
    base=Experiment(
        data="digits", target="cnn-16", guide="cnn-16", epochs=15, batch_size=64, lr=0.3, warmup=2.0,
        eps=0.2, step_size=0.05, steps=7, padding=0, flip=False, speed="fast", val_steps=3, test_images=100,
    ),
    methods=("pgd-at", "trades", "mart", "lbgat0", "lbgat6", "d2r", "d2r-cag", "d2r-cag-released"),
    seeds=(0, 1, 2),
)  # fmt: skip

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (QUICK,)}


def get_preset(name: str) -> Preset:
    if name not in PRESETS:
        raise nearest(name, PRESETS, "preset")
    return PRESETS[name]
