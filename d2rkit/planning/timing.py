"""Seconds and bytes of a few steps and batches on this machine, measured in a process of their own.

Steps run through fit() with the real method, networks and batch size; attacks through the Evaluator and AutoAttack
itself, at a radius where no image falls, on as many images as are expected to survive that long. One checkpoint is
evaluated as a run does it, with a step of each attack, so that peak memory is that of all a run's parts.
"""

from __future__ import annotations

import tempfile
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from d2rkit.core.devices import resolve
from d2rkit.core.processes import Worker
from d2rkit.core.validation import nearest
from d2rkit.data.arrays import Split
from d2rkit.evaluation.autoattack import STAGES, AutoAttackBudget
from d2rkit.evaluation.evaluator import Budget, Evaluator
from d2rkit.experiments.experiment import Experiment, build_pair
from d2rkit.experiments.run_evaluation import evaluate_checkpoint
from d2rkit.methods.pair import GuidedPair, required_guide
from d2rkit.planning.synthetic import (
    HARMLESS,
    Counts,
    counts_of,
    own_labels,
    peak_memory,
    quietly,
    random_data,
    run_stage,
)
from d2rkit.training.guides import guide_of
from d2rkit.training.loop import fit

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 2  # training steps that are not counted: they allocate, and choose algorithms
EVALUATION_BATCH = 250  # images attacked at once, as evaluate() does by itself
VALIDATION_BATCH = 500  # images validated at once, as fit() does
LONG_ENOUGH = 0.5  # seconds that an attack is repeated for
ONCE = Budget(1, AutoAttackBudget(1, 1, 1))
# Settings that change what comes out of a step, but not what it costs.
FREE = {
    "seed": 0, "epochs": 1, "lr": 1e-3, "schedule": "constant", "warmup": 0.0, "weight_decay": 5e-4, "eps": 8 / 255,
    "step_size": 2 / 255, "loss": {}, "awp_warmup": 0, "subset": "", "test_images": 0, "test_eps": 0.0,
    "attacks": (), "checkpoints": (),
}  # fmt: skip


@dataclass(frozen=True)
class TrainCost:
    """Seconds of a step, of a step of the guide alone, and of an epoch's end (saving, and validating so many
    images); disk: bytes that a run keeps."""

    step: float
    guide_step: float
    epoch_end: float
    validated: int
    disk: int


@dataclass(frozen=True)
class EvaluationCost:
    """Of a target: seconds to prepare an evaluation of one batch (checks, clean pass, attacked copy) and of a PGD step
    per image; of each attack of AutoAttack per image and pass."""

    prepare: float
    pgd_step: float
    passes: Mapping[str, float]


@dataclass(frozen=True)
class GuideCost:
    """Of a guide beside its target: seconds of its checks and clean pass for one batch, and of a PGD step per image
    against it."""

    prepare: float
    pgd_step: float


@dataclass(frozen=True)
class Measured:
    """Costs by the name of like(experiment), of target_like(experiment) and, for methods that have one, of
    guide_like(experiment). memory: bytes at most, over all that was measured; where: what they were measured on."""

    training: Mapping[str, TrainCost]
    targets: Mapping[str, EvaluationCost]
    guides: Mapping[str, GuideCost]
    memory: int
    where: str


def like(experiment: Experiment) -> Experiment:
    """The shortest experiment whose training steps cost as much; runs that are alike are measured once."""
    # A subset matters where it leaves fewer validation images than are taken at once: they need less memory.
    subset = experiment.subset if counts_of(experiment).val < VALIDATION_BATCH else ""
    changes = FREE | {"subset": subset, "guide": guide_of(experiment)}
    return replace(experiment, **changes, guide_warmup=min(1, experiment.guide_warmup))


def target_like(experiment: Experiment) -> Experiment:
    """The same for evaluation, which attacks the target alone."""
    test = counts_of(experiment).test
    return Experiment(method="natural", data=experiment.data, target=experiment.target, test_images=test)


def guide_like(experiment: Experiment) -> Experiment | None:
    """The same for what evaluation does with a guide beside the target, if the method has one."""
    if not (guide := guide_of(experiment)):
        return None
    return replace(target_like(experiment), method="d2r-cag", guide=guide)


def measure(
    experiments: Sequence[Experiment],
    shares: Mapping[str, float],
    *,
    threads: int = 1,
    device: str = "auto",
    clock: str = "wall",
    steps: int = 5,
) -> Measured:
    """What `experiments` cost: each kind is measured once, one after the other, in a process of their own.

    shares: of the test images, those that a PGD attack ("pgd") and each attack of AutoAttack will work on. clock:
    "wall", or "cpu" for this process's CPU time, which other work on the machine leaves alone (with one thread)."""
    if steps < 1:
        raise ValueError(f"the number of steps to measure must be at least 1, not {steps}")
    if clock not in CLOCKS:
        raise nearest(clock, CLOCKS, "clock")
    trained = {alike.run_name: alike for alike in map(like, experiments)}
    targets = {alike.run_name: alike for alike in map(target_like, experiments)}
    guides = {alike.run_name: alike for alike in map(guide_like, experiments) if alike}
    count = len(trained) + len(targets) + len(guides)
    with Worker(threads) as worker, tqdm(total=count, desc="measuring") as bar:

        def done(task: Callable, *arguments):
            try:
                return worker.submit(quietly, task, *arguments).result()
            finally:
                bar.update()

        costs = (
            {name: done(_train_cost, each, device, clock, steps) for name, each in trained.items()},
            {name: done(_target_cost, each, shares, device, clock) for name, each in targets.items()},
            {name: done(_guide_cost, each, shares["pgd"], device, clock) for name, each in guides.items()},
        )
        memory, where = worker.submit(peak_memory, device).result()
    return Measured(*costs, memory, where)


def bfloat16_pace(device: str = "auto") -> float:
    """How many times as fast a convolution of a ResNet-18 (128 channels, 16 x 16 pixels, 32 images) is in bfloat16 as
    in float32 on `device`. Below 1 on CPUs that can calculate with it but have no fast units for it."""
    x, w = torch.rand(32, 128, 16, 16, device=resolve(device)), torch.rand(128, 128, 3, 3, device=resolve(device))

    def seconds(dtype: torch.dtype) -> float:
        images, weight = (tensor.to(dtype, memory_format=torch.channels_last) for tensor in (x, w))

        def five() -> None:
            out = images
            for _ in range(5):
                out = F.conv2d(out, weight, padding=1)
            out.sum().item()  # waits for a GPU

        return min(timeit.repeat(five, number=1, repeat=5))

    return seconds(torch.float32) / seconds(torch.bfloat16)


def _train_cost(experiment: Experiment, device: str, clock: str, steps: int) -> TrainCost:
    now, validated = CLOCKS[clock], min(VALIDATION_BATCH, counts_of(experiment).val)
    per_epoch = WARM_UP + steps
    data = random_data(experiment.data, Counts(per_epoch * experiment.batch_size, validated, 1))
    stamps: list[list[float]] = [[]]  # when each step of each epoch was done, and at last the epoch itself

    def on_epoch(row: dict[str, float]) -> None:
        stamps[-1].append(now())
        stamps.append([])

    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(
            build_pair(experiment, data), data, experiment, folder, device=device,
            report=lambda done, words: stamps[-1].append(now()), on_epoch=on_epoch, save_every=float("inf"),
        )  # fmt: skip
        disk = sum(file.stat().st_size for file in Path(folder).rglob("*"))
    if fitted.status.startswith("failed"):
        raise ValueError(f"{experiment.method} could not be measured: {fitted.status}")
    times = [[b - a for a, b in pairwise(epoch)] for epoch in stamps if epoch]
    first, last = times[0], times[-1]
    return TrainCost(median(last[-1 - steps : -1]), median(first[-1 - steps : -1]), last[-1], validated, disk)


@dataclass(frozen=True)
class _Stage:
    """Networks and images that attacks are measured on, one batch of them; how many images a run has; a clock."""

    pair: GuidedPair
    images: Tensor
    labels: Tensor
    count: int
    clock: str

    def seconds(self, action: Callable[[], object]) -> float:
        def once() -> float:
            before = CLOCKS[self.clock]()
            action()
            return CLOCKS[self.clock]() - before

        times = [once()]  # the first time also allocates and chooses algorithms; next to seconds that is nothing
        while times[0] < 4 * LONG_ENOUGH and sum(times[1:]) < LONG_ENOUGH:
            times.append(once())
        return median(times[1:] or times)

    def each(self, share: float, more: int, action: Callable[[int, Tensor, Tensor], object]) -> float:
        """Seconds of an iteration per image, apart from what a call costs before its first one. share: of a run's
        images that the action works on."""
        n = max(1, min(len(self.images), round(share * self.count)))
        x, y = self.images[:n], self.labels[:n]
        long, short = (self.seconds(lambda k=k: action(k, x, y)) for k in (1 + more, 1))
        return max(long - short, 0.0) / (more * n)


def _staged(experiment: Experiment, device: str, clock: str) -> _Stage:
    """Ready to be measured, after all that a run does was done once, if only with a step of each attack: that takes as
    much memory as a run's evaluation."""
    count = experiment.test_images
    data = random_data(experiment.data, Counts(1, 1, min(count, EVALUATION_BATCH)))
    pair = build_pair(experiment, data).to(resolve(device)).eval()
    x = data.test.pixels().to(resolve(device))
    y = own_labels(pair.target, x)
    test = Split(data.test.images.to(x.device), y)
    evaluate_checkpoint(replace(experiment, eps=HARMLESS), pair, test, "best", budget=ONCE)
    return _Stage(pair, x, y, count, clock)


def _target_cost(experiment: Experiment, shares: Mapping[str, float], device: str, clock: str) -> EvaluationCost:
    stage = _staged(experiment, device, clock)
    network = stage.pair.target

    def prepare() -> None:
        evaluator = Evaluator(network, (stage.images, stage.labels))
        _ = evaluator.clean, evaluator.attacked  # both are made when they are first asked for

    def pgd(steps: int, images: Tensor, labels: Tensor) -> None:
        Evaluator(network, (images, labels)).flags(f"pgd{steps}", HARMLESS)

    def alone(name: str) -> Callable[[int, Tensor, Tensor], None]:
        return lambda passes, x, y: run_stage(network, name, x, y, AutoAttackBudget(passes, 1, passes))

    passes = {name: stage.each(shares[name], 40 if name == "square" else 10, alone(name)) for name in STAGES}
    return EvaluationCost(stage.seconds(prepare), stage.each(shares["pgd"], 10, pgd), passes)


def _guide_cost(experiment: Experiment, share: float, device: str, clock: str) -> GuideCost:
    stage = _staged(experiment, device, clock)
    target, guide = stage.pair.target, required_guide(stage.pair)

    def transfer(steps: int, images: Tensor, labels: Tensor) -> None:
        Evaluator(target, (images, labels)).transferred(guide, steps, HARMLESS)

    prepare = stage.seconds(lambda: Evaluator(guide, (stage.images, stage.labels)).clean)
    return GuideCost(prepare, stage.each(share, 10, transfer))
