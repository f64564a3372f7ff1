"""Do attacks in bfloat16 find as much as attacks in float32, if the network judges in float32?

    python benchmarks/attack_precision.py                       # the shipped CIFAR-10 pairs, 100 images each
    python benchmarks/attack_precision.py --images 500 --pairs d2r-cag trades

For each network, the images that are still right under each attack, in either precision, and those on which the two
differ. TF32, the default of attacks on a CUDA GPU, rounds what goes into a convolution to 10 bits of mantissa, bfloat16
to 7: what bfloat16 does not cost, TF32 does not either.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import results
from d2rkit.data.datasets import first_of_each_class, load_data
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.experiments.experiment import machine
from d2rkit.panels.sample_pairs import shipped_pair

COMPARED = ("pgd20", "cw20", "autoattack")


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--pairs", nargs="+", default=["d2r-cag-released", "trades", "pgd-at"])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--attacks", nargs="+", default=COMPARED)
    parser.add_argument("--data-root", default=None, help="where CIFAR-10 lies")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    try:
        test = load_data("cifar10", chosen.data_root, test_only=True).test
        samples = [shipped_pair(name) for name in chosen.pairs]
    except ValueError as error:
        sys.exit(str(error))
    test = test.take(first_of_each_class(test.labels, chosen.images))
    print(f"{chosen.images} CIFAR-10 test images, {machine()}")
    rows = []
    for sample in samples:
        flags = {
            precision: evaluate(sample.pair, test, chosen.attacks, sample.eps, attack_precision=precision).flags
            for precision in ("32-true", "bf16")
        }
        for attack in chosen.attacks:
            exact, low = (flags[precision][attack] for precision in flags)
            row = {
                "network": sample.title, "attack": attack, "images": len(exact),
                "right_float32": int(exact.sum()), "right_bfloat16": int(low.sum()),
                "only_bfloat16_breaks": int((exact & ~low).sum()), "only_float32_breaks": int((low & ~exact).sum()),
            }  # fmt: skip
            rows.append(row)
            print(
                f"{sample.title:35} {attack:10} right under float32 {row['right_float32']}, bfloat16 "
                f"{row['right_bfloat16']}; only bfloat16 breaks {row['only_bfloat16_breaks']}, only float32 "
                f"{row['only_float32_breaks']}",
                flush=True,
            )
    results.write(chosen.to, networks=rows)


if __name__ == "__main__":
    main()
