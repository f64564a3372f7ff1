"""How time grows with training images, image size, classes, attack steps, evaluated images, and processes.

    python benchmarks/growth.py                     # all lines
    python benchmarks/growth.py --lines steps size  # some of them
    python benchmarks/growth.py --to growth.json

Each point is an epoch of D2R+CAG by `fit` (WRN-10-1 pair, random pixels, batch 64, one thread; the second epoch of two)
or a PGD-20 evaluation. A straight line is laid through the points by least squares; what is printed beside each is how
far it lies off that line, which shows where growth bends, and what a unit costs against the first point's (for two
processes: how much longer they take than half the time of one).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import results
from d2rkit.core import devices
from d2rkit.core.processes import launch
from d2rkit.data.arrays import Split
from d2rkit.data.datasets import ImageData
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.experiments.experiment import machine
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from d2rkit.planning.synthetic import own_labels
from d2rkit.training.loop import fit
from d2rkit.training.recipe import Recipe


@dataclass(frozen=True)
class Work:
    """What one point costs: an epoch of training or, with evaluated > 0, an evaluation of so many images."""

    images: int = 256
    size: int = 32
    classes: int = 10
    steps: int = 10
    evaluated: int = 0
    processes: int = 1

    def pair(self) -> GuidedPair:
        torch.manual_seed(0)
        return GuidedPair(*(build_model("wrn-10-1", self.classes, self.size) for _ in range(2)))

    def split(self, count: int) -> Split:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (count, 3, self.size, self.size), generator=generator, dtype=torch.uint8)
        return Split(images, torch.randint(0, self.classes, (count,), generator=generator))


# name: (what it is, values, how they set the work, what cost should be proportional to, up to a constant)
LINES = {
    "images": ("training images", (128, 256, 512, 1024), lambda v: Work(images=v), lambda v: v),
    "size": ("image side, in pixels", (16, 32, 48, 64), lambda v: Work(images=128, size=v), lambda v: v * v),
    "classes": ("classes", (10, 100, 200, 1000), lambda v: Work(classes=v), lambda v: v),
    "steps": ("attack steps", (1, 5, 10, 20), lambda v: Work(steps=v), lambda v: v),
    "evaluated": ("evaluated images", (64, 128, 256, 512, 1024), lambda v: Work(evaluated=v), lambda v: v),
    "processes": ("processes", (1, 2), lambda v: Work(images=512, processes=v), lambda v: 1 / v),
}


def epoch(work: Work, folder: str, report=None, should_stop=None) -> None:
    """Two epochs, and the seconds of the second one in a file; alone or as one process of a group."""
    torch.set_num_threads(1)
    recipe = Recipe("d2r-cag-released", epochs=2, batch_size=64, lr=0.01, steps=work.steps, val_steps=1, speed="fast")
    names = tuple(map(str, range(work.classes)))
    data = ImageData("random", names, work.split(work.images), work.split(8), work.split(8), "random pixels")
    fitted = fit(work.pair(), data, recipe, device="cpu")
    if devices.rank() == 0:
        (Path(folder) / "seconds").write_text(str(fitted.history[-1]["seconds"]))


def seconds_of(work: Work) -> float:
    if work.evaluated:
        torch.set_num_threads(1)
        target, images = work.pair().target, work.split(work.evaluated).pixels()
        labels = own_labels(target, images)  # else there is nothing to attack
        began = time.perf_counter()
        evaluate(target, (images, labels), ("pgd20",), 1e-6)
        return time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        if work.processes > 1:
            torch.set_num_threads(work.processes)  # which the processes share
            launch(work.processes, epoch, (work, folder))
        else:
            epoch(work, folder)
        return float((Path(folder) / "seconds").read_text())


def measured(name: str, repeats: int) -> dict:
    """One line: median seconds of each point, the points taken in turns, and how far each lies off a straight line."""
    words, values, work_of, cost = LINES[name]
    seconds = [[seconds_of(work_of(value)) for value in values] for _ in range(repeats)]
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    costs = [cost(value) for value in values]
    slope, base = np.polyfit(costs, medians, 1)
    points = [
        {
            "value": value,
            "seconds": median,
            "off_line": median / (base + slope * c) - 1 if len(values) > 2 else None,  # two points always make a line
            "unit": median / c / (medians[0] / costs[0]),
        }
        for value, median, c in zip(values, medians, costs, strict=True)
    ]
    return {"line": name, "what": words, "base": float(base), "slope": float(slope), "points": points}


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--lines", nargs="*", choices=[*LINES], default=[*LINES], help="which lines")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each line; medians are printed")
    chosen = parser.parse_args()
    lines = []
    for name in chosen.lines:
        lines.append(line := measured(name, chosen.repeats))
        print(f"{line['what']}: {line['base']:.2f} s + {line['slope']:.3g} s a unit of cost")
        for point in line["points"]:
            off = "" if point["off_line"] is None else f"{point['off_line']:+.0%} off the line, "
            print(f"    {point['value']:>6}  {point['seconds']:7.2f} s  {off}{point['unit']:.2f} a unit", flush=True)
    print(machine())
    results.write(chosen.to, lines=lines)


if __name__ == "__main__":
    main()
