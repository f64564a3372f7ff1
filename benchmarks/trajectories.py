"""The paths of notebook 10 for five seeds: what each term of the D2R loss does to where training ends.

    python benchmarks/trajectories.py              # writes data/results/trajectories.json
    python benchmarks/trajectories.py --seeds 2 --to elsewhere.json

Trains every setting of `panels/training_paths.py` (all terms; one switched off; none into the guide) on 8x8 digits, one
core, some five seconds a run, and keeps distances between f(x'), g(x) and the truth on 100 test images at 22 moments.
The seeds are 0, 1, 2, ... and none is left out: a run that fails stops the script.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from d2rkit.core.paths import shipped
from d2rkit.data.datasets import ImageData, load_data
from d2rkit.experiments.experiment import Experiment
from d2rkit.panels import base, measured, path_seeds
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on (default 5)")
    parser.add_argument("--to", type=Path, default=shipped("results") / path_seeds.NAME)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: one seed says nothing about others")
    torch.set_num_threads(1)
    found = measure(range(options.seeds))
    measured.write(options.to, found)
    data = path_seeds.of_measurement(found)
    print(base.plain_text(path_seeds.words_farther(data) + path_seeds.words_turn(data)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
