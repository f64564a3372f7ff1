"""The tables of the pages, by name: each gives its cells, the header first."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from from_results import results
from from_results.results import measured, number_of, p_value, shipped, signed, spread_of, tests


def paired(name: str) -> dict[str, tuple[str, str]]:
    """Label of a row -> difference with its interval, in points, and the Holm-adjusted p."""
    words = {}
    for label, row in tests(name).iterrows():
        difference, low, high = (signed(row[column]) for column in ("difference", "low", "high"))
        words[label] = (f"{difference} ({low} to {high})", p_value(name, label))
    return words


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
    guides = pd.read_csv(results.RESULTS / "medium" / "runs.csv").groupby("label")["guide_clean"].mean()
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
    rows = pd.read_csv(results.RESULTS / "quick" / "recipes.csv").to_dict("records")
    header = ["learning rate", "batch size", "PGD-3, validation", "difference ± standard error"]
    apart = [f"{row['difference']:+.1f} ± {row['standard_error']:.1f}".replace("-", "−") for row in rows]
    return [header] + [
        [str(row["lr"]), str(row["batch_size"]), f"{row['mean']:.1f}", words if row["difference"] else "the preset's"]
        for row, words in zip(rows, apart, strict=True)
    ]


def steps() -> list[list[str]]:
    """A training step as released, ours against it, and the same in bfloat16 on the other CPU."""
    bfloat16 = "with `--precision bf16-mixed`, on another CPU"
    rows = [["networks, batch", "step as released", "speed-up", "share of peak", bfloat16]]
    for case, words in CASES.items():
        ours, seconds = (measured("speed", f"step.avx512.cases.{case}{field}") for field in ("", ".seconds_released"))
        shown = f"{seconds:.2f} s" if seconds > 1 else f"{seconds:.3f} s"
        fast = spread_of(measured("speed", f"step.bfloat16_units.cases.{case}.fast"))
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
