"""How fast the panels answer, and whether they leak.

    python benchmarks/panels.py                        # all of them
    python benchmarks/panels.py --only scatter --to panels.json

For each panel: the time from a slider's new value to the new picture and words, median over 30 moves, in wall
and in CPU time (a busy machine spoils the first only), and the growth of resident memory over 200 moves of the
same slider, after a warm-up. Limits: 150 ms (analytic), 1 s (attack), 2 s (retraining); 20 MB.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import results
from d2rkit.panels import AdversarialImage, CagCompare, DivergenceExplorer, GuideAndTarget, LogitScatter, Panel
from d2rkit.panels.sample_pairs import digits_pair, undefended_cifar10

MOVES, LONG = 30, 200


def resident_mb() -> float:
    """Resident memory of this process, MB (Linux); NaN elsewhere."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def move(panel: Panel, slider: str, number: int) -> None:
    spec = panel.controls[slider].spec
    places = round((spec.high - spec.low) / spec.step)
    value = spec.low + spec.step * (1 + (7 * number + 3) % max(places - 1, 1))
    panel.controls[slider].main.value = type(spec.value)(value)


def measure(
    name: str, make: Callable[[], Panel], slider: str, limit: float, long: int
) -> dict[str, float | str | bool]:
    panel = make()
    for i in range(5):
        move(panel, slider, i)
    wall, cpu = [], []
    for i in range(5, 5 + MOVES):
        before = time.perf_counter(), time.process_time()
        move(panel, slider, i)
        wall.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
    start = resident_mb()
    for i in range(long):
        move(panel, slider, i)
    growth = resident_mb() - start
    if panel.error:
        raise RuntimeError(f"{name}: {panel.error}")
    seconds = statistics.median(wall)
    return {
        "panel": name, "wall_s": round(seconds, 3), "cpu_s": round(statistics.median(cpu), 3), "limit_s": limit,
        "in_time": seconds <= limit, "moves": long, "growth_mb": round(growth, 1), "no_leak": growth < 20,
    }  # fmt: skip


def line(r: dict) -> str:
    return (
        f"{r['panel']:30s} {1000 * r['wall_s']:6.0f}ms {1000 * r['cpu_s']:6.0f}ms {1000 * r['limit_s']:5.0f}ms"
        f" {'ok ' if r['in_time'] else 'NO '} {r['growth_mb']:12.1f} MB {'ok' if r['no_leak'] else 'NO'}"
    )


def main() -> int:
    parser = results.parser(__doc__)
    parser.add_argument("--long", type=int, default=LONG, help="moves over which memory is watched (default 200)")
    parser.add_argument("--only", default="", help="only panels whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pair = digits_pair(epochs=2)
    panels = [
        ("divergence explorer", DivergenceExplorer, "guide_a", 0.15),
        ("adversarial image, digits", lambda: AdversarialImage(pair, 100 / 255), "eps255", 1.0),
        ("logit scatter", lambda: LogitScatter(pair, 100 / 255), "eps255", 1.0),
        ("three attacks", lambda: CagCompare(pair, 100 / 255), "eps255", 1.0),
        ("guide and target", GuideAndTarget, "w_adv", 2.0),
    ]
    try:
        contrast = undefended_cifar10()
        panels.append(
            (
                "adversarial image, ResNet-18",
                lambda: AdversarialImage(contrast, curve_images=8, curve_steps=3),
                "eps255",
                1.0,
            )
        )
    except ValueError as missing:
        print(missing, file=sys.stderr)
    rows = []
    print(f"{'panel':30s} {'median':>8s} {'CPU':>8s} {'limit':>7s}   {'growth over ' + str(options.long):>16s}")
    for panel in panels:
        if options.only in panel[0]:
            rows.append(measure(*panel, options.long))
            print(line(rows[-1]), flush=True)
    results.write(options.to, panels=rows)
    return 0 if all(r["in_time"] and r["no_leak"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
