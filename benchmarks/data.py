"""Data: how fast a data set is ready, how much memory it takes, and what augmentation costs of a training step.

    python benchmarks/data.py
    python benchmarks/data.py --to data.json

Arrays are random pixels in the shapes of CIFAR-10 and Tiny ImageNet. Loading is timed in a process of its own, from an
array cache that was just written (so it comes from the system's file cache, as in every run but the first). Memory:
what the process grew by at its peak, over the size of the arrays. Augmentation: indices, crop, flip and floats of a
batch of 128 against the whole step of D2R+CAG on the pair of `small`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import results
from benchmarks.step import Case, Ours, pair_of
from benchmarks.timing import alternated
from d2rkit.core.processes import Worker
from d2rkit.data.arrays import write_cache
from d2rkit.data.datasets import augment, load_data
from d2rkit.experiments.experiment import machine
from d2rkit.planning.synthetic import SHAPES, Counts, peak_memory, random_data

CACHES = {"cifar10": "cifar10", "tiny-imagenet": "tiny-imagenet-200"}  # stems of the files in the cache folder
SMALL = Case("small", "wrn-10-1", "wrn-10-1", 128)


def loaded(name: str, root: str) -> dict[str, float]:
    """In this process: seconds until the splits are there, and by how much memory grew over the arrays' size."""
    before = peak_memory("cpu")[0]
    began = time.perf_counter()
    data = load_data(name, root, download=False)
    seconds = time.perf_counter() - began
    arrays = sum(t.nbytes for split in (data.train, data.val, data.test) for t in (split.images, split.labels))
    return {"seconds": seconds, "arrays_mib": arrays / 2**20, "memory_ratio": (peak_memory("cpu")[0] - before) / arrays}


def loading() -> list[dict]:
    rows = []
    for name, stem in CACHES.items():
        with tempfile.TemporaryDirectory() as root, Worker(1) as worker:
            images = random_data(name, Counts(SHAPES[name].train, 1, SHAPES[name].test))
            write_cache(Path(root) / "cache" / f"{stem}.safetensors", images.train, images.test, images.class_names)
            del images
            rows.append({"data": name, **worker.submit(loaded, name, root).result()})
    return rows


def augmentation(repeats: int = 7) -> dict[str, float]:
    """Seconds of preparing a batch, seconds of a step, and the share."""
    torch.set_num_threads(1)
    ours = Ours(pair_of(SMALL), SMALL, "32-true")
    images = random_data("cifar10", Counts(9_000, 1, 1)).train.to(ours.fabric.device)
    generator = torch.Generator(ours.fabric.device).manual_seed(0)
    index = torch.randperm(len(images))[: SMALL.batch].to(ours.fabric.device)

    def prepared():
        return augment(images.images[index], 4, True, generator).float() / 255, images.labels[index]

    batch = prepared()
    medians = {
        name: statistics.median(seconds)
        for name, seconds in alternated({"augment": prepared, "step": lambda: ours(*batch)}, repeats).items()
    }
    return {
        "seconds_augment": medians["augment"],
        "seconds_step": medians["step"],
        "share": medians["augment"] / medians["step"],
    }


def main() -> None:
    parser = results.parser(__doc__)
    chosen = parser.parse_args()
    loads, row = loading(), augmentation()
    results.write(chosen.to, loading=loads, augmentation=row)
    print(machine())
    for load in loads:
        print(
            f"{load['data']:14} ready in {load['seconds']:.2f} s; arrays {load['arrays_mib']:.0f} MiB, memory grew by "
            f"{load['memory_ratio']:.2f} times that"
        )
    print(
        f"augmentation   {1e3 * row['seconds_augment']:.1f} ms of a step of {1e3 * row['seconds_step']:.0f} ms: "
        f"{row['share']:.2%} (WRN-10-1 pair, batch {SMALL.batch}, one thread)"
    )


if __name__ == "__main__":
    main()
