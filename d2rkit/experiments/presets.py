"""Presets: tables as data. Each says what it costs and what came out, on which machine.

get_preset("quick").experiments()          every cell of one table
presets_of("paper")                        every table of a family: paper, paper-tuned
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from d2rkit.core.validation import nearest, shown
from d2rkit.experiments.experiment import Experiment
from d2rkit.methods.objectives import D2R_WEIGHTS

MOST_SEEDS = 1_000
NOT_RUN = "none of its rows has been run yet"
_WEIGHTS = D2R_WEIGHTS["symmetric"]
WEIGHTS_NOTE = (
    f"Loss weights were not tuned for this table. Those of D2R's symmetric form (w_clean {_WEIGHTS['w_clean']:g}, "
    f"w_adv {_WEIGHTS['w_adv']:g}) were found on 8×8 digits; the released form has its authors'."
)


@dataclass(frozen=True)
class Preset:
    """A table: one base experiment, its rows, and the seeds of each.

    rows: names of METHODS, or of `changes`. changes: settings that a row has to itself, by the row's name; a row
    that is not named like its method says which it is under "method". titles: what a row is called in the table,
    where its method's title is not enough. note: what stands below the table. command, time and expect tell a reader
    how to run it, how long it takes and what came out where it was measured."""

    name: str
    title: str
    command: str
    time: str
    expect: str
    base: Experiment
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def experiment(self, row: str, seed: int) -> Experiment:
        """One cell; ValueError if `row` is not one of this table."""
        if row not in self.rows:
            raise nearest(row, self.rows, f"row of preset {self.name}")
        own = {"method": row, "seed": seed, "registered": {}, **self.changes.get(row, {})}  # plugins as they are now
        return replace(self.base, **own)

    def experiments(self, rows: Sequence[str] = (), seeds: int = 0) -> list[Experiment]:
        """Every cell, seed by seed (so that an unfinished table compares all rows); fewer on request:
        `rows` picks rows, `seeds` the seeds 0, 1, … up to so many (more than the table's own, if so asked)."""
        if seeds < 0:
            raise ValueError(f"seeds must not be negative, not {seeds}")
        if seeds > MOST_SEEDS:  # a list of all of them would fill the memory before anything is said
            raise ValueError(f"seeds must be at most {MOST_SEEDS}, not {shown(seeds)}")
        numbers = range(seeds) if seeds else self.seeds
        return [self.experiment(row, seed) for seed in numbers for row in rows or self.rows]

    def adapted(self, **settings: Any) -> Preset:
        """The same table with other settings of all its cells; its title and its command say so."""
        if not settings:
            return self
        words = "".join(f" --{name.replace('_', '-')} {value}" for name, value in settings.items())
        title = ", ".join([self.title, *(f"{name} {value}" for name, value in settings.items())])
        name = "-".join([self.name, *(f"{name}-{value}" for name, value in settings.items())])
        base = replace(self.base, **settings)
        return replace(self, name=name, title=title, command=self.command + words, base=base)


QUICK = Preset(
    name="quick",
    title="Handwritten digits (8x8), small CNN pair",
    command="d2rkit reproduce quick",
    time="2 min 47 s with two workers on a two-core x86-64 machine with AVX-512 (24 runs, 313 s of CPU time)",
    expect="AutoAttack between 53 % and 62 % for every method, on 100 test images (standard error 5; two CPU types)",
    base=Experiment(
        data="digits", target="cnn-16", guide="cnn-16", epochs=14, batch_size=48, lr=0.4, warmup=2.0,
        eps=0.2, step_size=0.1, steps=3, padding=0, flip=False, speed="fast", val_steps=3, test_images=100,
    ),
    rows=("pgd-at", "trades", "mart", "lbgat0", "lbgat6", "d2r", "d2r-cag", "d2r-cag-released"),
    seeds=(0, 1, 2),
)  # fmt: skip

# Learning rates of small: the best of 0.05, 0.1, 0.2 and 0.4 on validation images, each row with the same budget (0.4
# is the end of the grid, where all but TRADES end up): `d2rkit tune small --rates 0.05 0.1 0.2 0.4`; every trial is in
# data/results/small/learning_rates.csv.
_SMALL_RATES = {"pgd-at": 0.4, "trades": 0.2, "lbgat0": 0.4, "d2r-cag": 0.4, "d2r-cag-released": 0.4}

SMALL = Preset(
    name="small",
    title="CIFAR-10, 10,000 training images (1,000 of them for validation), WRN-10-1 pair",
    command="d2rkit reproduce small",
    time="20 to 32 minutes a run on one core, two at once on a two-core x86-64 machine; the last four took 44 minutes",
    expect="AutoAttack 15 % to 22 % on 500 test images (standard error 2 points); see data/results/small",
    base=Experiment(
        data="cifar10", subset="10k", target="wrn-10-1", guide="wrn-10-1", epochs=5, batch_size=128, lr=0.1,
        warmup=0.5, eps=8 / 255, step_size=2 / 255, steps=10, speed="fast", val_steps=5, test_images=500,
    ),
    rows=tuple(_SMALL_RATES),
    seeds=(0, 1),
    changes={row: {"lr": rate} for row, rate in _SMALL_RATES.items()},
    note=WEIGHTS_NOTE,
)  # fmt: skip

MEDIUM = Preset(
    name="medium",
    title="CIFAR-10, all 50,000 training images (1,000 of them for validation), PatchResNet-48 pair",
    command="d2rkit reproduce medium",
    time="hours a run on one core; `d2rkit plan medium` measures them (1.7 s a step of D2R+CAG on a core with AVX2)",
    expect="AutoAttack on 1,000 test images (standard error 1.5 points), seed 0: PGD-AT 32.3 %, TRADES 31.3 %, D2R+CAG "
    "29.0 % (released) and 28.7 % (symmetric), LBGAT (β=0) 24.2 %; the other rows have not been run",
    base=Experiment(
        data="cifar10", target="patch-resnet-48", guide="patch-resnet-48", epochs=8, batch_size=128, lr=0.2,
        warmup=1.0, eps=8 / 255, step_size=5 / 255, steps=2, speed="fast", val_steps=10, test_images=1000,
    ),
    rows=("pgd-at", "trades", "mart", "lbgat0", "d2r", "d2r-cag", "d2r-cag-released"),
    seeds=(0,),
    note=WEIGHTS_NOTE,
)  # fmt: skip

# The same networks on a hundred classes. D2R's KL terms are means over classes too, so ten times the classes is a tenth
# of the pull; the last row has ten times the released weights.
MEDIUM_CIFAR100 = Preset(
    name="medium-cifar100",
    title="CIFAR-100, all 50,000 training images (1,000 of them for validation), PatchResNet-48 pair",
    command="d2rkit reproduce medium-cifar100",
    time="not measured yet; `d2rkit plan medium-cifar100` estimates it",
    expect=NOT_RUN,
    base=replace(MEDIUM.base, data="cifar100", test_images=500),
    rows=("pgd-at", "trades", "lbgat0", "d2r-cag-released", "d2r-cag-classes"),
    seeds=(0,),
    changes={"d2r-cag-classes": {"method": "d2r-cag-released", "loss": {"w_clean": 200.0, "w_adv": 300.0}}},
    titles={"d2r-cag-classes": "D2R+CAG (released), KL weights × 10"},
)

# 9,000 images, a fifth of CIFAR's: five times the epochs make nearly as many steps.
MEDIUM_TINY = Preset(
    name="medium-tiny-imagenet",
    title="Tiny ImageNet, 20 classes of 500 training images (1,000 in all for validation), PatchResNet-48 pair",
    command="d2rkit reproduce medium-tiny-imagenet",
    time="not measured yet; `d2rkit plan medium-tiny-imagenet` estimates it",
    expect=NOT_RUN,
    base=replace(MEDIUM.base, data="tiny-imagenet-20", epochs=40, warmup=5.0, test_images=500),
    rows=("pgd-at", "trades", "lbgat0", "d2r-cag-released"),
    seeds=(0,),
)

# Where does guidance pay? Each method's main weight over four values, a third of medium's epochs. Nothing is selected
# here, so the test images serve.
_FRONTIER = {
    f"{row}-{value:g}": (method, option, value, f"{title} {value:g}")
    for row, method, option, title, values in (
        ("trades", "trades", "beta", "TRADES, β", (1, 3, 6, 12)),
        ("lbgat", "lbgat6", "beta", "LBGAT, β", (0, 3, 6, 12)),
        ("d2r-cag-released", "d2r-cag-released", "w_adv", "D2R+CAG (released), w_adv", (5, 15, 30, 90)),
    )
    for value in values
}
FRONTIER = Preset(
    name="frontier",
    title="What a weight trades: CIFAR-10, all 50,000 training images, three epochs, PatchResNet-48 pair",
    command="d2rkit reproduce frontier",
    time="not measured yet; `d2rkit plan frontier` estimates it",
    expect=NOT_RUN,
    base=replace(MEDIUM.base, epochs=3, warmup=0.5, attacks=("clean", "pgd20", "cw20")),
    rows=tuple(_FRONTIER),
    seeds=(0,),
    changes={row: {"method": m, "loss": {option: float(value)}} for row, (m, option, value, _) in _FRONTIER.items()},
    titles={row: title for row, (*_, title) in _FRONTIER.items()},
)

# The ablation asks what each part of D2R+CAG is worth, on digits, where a cell takes some 15 seconds. Rows without
# words of their own are whole methods, which quick's table has too.
_ABLATION = {
    "d2r-cag": ({}, ""),
    "no-mse": ({"loss": {"w_mse": 0.0}}, "without MSE"),
    "no-clean": ({"loss": {"w_clean": 0.0}}, "without the clean term KL1 + KL2"),
    "no-adv": ({"loss": {"w_adv": 0.0}}, "without the adversarial term KL5"),
    "only-mse": ({"loss": {"w_adv": 0.0, "w_clean": 0.0}}, "MSE and CE only"),
    "no-cag": ({"method": "d2r"}, ""),
    "gap": ({"loss": {"variant": "released", "w_clean": 2.0, "w_adv": 15.0}}, "the gap |KL1 - KL2| instead of the sum"),
    "released": ({"method": "d2r-cag-released"}, ""),
    "jeffreys": ({"method": "d2r-cag-jeffreys"}, ""),
    "clean-0.5": ({"loss": {"w_clean": 0.5}}, "w_clean 0.5"),
    "clean-8": ({"loss": {"w_clean": 8.0}}, "w_clean 8"),
    "adv-5": ({"loss": {"w_adv": 5.0}}, "w_adv 5"),
    "adv-30": ({"loss": {"w_adv": 30.0}}, "w_adv 30"),
    "mse-4": ({"loss": {"w_mse": 4.0}}, "w_mse 4"),
    "batchmean": (
        {"loss": {"reduction": "batchmean", "w_clean": 0.2, "w_adv": 1.5}},
        "batch-mean KL at a tenth of the weights (the same loss)",
    ),
    "detach-guide": ({"loss": {"detach_guide": True}}, "guide detached"),
    "two-step": ({"update": "two-step"}, "two optimiser steps per batch"),
    "guide-share": ({"guide_share": 0.5}, "half of CAG's objective through the guide"),
    "guide-warmup": ({"guide_warmup": 5}, "guide pretrained alone for 5 epochs"),
    "guide-small": ({"guide": "cnn-8"}, "guide of half the width"),
    "guide-large": ({"guide": "cnn-32"}, "guide of twice the width"),
}

ABLATION = Preset(
    name="ablation",
    title="What each part of D2R+CAG is worth: digits, small CNN pair",
    command="d2rkit reproduce ablation",
    time="6 min 35 s with two workers on a two-core machine with AVX-512 (54 runs, those of quick already there)",
    expect="AutoAttack 57 % to 60 % but for guide-warmup (49 %) and guide-share (31 %); see data/results/ablation",
    base=QUICK.base,
    rows=tuple(_ABLATION),
    seeds=(0, 1, 2),
    changes={row: {"method": "d2r-cag", **changes} for row, (changes, _) in _ABLATION.items()},
    titles={row: f"D2R+CAG: {words}" for row, (_, words) in _ABLATION.items() if words},
)

# All rows with a guide, with the recipe of quick as it is: nothing is tuned for any of them. The first row is what the
# others are paired with.
_FROZEN = ("rslad", "adaad", "iad", "dgad")
RELATIVES = Preset(
    name="family",
    title="D2R and its relatives, every method with a guide: digits, small CNN pair",
    command="d2rkit reproduce family",
    time="58 of its 80 runs took 20 minutes on two AVX2 cores beside other work",
    expect="AutoAttack 55 % to 60 % for D2R, LBGAT, IAD-I and ADR, 49 % to 53 % for the other relatives",
    base=QUICK.base,
    rows=(
        "d2r-cag", "d2r-cag-released", "d2r-cag-jeffreys", "d2r-cag-awp", "d2r", "lbgat0", "lbgat6", "adagat",
        *_FROZEN, "rslad-online", "peeraid", "adr", "ikl-guided",
    ),
    seeds=(0, 1, 2, 3, 4),
    changes={row: {"guide_warmup": 5} for row in _FROZEN},
)  # fmt: skip

# -- the paper's tables ----------------------------------------------------------------------------------------
PAPER_ROWS = (
    "natural", "pgd-at", "trades", "mart", "lbgat0", "lbgat6", "adagat", "pgd-at-awp", "trades-awp",
    "d2r", "d2r-cag", "d2r-cag-released", "d2r-cag-jeffreys", "d2r-cag-awp",
)  # fmt: skip
PAPER_TABLES = {
    "cifar10-wrn-34-10": ("CIFAR-10, WRN-34-10", "cifar10", "wrn-34-10", "resnet18-guide"),
    "cifar10-preactresnet18": ("CIFAR-10, PreActResNet-18", "cifar10", "preactresnet18", "resnet18-guide"),
    "cifar100-wrn-34-10": ("CIFAR-100, WRN-34-10", "cifar100", "wrn-34-10", "resnet18-guide"),
    "cifar100-preactresnet18": ("CIFAR-100, PreActResNet-18", "cifar100", "preactresnet18", "resnet18-guide"),
    "tiny-imagenet-preactresnet18": ("Tiny ImageNet, PreActResNet-18", "tiny-imagenet", "preactresnet18", "resnet18"),
}
# As released: one SGD, steps of the learning rate at 75 and 90 of 100 epochs, eps 0.031 (not 8/255 = 0.03137).
RELEASED = {"epochs": 100, "schedule": "released", "weight_decay": 2e-4, "eps": 0.031, "step_size": 0.007}
# Weight decay 5e-4 and 8/255 in training, as the better-tuned baselines of the published tables have it.
TUNED = {"epochs": 100, "schedule": "released", "weight_decay": 5e-4, "eps": 8 / 255, "step_size": 2 / 255}


def _paper(family: str, table: str, recipe: Mapping[str, Any], words: str) -> Preset:
    title, data, target, guide = PAPER_TABLES[table]
    return Preset(
        name=f"{family}-{table}",
        title=f"{title}, {words}",
        command=f"d2rkit reproduce {family}-{table}",
        time=f"GPU hours; `d2rkit plan {family}-{table}` measures them on the machine at hand",
        expect="published numbers stand beside ours in the table; never run here at full size",
        base=Experiment(
            data=data, target=target, guide=guide, batch_size=128, lr=0.1, steps=10, test_eps=8 / 255,
            checkpoints=("best", "last"), **recipe,
        ),
        rows=PAPER_ROWS,
        seeds=(0, 1, 2),
        note=WEIGHTS_NOTE,
    )  # fmt: skip


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        QUICK,
        SMALL,
        MEDIUM,
        MEDIUM_CIFAR100,
        MEDIUM_TINY,
        FRONTIER,
        ABLATION,
        RELATIVES,
        *(_paper("paper", table, RELEASED, "recipe as released") for table in PAPER_TABLES),
        *(_paper("paper-tuned", table, TUNED, "weight decay 5e-4, ε 8/255") for table in PAPER_TABLES),
    )
}
FAMILIES = {
    family: tuple(f"{family}-{table}" for table in PAPER_TABLES) for family in ("paper", "paper-tuned")
}  # what one word stands for on the command line


def get_preset(name: str) -> Preset:
    """PRESETS[name], or that of a TOML file; a ValueError that names the nearest one, or what is wrong in the file."""
    if str(name).endswith(".toml"):
        from d2rkit.experiments.own_presets import read_preset

        return read_preset(name)
    if name not in PRESETS:
        raise nearest(name, PRESETS, "preset")
    return PRESETS[name]


def presets_of(name: str) -> list[Preset]:
    """The one preset of that name or file, or all of a family."""
    if str(name).endswith(".toml"):
        return [get_preset(name)]
    if name not in FAMILIES and name not in PRESETS:
        raise nearest(name, [*PRESETS, *FAMILIES], "preset")
    return [PRESETS[each] for each in FAMILIES.get(name, (name,))]
