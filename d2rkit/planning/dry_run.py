"""Every cell of a table for real, but short: a step, a resume, another step, and a batch of each attack.

    dry_run(presets, rows) -> Rehearsal, one a cell

Images are random, so no data set is needed; labels for the attacks are the network's own predictions, since an
attack has nothing to do where an untrained network is wrong. Each cell gets a process of its own (its peak memory is
its own, and if it dies the others go on) and a temporary folder: no run folder is ever written.
"""

from __future__ import annotations

import csv
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from d2rkit.core.devices import resolve
from d2rkit.core.files import write_atomically
from d2rkit.core.processes import Worker, check_cores, threads_of_children
from d2rkit.data.arrays import Split
from d2rkit.data.datasets import ImageData
from d2rkit.evaluation.autoattack import STAGES, AutoAttackBudget
from d2rkit.evaluation.evaluator import Budget
from d2rkit.experiments.experiment import Experiment, build_pair
from d2rkit.experiments.presets import Preset
from d2rkit.experiments.run_evaluation import evaluate_checkpoint
from d2rkit.networks.checkpoints import load_resume, load_weights
from d2rkit.planning.synthetic import (
    Counts,
    own_labels,
    peak_memory,
    quietly,
    random_data,
    run_stage,
)
from d2rkit.training.loop import Fit, fit

# Instead of 20 or 100 steps, 100 iterations, 9 targets and 5,000 queries: those take hours for a WRN-34-10 on a CPU.
BUDGET = Budget(3, AutoAttackBudget(iterations=3, targets=2, queries=10))
CUT = (
    f"PGD and C&W are cut to {BUDGET.steps} steps, AutoAttack to {BUDGET.autoattack.iterations} iterations of APGD-CE, "
    f"APGD-T and FAB-T, {BUDGET.autoattack.targets} targets and {BUDGET.autoattack.queries} queries of Square"
)


@dataclass(frozen=True)
class Rehearsal:
    """What became of one cell. loss_1, loss_2: of the two steps; resumed: the second step was made by a fresh pair
    from the first one's resume.pt; attacked: all attacks ran; memory: bytes at most; error: why not, in words."""

    table: str
    row: str
    method: str
    loss_1: float = math.nan
    loss_2: float = math.nan
    resumed: bool = False
    attacked: bool = False
    seconds: float = math.nan
    memory: int = 0
    error: str = ""

    def __str__(self) -> str:
        steps = f"loss {self.loss_1:.3f}, then {self.loss_2:.3f}; resumed {'ok' if self.resumed else 'NO'}"
        attacks = f"attacks {'ok' if self.attacked else 'NO'}; {self.seconds:.0f} s; {self.memory / 2**20:.0f} MiB"
        return f"{self.table} {self.row}: {steps}; {attacks}" + (f"; FAILED: {self.error}" if self.error else "")


def dry_run(
    presets: Sequence[Preset],
    rows: Sequence[str] = (),
    *,
    batch: int = 2,
    workers: int = 1,
    threads: int = 1,
    device: str = "auto",
) -> Iterator[Rehearsal]:
    """Rehearse every cell of `presets` (one seed; some rows on request), in order, as they come.

    batch: images of a training step and of an attack. workers: cells at once, each in a process of `threads` torch
    threads. ValueError for an unknown row, no worker, or a batch below 2, which BatchNorm cannot train on."""
    if batch < 2:
        raise ValueError(f"batch must be at least 2, because of BatchNorm, not {batch}")
    if workers < 1:
        raise ValueError(f"a dry run needs at least one worker, not {workers}")
    check_cores(workers, threads)
    cells = [
        (preset, row, preset.experiment(row, preset.seeds[0])) for preset in presets for row in rows or preset.rows
    ]
    return _each(
        cells, batch, workers, threads, device
    )  # apart, so that bad input is told at once and not with the first cell


def _each(
    cells: Sequence[tuple[Preset, str, Experiment]], batch: int, workers: int, threads: int, device: str
) -> Iterator[Rehearsal]:
    def alone(cell: tuple[Preset, str, Experiment]) -> Rehearsal:
        preset, row, experiment = cell
        blank = Rehearsal(preset.name, row, experiment.method)
        with Worker(threads) as worker:
            try:
                return worker.submit(quietly, rehearse, blank, experiment, batch, device).result()
            except BrokenProcessPool:
                return replace(blank, error="the process died (out of memory?)")

    # The environment is set here for all: what each worker then sets and restores is what is there already.
    with threads_of_children(threads), ThreadPoolExecutor(workers) as at_once:
        try:
            yield from at_once.map(alone, cells)
        finally:
            at_once.shutdown(cancel_futures=True)


def rehearse(blank: Rehearsal, experiment: Experiment, batch: int, device: str) -> Rehearsal:
    """One cell, in this process: `blank` filled in, as far as it went."""
    began, rehearsal = time.monotonic(), blank
    try:
        experiment.check()
        data = random_data(experiment.data, Counts(2 * batch, batch, batch))  # two steps an epoch
        with tempfile.TemporaryDirectory() as folder:
            loss_1, loss_2 = _train(experiment, data, batch, Path(folder), device)
            rehearsal = replace(rehearsal, loss_1=loss_1, loss_2=loss_2, resumed=True)
            _attack(experiment, data, Path(folder), device)
            rehearsal = replace(rehearsal, attacked=True)
    except Exception as error:  # one broken cell must not take the others with it
        rehearsal = replace(rehearsal, error=" ".join(f"{type(error).__name__}: {error}".split()))
    return replace(rehearsal, seconds=round(time.monotonic() - began, 2), memory=peak_memory(device)[0])


def _train(experiment: Experiment, data: ImageData, batch: int, folder: Path, device: str) -> tuple[float, float]:
    """The losses of two steps, the second one made by another pair that went on from the first one's resume.pt."""
    warm_up = min(1, experiment.guide_warmup)
    recipe = replace(experiment, batch_size=batch, epochs=1, awp_warmup=0, guide_warmup=warm_up)

    def go(seed: int, stop: bool) -> tuple[Fit, int]:
        """What fit() says of a fresh pair, and how many steps it made."""
        steps: list[str] = []
        fitted = fit(
            build_pair(replace(experiment, seed=seed), data), data, recipe, folder, device=device,
            should_stop=lambda: stop, report=lambda done, words: steps.append(words),
        )  # fmt: skip
        return fitted, len(steps)

    first, steps = go(experiment.seed, stop=True)
    if first.status != "interrupted" or steps != 1:
        raise RuntimeError(f"the first step ended {first.status!r}, after {steps} steps")
    loss_1 = load_resume(folder / "resume.pt")["sums"]["loss"] / batch
    second, steps = go(experiment.seed + 1, stop=False)  # other weights, unless resume.pt replaces them
    if second.status.startswith("failed") or steps != 2 * (1 + warm_up) - 1:
        raise RuntimeError(f"training went on from the first step and ended {second.status!r}, after {steps} steps")
    return loss_1, 2 * second.history[0]["loss"] - loss_1  # history has the mean of both


def _attack(experiment: Experiment, data: ImageData, folder: Path, device: str) -> None:
    """All that a run measures of each of its checkpoints; then AutoAttack's four attacks, each by itself at a radius
    where no image falls, since in a row the first one may leave nothing for the others to do."""
    images = data.test.images.to(resolve(device))
    for checkpoint in experiment.checkpoints if experiment.attacks else ():
        pair = load_weights(folder / f"{checkpoint}.safetensors", build_pair(experiment, data)).to(images.device)
        pixels = data.test.pixels().to(images.device)
        test = Split(images, own_labels(pair.target, pixels))
        evaluation = evaluate_checkpoint(experiment, pair, test, checkpoint, folder=folder, budget=BUDGET)
        if missing := set(experiment.attacks) - evaluation["accuracy"].keys():
            raise RuntimeError(f"no flags of {sorted(missing)}")
        if "autoattack" in experiment.attacks and checkpoint == experiment.checkpoints[0]:
            for stage in STAGES:
                run_stage(pair.target, stage, pixels, test.labels, BUDGET.autoattack)


def write_log(path: Path, rehearsals: Sequence[Rehearsal]) -> None:
    """One line a cell, as CSV."""
    with write_atomically(path) as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Rehearsal)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(each) for each in rehearsals)
