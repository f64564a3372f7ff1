"""Does bfloat16 cost accuracy? The same table trained in both precisions, AutoAttack in float32 on both.

    python benchmarks/precision.py                                   # d2r-cag of quick, five seeds
    python benchmarks/precision.py --preset small --seeds 1 --data-root data

Runs are those of `d2rkit reproduce PRESET --rows ROW --seeds N`, with and without `--precision bf16-mixed`: what is
done is not done again. The difference is paired, on the same images and seeds; its interval is a bootstrap over images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import results
from d2rkit.core.paths import home
from d2rkit.experiments.experiment import machine, read_run
from d2rkit.experiments.presets import PRESETS, get_preset
from d2rkit.experiments.sweep import sweep
from d2rkit.reporting.significance import bootstrap_difference, flags_of

PRECISIONS = ("32-true", "bf16-mixed")


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--preset", choices=[*PRESETS], default="quick")
    parser.add_argument("--row", default="d2r-cag")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="runs at once, one thread each")
    parser.add_argument("--runs", type=Path, default=home("runs"), help="folder of run folders")
    parser.add_argument("--data-root", default=None)
    chosen = parser.parse_args()
    preset = get_preset(chosen.preset)
    flags, seconds = {}, {}
    for precision in PRECISIONS:
        table = preset if precision == preset.base.precision else preset.adapted(precision=precision)
        cells = table.experiments((chosen.row,), chosen.seeds)
        outcomes = sweep(cells, chosen.runs, workers=chosen.workers, data_root=chosen.data_root)
        for outcome in outcomes:
            if outcome.status != "done":
                sys.exit(f"{outcome.experiment.run_name}: {outcome.status}")
        runs = [read_run(chosen.runs / cell.run_name) for cell in cells]
        flags[precision] = np.stack([flags_of(run, "autoattack") for run in runs])
        seconds[precision] = float(np.mean([run.result["train_seconds"] for run in runs]))
    single, half = (flags[precision] for precision in PRECISIONS)
    apart = bootstrap_difference(half, single)
    row = {
        "preset": preset.name, "row": chosen.row, "seeds": len(single), "images": single.shape[1],
        "autoattack": {p: flags[p].mean(1).tolist() for p in PRECISIONS},
        "difference": apart.difference, "low": apart.low, "high": apart.high,
        "train_seconds": seconds,
    }  # fmt: skip
    results.write(chosen.to, **row)
    print(f"{preset.title}, {chosen.row}, {len(single)} seed(s), {single.shape[1]} test images; {machine()}")
    for precision in PRECISIONS:
        each = " ".join(f"{value:.1%}" for value in row["autoattack"][precision])
        mean, spent = flags[precision].mean(), seconds[precision]
        print(f"{precision:10}  AutoAttack {mean:.1%} ({each}); {spent:.0f} s of training")
    print(f"bf16-mixed - 32-true: {apart.difference:+.1%} ({apart.low:+.1%} to {apart.high:+.1%}, 95 %)")


if __name__ == "__main__":
    main()
