"""Standard AutoAttack, PGD-20 and C&W-20: ours against the plain way, on the same network, images and seed.

    python benchmarks/evaluate.py                     # the shipped CIFAR-10 network (needs CIFAR-10 in the data folder)
    python benchmarks/evaluate.py --network digits    # a digits network that is trained first

The plain way to AutoAttack is one call of `pyautoattack` on the network as it is; to PGD and C&W our own loop on the
network as it is. Ours attacks a copy with folded BatchNorm, with FAB-T's classes and Square's queries side by side, and
lets the network itself judge. Each is timed once, the plain way first; flags that differ are listed. All in float32.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from d2rkit.autoattack import ContiguousGradient, clean_flags, forked_rng
from d2rkit.data import first_of_each_class, load_data
from d2rkit.evaluation import evaluate
from d2rkit.experiment import machine
from d2rkit.pair import eval_mode
from d2rkit.sample_pairs import digits_pair, shipped_pair


def plain_autoattack(network: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int, batch_size: int) -> Tensor:
    """(N,) bool: still right after one call of the package."""
    from pyautoattack import AutoAttack

    with eval_mode(network), forked_rng():
        attack = AutoAttack(
            ContiguousGradient(network), norm="Linf", eps=eps, seed=seed, version="standard", device="cpu"
        )
        x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=batch_size)
        return clean_flags(network, x_adv, y, batch_size)


def compared(network: nn.Module, x: Tensor, y: Tensor, eps: float, batch_size: int) -> list[dict]:
    rows = []
    for attack in ("pgd20", "cw20", "autoattack"):
        began = time.perf_counter()
        if attack == "autoattack":
            plain = plain_autoattack(network, x, y, eps, 0, batch_size)
        else:
            plain = evaluate(network, (x, y), (attack,), eps, batch_size=batch_size, exact=True).flags[attack]
        middle = time.perf_counter()
        ours = evaluate(network, (x, y), (attack,), eps, batch_size=batch_size).flags[attack]
        rows.append(
            {
                "attack": attack,
                "seconds_plain": middle - began,
                "seconds_ours": time.perf_counter() - middle,
                "ratio": (middle - began) / (time.perf_counter() - middle),
                "accuracy_plain": plain.float().mean().item(),
                "accuracy_ours": ours.float().mean().item(),
                "differ": (plain != ours).nonzero().flatten().tolist(),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["small", "digits"], default="small")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", default=None, help="where CIFAR-10 lies")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    sample = shipped_pair("d2r-cag") if chosen.network == "small" else digits_pair("d2r-cag")
    test = (load_data("cifar10", chosen.data_root, "10k") if chosen.network == "small" else load_data("digits")).test
    test = test.take(first_of_each_class(test.labels, chosen.images))
    rows = compared(sample.pair.target, test.pixels(), test.labels, sample.eps, chosen.batch_size)
    if chosen.json:
        print(
            json.dumps(
                {"machine": machine(), "network": sample.title, "images": chosen.images, "attacks": rows}, indent=2
            )
        )
        return
    print(f"{sample.title}, {chosen.images} test images, {machine()}")
    for row in rows:
        print(
            f"{row['attack']:10}  plain {row['seconds_plain']:7.1f} s ({row['accuracy_plain']:.1%})  ours "
            f"{row['seconds_ours']:7.1f} s ({row['accuracy_ours']:.1%})  {row['ratio']:.2f}x  "
            f"flags that differ: {row['differ'] or 'none'}"
        )


if __name__ == "__main__":
    main()
