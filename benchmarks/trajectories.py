"""The paths of notebook 10 for five seeds: what each term of the D2R loss does to where training ends.

    python benchmarks/trajectories.py              # writes data/results/trajectories.json
    python benchmarks/trajectories.py --seeds 2 --to elsewhere.json

Trains every setting of `panels/training_paths.py` (all terms; one switched off; guide detached) on 8x8 digits, one
core, some five seconds a run, and keeps distances between f(x'), g(x) and the truth on 100 test images at 22 moments.
The seeds are 0, 1, 2, ... and none is left out: a run that fails stops the script.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from d2rkit.data.datasets import ImageData, load_data
from d2rkit.experiments.experiment import Experiment
from d2rkit.panels import measured, path_seeds
from d2rkit.panels.training_paths import IMAGES, RECIPE, SETTINGS, record


def measure(
    seeds: Sequence[int], settings: Sequence[str] = tuple(SETTINGS), *, data: ImageData | None = None,
    images: int = IMAGES, recipe: Experiment = RECIPE, show=print,
) -> dict:  # fmt: skip
    """What `panels.path_seeds.of_measurement` reads."""
    data = data or load_data(recipe.data)
    began, runs, moments = time.process_time(), {setting: [] for setting in settings}, []
    for seed in seeds:
        for setting in settings:
            path = record(setting, seed, data, images=images, recipe=recipe)
            runs[setting].append(path_seeds.summary(path))
            moments = path.moments.round(4).tolist()
            show(f"seed {seed}, {path.words}: f(x') {runs[setting][-1]['from_guide'][-1]:.4f} from g(x)")
    seconds = time.process_time() - began
    header = measured.facts("python benchmarks/trajectories.py", recipe, seeds, images, seconds)
    return header | {"moments": moments, "runs": runs}


def words(measurement: dict) -> str:
    data = path_seeds.of_measurement(measurement)
    return path_seeds.words_farther(data) + path_seeds.words_turn(data)


if __name__ == "__main__":
    sys.exit(measured.command(__doc__, path_seeds.NAME, measure, words))
