"""Run folders: what their files say of each other must agree, and each experiment counts once.

A number is believed only where flags, weights, settings and name belong together; whatever does not is left out
and named, by every reader alike.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2rkit.core.paths import flags_folder
from d2rkit.experiments.run_files import read_flags, read_result
from d2rkit.networks.checkpoints import digests_beside
from d2rkit.training.history import ROUNDED, read_history

if TYPE_CHECKING:
    from d2rkit.experiments.experiment import Experiment, Run


def evaluation_folder(folder: Path, checkpoint: str) -> Path:
    """Where the flags of a checkpoint lie in a run folder."""
    return folder / flags_folder(checkpoint)


def history_of(run: Run) -> list[dict[str, float]]:
    """history.csv, one row an epoch (a missing value is NaN); empty if there is none, ValueError if it is damaged."""
    return read_history(run.folder / "history.csv")


def name_of(folder: Path) -> str:
    """What a folder is called, however one came to it (".", "a/..")."""
    return os.path.basename(os.path.abspath(folder))


def checked_result(folder: Path, experiment: Experiment) -> dict[str, Any]:
    """result.json of a finished run, held against name, settings, history, flags and weights of its folder.

    ValueError, in one sentence, for the first thing that does not belong to the others: every accuracy must be that
    of its flags, and flags of one checkpoint must be of the same weights, as far as digests were written down."""
    if experiment.run_name != name_of(folder):
        raise ValueError(f"{folder} holds the run {experiment.run_name}, whose folder must be called so")
    result = read_result(folder / "result.json")
    history = read_history(folder / "history.csv")
    if history and len(history) != result.get("epochs", len(history)):
        raise ValueError(f"{folder / 'history.csv'} has {len(history)} epochs, but result.json {result['epochs']}")
    if history and (missing := {"val_clean", "val_pgd", "seconds"} - history[0].keys()):
        raise ValueError(f"{folder / 'history.csv'} has no column {min(missing)!r}")
    images: dict[Any, Path] = {}
    for checkpoint, accuracies in result["accuracy"].items():
        if checkpoint not in experiment.checkpoints:
            raise ValueError(f"{folder / 'result.json'} has accuracies of {checkpoint!r}, which config.json lacks")
        weights = dict.fromkeys([result.get("weights", {}).get(checkpoint)], "result.json")
        file = folder / f"{checkpoint}.safetensors"
        if file.exists():
            weights.setdefault(digests_beside(file).get("target"), file.name)
        for attack, accuracy in accuracies.items():
            if attack not in experiment.attacks:
                raise ValueError(f"{folder / 'result.json'} has accuracies under {attack!r}, which config.json lacks")
            file = evaluation_folder(folder, checkpoint) / f"{attack}.npz"
            facts = _checked_flags(file, accuracy, attack, experiment, result["n_test"])
            weights.setdefault(facts.get("weights"), f"{file.parent.name}/{file.name}")
            images.setdefault(facts.get("images"), file)
        weights.pop(None, None)
        if len(weights) > 1:
            (one, where), (two, there) = list(weights.items())[:2]
            words = f"{where} speaks of weights {one}, {there} of weights {two}"
            raise ValueError(f"{folder} holds numbers of other weights: {words}")
    images.pop(None, None)
    if len(images) > 1:
        one, two = list(images.values())[:2]
        raise ValueError(f"{folder}: {one.name} and {two.name} are of different images")
    return result


def _checked_flags(file: Path, accuracy: float, attack: str, experiment: Experiment, count: int) -> dict[str, Any]:
    """The facts of a flags file whose flags give this accuracy."""
    flags, facts = read_flags(file)
    if flags.size != count:
        raise ValueError(f"{file} holds {flags.size} flags, not one for each of {count} images")
    share = flags.sum() / count
    if abs(share - accuracy) > ROUNDED:
        raise ValueError(f"{file} has an accuracy of {share:.4f}, but result.json says {accuracy:.4f}")
    for name, wanted in (("eps", experiment.radius), ("seed", experiment.seed), ("count", count)):
        same = name not in facts or math.isclose(float(facts[name]), wanted, rel_tol=1e-9)
        if not same and (name, attack) != ("eps", "clean"):  # without an attack any radius will do
            raise ValueError(f"{file} was measured with {name} {facts[name]}, but the run is of {name} {wanted}")
    return facts


@dataclass(frozen=True)
class FoundRuns:
    """runs: finished ones, each experiment once. left_out: folders that do not count and why, in sentences. places:
    where was looked."""

    runs: tuple[Run, ...]
    left_out: tuple[str, ...]
    places: tuple[Path, ...]


def find(places: Sequence[Path], read: Callable[[Path], Run]) -> FoundRuns:
    """All finished runs below `places`, the first place first and in each by depth and name.

    An experiment counts once. Its second folder below one place is named; one below another place is not, since
    packed runs lie beside those that they are copies of."""
    runs: dict[str, tuple[Path, Run]] = {}
    left_out = []
    for place in places:
        for folder in sorted(_with_results(place), key=lambda path: (len(path.parts), path)):
            try:
                run = read(folder)
            except (ValueError, OSError) as error:
                left_out.append(f"left out: {' '.join(str(error).split())}")
                continue
            where, first = runs.setdefault(run.experiment.run_name, (place, run))
            if first is not run and where == place:
                left_out.append(f"left out: {folder} is the same experiment as {first.folder}, which counts once")
    return FoundRuns(tuple(run for _, run in runs.values()), tuple(left_out), tuple(places))


def _with_results(place: Path) -> Iterator[Path]:
    """Folders with a result.json at any depth; links are followed, but not in circles."""
    seen = set()
    for here, folders, files in os.walk(place, followlinks=True):
        if "result.json" in files or "result.json" in folders:
            folders.clear()  # a run folder has no runs inside
            yield Path(here)
        elif (real := os.path.realpath(here)) in seen:
            folders.clear()
        else:
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
