"""What the guide pays for the target, over five seeds: the numbers of notebook 13.

    python benchmarks/gradients.py              # writes data/results/gradients.json
    python benchmarks/gradients.py --seeds 2 --to elsewhere.json

Trains D2R+CAG on 8x8 digits with none, one or all of its terms stopped before the guide (`panels/stopped_runs.py`), one
core, some four seconds a run, and measures guide and target on all 397 test images; then takes the gradients of each
term on 100 training images before, during and after training (`panels/gradient_routes.py`). The seeds are 0, 1, 2, ...
and none is left out: a run that fails stops the script.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from d2rkit.data.datasets import ImageData, load_data
from d2rkit.experiments.experiment import Experiment
from d2rkit.panels import measured, stop_seeds, stopped_runs
from d2rkit.panels.gradient_routes import flow, stages
from d2rkit.panels.training_paths import RECIPE


def measure(
    seeds: Sequence[int], stops: Sequence[str] = tuple(stopped_runs.STOPS), *, data: ImageData | None = None,
    recipe: Experiment = RECIPE, epochs: Sequence[int] = (0, 1, 2, 3, 4, 6), images: int = 100, show=print,
) -> dict:  # fmt: skip
    """What `panels.stop_seeds.of_measurement` reads."""
    data = data or load_data(recipe.data)
    began, runs, flows = time.process_time(), {stop: [] for stop in stops}, []
    for seed in seeds:
        for stop in stops:
            networks = stopped_runs.measure(stop, seed, data, recipe=recipe)
            runs[stop].append({name: round(value, 4) for name, value in networks.items()})
            show(f"seed {seed}, {stopped_runs.STOPS[stop].words}: {runs[stop][-1]}")
        batches = stages(data, seed, at=epochs, images=images, recipe=recipe)
        flows.append(stop_seeds.summary([flow(batch, recipe.method) for batch in batches]))
    seconds = time.process_time() - began
    header = measured.facts("python benchmarks/gradients.py", recipe, seeds, len(data.test), seconds)
    return header | {"epochs": list(epochs), "runs": runs, "flows": flows}


def words(measurement: dict) -> str:
    data = stop_seeds.of_measurement(measurement)
    return stop_seeds.words_price(data) + stop_seeds.words_pulls(data)


if __name__ == "__main__":
    sys.exit(measured.command(__doc__, stop_seeds.NAME, measure, words))
