"""Writes the tables and figures of README.md and docs/*.md from data/results, each between two markers.

python docs/refresh.py           after results have changed
python docs/refresh.py --check   writes nothing; exit status 1 if a page is not what the results say

A table lies between `<!-- results of NAME -->` and `<!-- end of results -->`, NAME being one of TABLES; a figure in a
sentence between `<!-- KIND: WORD | WORD -->` and `<!-- / -->`, KIND being one of FIGURES and the words its arguments.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PROJECT = Path(__file__).resolve().parents[1]
PAGES = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
RESULTS = PROJECT / "data" / "results"
MARKED = re.compile(r"(<!-- results of (\w+) -->\n).*?(<!-- end of results -->\n)", re.DOTALL)
MARKED_FIGURE = re.compile(r"(<!-- (\w+): ([^>]+?) -->).*?(<!-- / -->)")
BEYOND_CHANCE = 0.05  # after Holm
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def shipped(name: str) -> list[list[str]]:
    """The cells of the main table in data/results/NAME/table.md, its header first; rows that have been run."""
    lines = (RESULTS / name / "table.md").read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| Method"))
    after = next(number for number, line in enumerate(lines[first:], first) if not line.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first:after]]
    return [[re.sub(r" \[\w+\]$", "", row[0]), *row[1:]] for row in (cells[0], *cells[2:]) if "`" not in row[1]]


def tests(table: str) -> pd.DataFrame:
    """The paired tests of a table by the labels of its rows."""
    return pd.read_csv(RESULTS / table / "paired.csv").set_index("label")


def paired(name: str) -> dict[str, tuple[str, str]]:
    """Label of a row -> difference with its interval, in points, and the Holm-adjusted p."""
    words = {}
    for label, row in tests(name).iterrows():
        difference, low, high = (_signed(row[column]) for column in ("difference", "low", "high"))
        words[label] = (f"{difference} ({low} to {high})", p_value(name, label))
    return words


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def quick() -> list[list[str]]:
    return shipped("quick")


def headline() -> list[list[str]]:
    """The medium table as README has it: the attacks, and the difference from TRADES."""
    return [[*row[: len(ATTACKED)], row[-1]] for row in medium()]


ATTACKED = ("Method", "Clean", "FGSM", "PGD-20", "C&W-20", "AutoAttack")


def small() -> list[list[str]]:
    """All attacks, and the difference from TRADES."""
    (header, *rows), tests = shipped("small"), paired("small")
    beside = [[*row[:-1], tests.get(row[0], ("", ""))[0]] for row in rows]
    return [[*header[:-1], "against TRADES, 95 % interval"], *beside]


def medium() -> list[list[str]]:
    """All attacks, the guide's clean accuracy, and the difference from TRADES."""
    (header, *rows), tests = shipped("medium"), paired("medium")
    guides = pd.read_csv(RESULTS / "medium" / "runs.csv").groupby("label")["guide_clean"].mean()
    beside = [
        [*row[:-1], "" if math.isnan(guides[row[0]]) else f"{100 * guides[row[0]]:.1f}", tests.get(row[0], ("", ""))[0]]
        for row in rows
    ]
    return [[*header[:-1], "its guide, clean", "against TRADES, 95 % interval"], *beside]


def family() -> list[list[str]]:
    """Clean, PGD-20 and AutoAttack, and the difference from D2R+CAG."""
    (header, *rows), tests = shipped("family"), paired("family")
    kept = [header.index(name) for name in ("Method", "Clean", "PGD-20", "AutoAttack")]
    plain = [[*(row[at].strip("*") for at in kept), *tests.get(row[0], ("", ""))] for row in rows]
    return [[*(header[at] for at in kept), "against D2R+CAG, 95 % interval", "p (Holm)"], *plain]


def ablation() -> list[list[str]]:
    """AutoAttack of the rows that the page speaks of, two side by side; in the page's own, shorter words."""
    (header, *rows) = shipped("ablation")
    measured = {row[0]: row[header.index("AutoAttack")].strip("*") for row in rows}
    cells = [[words, measured[label]] for label, words in ABLATED.items()]
    half = len(cells) // 2
    return [["", "AutoAttack"] * 2, *(left + right for left, right in zip(cells[:half], cells[half:], strict=True))]


ABLATED = {
    "D2R+CAG (symmetric)": "D2R+CAG (symmetric)",
    "D2R+CAG: without MSE": "without MSE",
    "D2R+CAG: without the clean term KL1 + KL2": "without KL1 + KL2",
    "D2R+CAG: without the adversarial term KL5": "without KL5",
    "D2R+CAG: MSE and CE only": "MSE and CE only",
    "D2R without CAG": "TRADES' attack instead of CAG",
    "D2R+CAG: two optimiser steps per batch": "two optimiser steps per batch",
    "D2R+CAG (released)": "as released (gap, weights 20 and 30)",
    "D2R+CAG (Jeffreys, adversarial)": "Jeffreys, adversarial",
    "D2R+CAG: guide detached": "guide detached",
    "D2R+CAG: guide pretrained alone for 5 epochs": "guide pretrained alone for 5 epochs",
    "D2R+CAG: half of CAG's objective through the guide": "half of CAG's objective through the guide",
}


def recipes() -> list[list[str]]:
    """Validation accuracy of each learning rate and batch size of `quick`, and the difference from the preset's."""
    rows = pd.read_csv(RESULTS / "quick" / "recipes.csv").to_dict("records")
    header = ["learning rate", "batch size", "PGD-3, validation", "difference ± standard error"]
    apart = [f"{row['difference']:+.1f} ± {row['standard_error']:.1f}".replace("-", "−") for row in rows]
    return [header] + [
        [str(row["lr"]), str(row["batch_size"]), f"{row['mean']:.1f}", words if row["difference"] else "the preset's"]
        for row, words in zip(rows, apart, strict=True)
    ]


def measured(file: str, path: str) -> Any:
    """What is at `path` in data/results/FILE.json: keys joined by dots; in a list, a number or a word that only one
    entry has among its values."""
    inner = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
    for key in path.split("."):
        if isinstance(inner, list) and not key.isdigit():
            (inner,) = (entry for entry in inner if key in entry.values())
        else:
            inner = inner[int(key) if isinstance(inner, list) else key]
    return inner


def steps() -> list[list[str]]:
    """A training step as released, ours against it, and the same in bfloat16 on the other CPU."""
    bfloat16 = "with `--precision bf16-mixed`, on another CPU"
    rows = [["networks, batch", "step as released", "speed-up", "share of peak", bfloat16]]
    for case, words in CASES.items():
        ours, seconds = (measured("speed", f"step.avx512.cases.{case}{field}") for field in ("", ".seconds_released"))
        shown = f"{seconds:.2f} s" if seconds > 1 else f"{seconds:.3f} s"
        fast = spread("speed", f"step.bfloat16_units.cases.{case}.fast")
        rows.append([words, shown, spread_of(ours["exact"]), number_of(ours["share_of_peak"], ".0%"), fast])
    return rows


CASES = {
    "resnet18-preactresnet18": "ResNet-18 guide, PreActResNet-18 target, 32",
    "wrn-34-10": "ResNet-18 guide, WRN-34-10 target, 4",
    "wrn-small": "WRN-10-1 guide, WRN-10-2 target, 128",
    "digits-cnn": "CNN pair on digits, 64, three attack steps",
}


def levers() -> list[list[str]]:
    """The speed-up of the attack alone by each optimisation alone."""
    cases = {"ResNet-18s": "resnet18-preactresnet18", "WRN-10": "wrn-small", "digits": "digits-cnn"}
    alone = [measured("speed", f"levers.cases.{case}.levers") for case in cases.values()]
    return [["optimisation", *cases]] + [
        [words, *(f"{each[name]['median']:.2f}" if name in each else lacking for each in alone)]
        for name, (words, lacking) in LEVERS.items()
    ]


LEVERS = {  # name in benchmarks/step.py: the page's words, and those where there is nothing to measure
    "guide hoisted": ("guide forwarded once", ""),
    "frozen": ("parameters frozen", ""),
    "ReLUs in place": ("ReLUs in place", "as released"),
    "channels_last": ("channels_last", ""),
    "channels_last, widest contiguous": ("channels_last, convolutions to 512 channels contiguous", "not applicable"),
    "these, frozen, BatchNorm folded": ("this memory format, frozen, BatchNorm folded", ""),
    "folded, hoisted": ("the same with the guide forwarded once", ""),
    "folded, hoisted, compiled": ("the same compiled (`--compile`, `torch.compile`)", ""),
}


def anytime() -> list[list[str]]:
    """AutoAttack's bound early on, for several orders of its attacks; in percent."""
    networks = measured("anytime", "networks")
    orders = ["standard", "1, 3 targets", "1 target", "3 targets", "small margins"]
    rows = [["network", "clean", "AutoAttack", *(f"**{o}**" if o == "1, 3 targets" else o for o in orders)]]
    for name, found in networks.items():
        bounds = [found["orders"][order]["bound"] for order in orders]
        cells = [f"{100 * bound:.1f} ({100 * (bound - found['autoattack']):+.1f})" for bound in bounds]
        rows.append([f"`{name}`", f"{100 * found['clean']:.1f}", f"{100 * found['autoattack']:.1f}", *cells])
    return rows


TABLES: dict[str, Callable[[], list[list[str]]]] = {
    each.__name__: each for each in (headline, quick, small, medium, family, ablation, recipes, steps, levers, anytime)
}


# -- figures in sentences ---------------------------------------------------------------------------------------------
def p_value(table: str, label: str) -> str:
    p = tests(table).loc[label, "p_holm"]
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def difference(table: str, label: str) -> str:
    return _signed(tests(table).loc[label, "difference"])


def points(table: str, label: str) -> str:
    """A difference without its sign, in whole points."""
    return f"{abs(100 * tests(table).loc[label, 'difference']):.0f}"


def _beyond_chance(table: str, yes: bool) -> pd.DataFrame:
    rows = tests(table)
    return rows[(rows["p_holm"] < BEYOND_CHANCE) == yes]


def count_beyond_chance(table: str) -> str:
    return COUNTS[len(_beyond_chance(table, True))]


def points_beyond_chance(table: str) -> str:
    """From the least to the greatest of the differences that are beyond chance, in whole points."""
    sizes = 100 * _beyond_chance(table, True)["difference"].abs()
    return f"{sizes.min():.0f} to {sizes.max():.0f}"


def greatest_p_beyond_chance(table: str) -> str:
    return f"{_beyond_chance(table, True)['p_holm'].max():.3f}"


def within_chance(table: str) -> str:
    """What the other differences do not exceed, in points, rounded up."""
    return f"{math.ceil(1000 * _beyond_chance(table, False)['difference'].abs().max()) / 10:.1f}"


def standard_error(table: str) -> str:
    """The greatest that the number of test images alone gives one accuracy, in points."""
    (images,) = pd.read_csv(RESULTS / table / "runs.csv")["n_test"].unique()
    return f"{100 * math.sqrt(0.25 / images):.1f}"


def _means(table: str, attack: str) -> pd.Series:
    """By label of the row, in percent."""
    return 100 * pd.read_csv(RESULTS / table / "runs.csv").groupby("label")[attack].mean()


def above(table: str, other: str, label: str, attack: str) -> str:
    """By how many whole points a row's mean is above that of the same row in another table."""
    return f"{_means(table, attack)[label] - _means(other, attack)[label]:.0f}"


def overestimate(table: str, attack: str) -> str:
    """How far a row's mean accuracy under `attack` lies above AutoAttack's: the least and the most, in points."""
    apart = (_means(table, attack) - _means(table, "autoattack")).dropna()
    return f"{apart.min():.1f} to {apart.max():.1f}"


def _run(table: str, method: str, seed: str) -> Path:
    """The one run of a method and seed below a table's runs."""
    (folder,) = (RESULTS / table / "runs").glob(f"*-{method}-s{seed}-*")
    return folder


def accuracy(table: str, method: str, seed: str, attack: str) -> str:
    """Of a run by itself, at the one checkpoint that was judged."""
    (measured,) = json.loads((_run(table, method, seed) / "result.json").read_text())["accuracy"].values()
    return f"{100 * measured[attack]:.1f}"


def minutes(table: str, method: str, seed: str, part: str) -> str:
    """part: train or evaluation."""
    return f"{json.loads((_run(table, method, seed) / 'result.json').read_text())[f'{part}_seconds'] / 60:.0f}"


def validation(table: str, method: str, seed: str, column: str) -> str:
    """At the epoch whose weights were kept: the best under PGD."""
    history = pd.read_csv(_run(table, method, seed) / "history.csv")
    return f"{100 * history.loc[history['val_pgd'].idxmax(), column]:.1f}"


def above_final(table: str, seed: str, attack: str) -> str:
    """How far the accuracy after `attack` lies above AutoAttack's, in points, over the runs of a seed."""
    gaps = []
    for file in (RESULTS / table / "runs").glob(f"*-s{seed}-*/evaluation/autoattack.npz"):
        with np.load(file) as flags:
            gaps.append(100 * (flags[attack].mean() - flags["square"].mean()))
    return f"{min(gaps):.1f} to {max(gaps):.1f}"


def number(file: str, path: str, form: str) -> str:
    """A number of a JSON file in Python's format; percentages with a space."""
    return number_of(measured(file, path), form)


def number_of(value: float, form: str) -> str:
    return format(value, form).replace("%", " %").replace("-", "−")


def spread(file: str, path: str) -> str:
    return spread_of(measured(file, path))


def spread_of(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def in_points(file: str, path: str) -> str:
    return _signed(measured(file, path))


FIGURES: dict[str, Callable[..., str]] = {
    each.__name__: each
    for each in (
        p_value, difference, points, count_beyond_chance, points_beyond_chance, greatest_p_beyond_chance, within_chance,
        standard_error, above, overestimate, accuracy, minutes, validation, above_final, number, spread, in_points,
    )
}  # fmt: skip


LEFT = ("", "Method", "network", "networks, batch", "optimisation")  # columns of words


def markdown(rows: list[list[str]]) -> str:
    ruler = ["---" if name in LEFT or "interval" in name else "---:" for name in rows[0]]
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]
    return "\n".join([lines[0], f"|{'|'.join(ruler)}|", *lines[1:]]) + "\n"


def refreshed(page: str) -> str:
    """The page with the tables and figures that the results give now."""
    page = MARKED.sub(lambda mark: mark[1] + markdown(TABLES[mark[2]]()) + mark[3], page)
    return MARKED_FIGURE.sub(lambda mark: mark[1] + FIGURES[mark[2]](*mark[3].split(" | ")) + mark[4], page)


def main() -> int:
    stale = []
    for file in PAGES:
        page = file.read_text(encoding="utf-8")
        if (now := refreshed(page)) != page:
            stale.append(file.name)
            if "--check" not in sys.argv[1:]:
                file.write_text(now, encoding="utf-8")
    if stale and "--check" in sys.argv[1:]:
        print(f"{', '.join(stale)}: not what data/results says; run `python docs/refresh.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
