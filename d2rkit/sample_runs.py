"""Runs for the panels of tables and figures: those that are on this machine, and a small table made live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from d2rkit.border import home
from d2rkit.experiment import Run, read_run
from d2rkit.presets import QUICK, Preset
from d2rkit.sweep import sweep


@dataclass(frozen=True)
class Found:
    """runs: finished ones. damaged: what could not be read, in sentences. places: where was looked."""

    runs: tuple[Run, ...]
    damaged: tuple[str, ...]
    places: tuple[Path, ...]


def find_runs(places: Sequence[str | Path] | None = None) -> Found:
    """All finished runs below `places` (default: the runs folder and data/results), each experiment once.

    A damaged run is reported, not raised: one bad file must not hide the others."""
    places = tuple(map(Path, places)) if places is not None else (home("runs"), home("data") / "results")
    runs: dict[str, Run] = {}
    damaged = []
    for place in places:
        for file in sorted(place.rglob("result.json")):
            if not (file.parent / "config.json").exists():
                continue
            try:
                found = read_run(file.parent)
                runs.setdefault(found.experiment.run_name, found)
            except (ValueError, TypeError) as error:
                damaged.append(f"{file.parent.name} cannot be read: {error}")
    return Found(tuple(runs.values()), tuple(damaged), places)


def tiny_preset(attacks: Sequence[str] = ("clean", "fgsm", "pgd20")) -> Preset:
    """Two methods, two seeds, networks of half the quick table's width: a table to watch, not one to cite."""
    base = replace(
        QUICK.base, target="cnn-8", guide="cnn-8", epochs=4, warmup=1.0, steps=5, val_steps=3, test_images=100,
        attacks=tuple(attacks),
    )  # fmt: skip
    return Preset(
        name="tiny",
        title="Handwritten digits (8x8), tiny CNN pair",
        command="sweep(preset.experiments(), folder)",
        time="about 20 seconds on one core",
        expect="nothing to rely on: 100 test images",
        base=base,
        rows=("trades", "d2r-cag"),
        seeds=(0, 1),
    )


def tiny_runs(folder: str | Path, attacks: Sequence[str] = ("clean", "fgsm", "pgd20")) -> tuple[Run, ...]:
    """The tiny table's runs: trained and attacked now, or read if `folder` has them. ValueError if one failed."""
    experiments = tiny_preset(attacks).experiments()
    for outcome in sweep(experiments, folder, device="cpu"):
        if outcome.status != "done":
            raise ValueError(f"{outcome.experiment.run_name}: {outcome.status}")
    return tuple(read_run(Path(folder) / experiment.run_name) for experiment in experiments)
