"""What a table will cost on this machine: arithmetic over the few seconds that timing.py took.

    Preset -> survivors_of() -> measure() -> Measured -> plan() -> Plan -> lines()

Nothing here touches a network or a file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import mean

from d2rkit.evaluation.evaluator import parse_attack
from d2rkit.experiments.experiment import Experiment, Run
from d2rkit.experiments.presets import Preset
from d2rkit.experiments.run_evaluation import TRANSFER_STEPS, Measurement, measurements
from d2rkit.planning.synthetic import bytes_of, counts_of
from d2rkit.planning.timing import (
    EVALUATION_BATCH,
    EvaluationCost,
    GuideCost,
    Measured,
    TrainCost,
    guide_like,
    like,
    target_like,
)

# Accuracy (clean, under AutoAttack) of a table without finished cells: AutoAttack's cost goes with its survivors.
ASSUMED = {"digits": (0.93, 0.57), "cifar10": (0.82, 0.49), "cifar100": (0.58, 0.26), "tiny-imagenet": (0.48, 0.18)}
ASSUMED_SUBSET = (0.42, 0.24)  # of a small network on a part of CIFAR-10
LOST_TO_LATER = 0.15  # of the images that AutoAttack breaks, the share that survives its first attack (as on digits)
# Forward passes with a backward pass (for Square: without) that standard AutoAttack spends on an image.
PASSES = {"apgd-ce": 101, "apgd-t": 9 * 101, "fab-t": 9 * 100, "square": 5_000}


@dataclass(frozen=True)
class Survivors:
    """Shares of the test images: right without an attack, right after AutoAttack; source: where they are from."""

    clean: float
    robust: float
    source: str

    @property
    def attacked(self) -> dict[str, float]:
        """The share that each attack works on; what it breaks is taken to drop out halfway."""
        after_first = self.robust + LOST_TO_LATER * (self.clean - self.robust)
        halfway = (after_first + self.robust) / 2
        stages = {"apgd-ce": self.clean, "apgd-t": halfway, "fab-t": self.robust, "square": self.robust}
        return {"pgd": self.clean} | stages


@dataclass(frozen=True)
class RunCost:
    """One run: seconds of a step, of training with validation, of evaluation; bytes on disk."""

    row: str
    done: bool
    step: float
    train: float
    evaluation: float
    disk: int

    @property
    def seconds(self) -> float:
        return self.train + self.evaluation


@dataclass(frozen=True)
class Plan:
    """A table and what is left of it."""

    preset: Preset
    cells: tuple[RunCost, ...]
    survivors: Survivors
    memory: int
    where: str

    @property
    def left(self) -> list[RunCost]:
        return [cell for cell in self.cells if not cell.done]

    def seconds(self, workers: int = 1) -> float:
        """Of all that is left; no number of workers makes it shorter than the longest cell."""
        costs = [cell.seconds for cell in self.left]
        return max(sum(costs) / workers, max(costs, default=0.0))


def survivors_of(preset: Preset, runs: Sequence[Run], clean: float = 0.0, robust: float = 0.0) -> Survivors:
    """From finished cells of the table where there are some, else assumed; a share above 0 is taken as given.

    ValueError if a share does not lie in [0, 1], or more images survive than are right to begin with."""
    for name, value in (("clean", clean), ("robust", robust)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is a share of the test images and must lie in [0, 1], not {value}")
    names = {cell.run_name for cell in preset.experiments()}
    accuracies = [run.result["accuracy"] for run in runs if run.experiment.run_name in names]
    evaluated = [one for each in accuracies for one in each.values() if {"clean", "autoattack"} <= one.keys()]
    if evaluated:
        shares = tuple(mean(one[key] for one in evaluated) for key in ("clean", "autoattack"))
    else:
        shares = ASSUMED_SUBSET if preset.base.subset else ASSUMED.get(preset.base.data, ASSUMED_SUBSET)
    source = f"mean of {len(evaluated)} finished evaluations" if evaluated else "assumed, since no cell is done"
    if clean or robust:
        source = "as given" if clean and robust else f"{'clean' if clean else 'robust'} as given, the other {source}"
    clean, robust = clean or shares[0], robust or shares[1]
    if robust > clean:
        raise ValueError(f"robust {robust:.2f} must not exceed {clean:.2f}, the share that is right without an attack")
    return Survivors(clean, robust, source)


def train_seconds(experiment: Experiment, cost: TrainCost) -> float:
    """Training with validation and saving."""
    counts = counts_of(experiment)
    steps = counts.train / experiment.batch_size
    epochs, warm_up = experiment.epochs, experiment.guide_warmup
    ends = (epochs + warm_up) * cost.epoch_end * counts.val / cost.validated
    return steps * (epochs * cost.step + warm_up * cost.guide_step) + ends


def evaluation_seconds(
    experiment: Experiment, target: EvaluationCost, guide: GuideCost | None, survivors: Survivors
) -> float:
    """Of all measurements of all checkpoints."""
    if not experiment.attacks:
        return 0.0
    images = counts_of(experiment).test
    costs: dict[str, EvaluationCost | GuideCost] = {"target": target}
    if guide is not None:
        costs["guide"] = guide
    return sum(
        measurement_seconds(each, images, costs[each.network], survivors)
        for checkpoint in experiment.checkpoints
        for each in measurements(experiment, checkpoint)
    )


def measurement_seconds(
    measurement: Measurement, images: int, cost: EvaluationCost | GuideCost, survivors: Survivors
) -> float:
    """Of one measurement on so many test images; attacks work on those that are right without them."""
    if measurement.attack == "prepare":
        return cost.prepare * max(1.0, images / EVALUATION_BATCH)
    if measurement.attack == "autoattack":
        assert isinstance(cost, EvaluationCost), "AutoAttack never works on a guide"
        return images * sum(cost.passes[s] * PASSES[s] * survivors.attacked[s] for s in PASSES)
    steps = TRANSFER_STEPS if measurement.network == "guide" else parse_attack(measurement.attack)[1]
    return steps * cost.pgd_step * survivors.clean * images


def plan(
    preset: Preset, rows: Sequence[str], seeds: int, done: Collection[str], measured: Measured, survivors: Survivors
) -> Plan:
    """The cost of each cell (some rows, some seeds, on request); done: names of the runs that need none."""
    cells = []
    for experiment, row in zip(preset.experiments(rows, seeds), cycle(rows or preset.rows), strict=False):
        cost = measured.training[like(experiment).run_name]
        train = train_seconds(experiment, cost)
        guided = guide_like(experiment)
        guide = measured.guides[guided.run_name] if guided else None
        attacks = evaluation_seconds(experiment, measured.targets[target_like(experiment).run_name], guide, survivors)
        cells.append(RunCost(row, experiment.run_name in done, cost.step, train, attacks, cost.disk))
    memory = measured.memory + max(map(bytes_of, preset.experiments(rows, seeds)))
    return Plan(preset, tuple(cells), survivors, memory, measured.where)


def lines(plan: Plan, workers: int) -> list[str]:
    """The plan to read: a line a row, sums, and what was assumed."""
    left, width = plan.left, max(map(len, plan.preset.rows))
    out = [f"{plan.preset.title}: {len(plan.cells)} cells, {len(plan.cells) - len(left)} done"]
    out.append(f"  {'row':{width}}  {'step':>8}  {'training':>9}  {'attacks':>9}  {'a cell':>9}  left")
    for row in dict.fromkeys(cell.row for cell in plan.cells):
        cells = [cell for cell in plan.cells if cell.row == row]
        times = (f"{duration(s):>9}" for s in (cells[0].train, cells[0].evaluation, cells[0].seconds))
        todo = sum(not cell.done for cell in cells)
        out.append(f"  {row:{width}}  {duration(cells[0].step):>8}  {'  '.join(times)}  {todo} of {len(cells)}")
    hands = f"{workers} worker{'s' if workers > 1 else ''}"
    disk = size(max(cell.disk for cell in plan.cells)), size(sum(cell.disk for cell in left))
    out.append(
        f"time left: {duration(plan.seconds())} one after the other, {duration(plan.seconds(workers))} with {hands}"
    )
    out.append(f"memory: {size(plan.memory)} at batch {plan.preset.base.batch_size} ({plan.where})")
    out.append(f"disk: {disk[0]} a run, {disk[1]} for what is left")
    out.append(
        f"survivors: {plan.survivors.clean:.0%} of the test images without an attack, {plan.survivors.robust:.0%} "
        f"after AutoAttack ({plan.survivors.source}); see --clean and --robust"
    )
    return out


def duration(seconds: float) -> str:
    """0.012 -> "12 ms", 90 -> "1.5 min"."""
    for unit, length in (("d", 172_800), ("h", 5_400), ("min", 90), ("s", 1)):
        if seconds >= length:
            return f"{seconds / {'d': 86_400, 'h': 3_600, 'min': 60, 's': 1}[unit]:.1f} {unit}"
    return f"{1_000 * seconds:.0f} ms"


def size(count: float) -> str:
    """Bytes in words: 3_000_000 -> "2.9 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
