"""The networks and the attacks behind notebook 12, whose files lie in data/results/sandwich.

    python benchmarks/sandwich.py                 # all of it, single-threaded; stopped, it goes on where it was
    python benchmarks/sandwich.py --folder /tmp/sandwich --seeds 1 --images 20 --epochs 2     # a try

Small ReLU networks (64, 64, 32, 10) on digits, three ways of training, five seeds. First the radius to train with and
the share of the worst case in the loss are chosen: on the validation images, by the share that interval bounds prove at
the notebook's eps (`choice`). Then every seed is attacked with standard AutoAttack at that eps, on the first test
images, and bounded (`seeds`); and the networks of seed 0, whose weights are kept, at many radii, from which each image
gets the smallest radius at which it fell (`broken`).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from d2rkit.core.files import read_json, write_json
from d2rkit.data.datasets import load_data
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.experiments.experiment import machine
from d2rkit.networks.bounds import affine_layers, certified
from d2rkit.networks.checkpoints import save_weights
from d2rkit.training.certified import HOW, fit_relu_mlp

EPS = 15 / 255  # the notebook's
RADII = (3, 6, 10, 15, 20, 26, 32)  # in 1/255, of the attacks on seed 0
CANDIDATES = [(radius, worst) for radius in (15, 20, 25) for worst in (0.5, 1.0)]  # training radius in 1/255, share
FIRST = 100  # test images


def proven(network, x, y, eps: float, how: str) -> list[bool]:
    return certified(affine_layers(network, x.shape[1:]), x, y, eps, how).tolist()


def share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def choose(data, epochs: int) -> dict:
    """The candidate that proves most validation images at EPS; the first one of equals."""
    x, y, rows = data.val.pixels(), data.val.labels, []
    for radius, worst in CANDIDATES:
        network = fit_relu_mlp(data.train, "ibp", radius / 255, 0, epochs=epochs, worst=worst)
        right = (network(x).argmax(1) == y).tolist()
        proofs = proven(network, x, y, EPS, "ibp")
        rows.append({"radius255": radius, "worst": worst, "clean": share(right), "proven": share(proofs)})
        print(rows[-1], flush=True)
    best = max(rows, key=lambda row: row["proven"])
    return {"images": len(y), "candidates": rows, "chosen": best}


def train(how: str, data, seed: int, chosen: dict, epochs: int):
    radius = chosen["radius255"] / 255 if how == "ibp" else EPS
    return fit_relu_mlp(data.train, how, radius, seed, epochs=epochs, worst=chosen["worst"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    home = Path(__file__).parents[1] / "data" / "results" / "sandwich"
    parser.add_argument("--folder", type=Path, default=home)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=FIRST)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    file, data = options.folder / "sandwich.json", load_data("digits")
    x, y = data.test.pixels()[: options.images], data.test.labels[: options.images]
    asked = {"eps255": 255 * EPS, "images": len(y), "epochs": options.epochs, "radii255": list(RADII)}
    kept = read_json(file) if file.exists() else asked
    if any(kept.get(name) != value for name, value in asked.items()):
        sys.exit(f"{file} holds a measurement with other settings; choose another --folder")
    kept |= {"machine": machine(), "torch": torch.__version__}
    kept.setdefault("choice", None)
    kept["choice"] = kept["choice"] or choose(data, options.epochs)
    for part in ("seeds", "broken", "seconds"):
        kept.setdefault(part, {})
    write_json(file, kept)
    for seed in range(options.seeds):
        for how in HOW:
            name, began = f"{how}-{seed}", time.process_time()
            if name in kept["seeds"] and (seed or name in kept["broken"]):
                continue
            network = train(how, data, seed, kept["choice"]["chosen"], options.epochs)
            flags = evaluate(network, (x, y), ("clean", "autoattack"), EPS).flags
            kept["seeds"][name] = {
                "clean": int(flags["clean"].sum()),
                "survived": "".join(str(int(f)) for f in flags["autoattack"]),
                **{
                    bound: "".join(str(int(f)) for f in proven(network, x, y, EPS, bound)) for bound in ("ibp", "crown")
                },
            }
            if not seed:
                save_weights(options.folder / f"{how}.safetensors", network, None)
                kept["broken"][name] = radii(network, x, y, flags["autoattack"])
            kept["seconds"][name] = round(time.process_time() - began, 1)
            write_json(file, kept)
            print(
                name, {k: v for k, v in kept["seeds"][name].items() if k == "clean"}, kept["seconds"][name], flush=True
            )


def radii(network, x, y, at_eps: torch.Tensor) -> list[int]:
    """For each image the smallest of RADII, in 1/255, at which AutoAttack broke it; 0: its clean prediction is wrong;
    -1: none did. What fell within a smaller radius is not attacked again: it lies in every larger ball too."""
    fallen = torch.where(network(x).argmax(1) == y, -1, 0)
    for radius in RADII:
        standing = (fallen == -1).nonzero().flatten()
        if radius / 255 == EPS:
            left = at_eps[standing]
        elif len(standing):
            left = evaluate(network, (x[standing], y[standing]), "autoattack", radius / 255).flags["autoattack"]
        fallen[standing[~left]] = radius
    return fallen.tolist()


if __name__ == "__main__":
    main()
